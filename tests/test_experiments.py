"""Every experiment has its rows and its section, and the tables of the rows are means over seeds."""

from pathlib import Path

from bench import experiments
from bench.harness import read

ROOT = Path(__file__).parents[1]
NAMES = sorted(path.stem for path in (ROOT / "experiments").glob("*.py"))


def test_every_program_has_rows_and_a_section_and_rows_become_files_and_tables(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "experiments.md").read_text()
    assert NAMES
    for name in NAMES:
        rows = read(experiments.file_of(name))
        assert rows, f"{name} has no rows: run python -m experiments.{name}"
        assert tuple(rows[0])[: len(experiments.SHARED)] == experiments.SHARED
        assert all(row["machine"] and row["torch"] and row["threads"] and row["seed"] for row in rows), name
        assert f"`experiments/{name}.py`" in page, f"docs/experiments.md must name experiments/{name}.py"
    assert page.rstrip().rpartition("\n## ")[2].startswith("What we could not reproduce\n")

    values = {("a|b", "1"): [1.0, 2.0, 3.0], ("a|b", "2"): [5.0], ("c", "1"): [0.25, 0.25]}
    rows = [
        {"kind": kind, "n": n, "loss": str(value), "set": "x"} for (kind, n), found in values.items() for value in found
    ]
    rows += [{"kind": "c", "n": "1", "loss": "", "set": "x"}, {"kind": "c", "n": "1", "loss": "9", "set": "y"}]
    assert [*experiments.markdown(rows, "loss", "kind", "n", "set=x")] == [
        "| kind | 1 | 2 |",
        "|---|---:|---:|",
        r"| a\|b | 2.00 ± 0.58 | 5 |",
        "| c | 0.25 |  |",
    ]
    experiments.write([{"seed": 0, "auc": 0.5}, {"seed": 1, "more": 2}], tmp_path / "rows.csv")
    rows = read(tmp_path / "rows.csv")
    assert tuple(rows[0]) == (*experiments.SHARED, "auc", "more")
    assert [(row["seed"], row["auc"], row["more"]) for row in rows] == [("0", "0.5", ""), ("1", "", "2")]
    assert rows[0]["torch"]
    experiments.write(rows, None)
