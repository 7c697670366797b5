"""The pages that are read first: short, linked, and with measured numbers only in tables that a program fills."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench import summary
from bench.harness import RESULTS
from bench.measure import Row
from bench.problems import Size
from tests import covering

ROOT = Path(__file__).parents[1]
READ_FIRST = ("README.md", "docs/index.md", "docs/benchmarks.md", "docs/faq.md", "docs/glossary.md")
MEASURED = re.compile(r"\d\s?(?:×|ms\b|µs\b|[MG]iB\b|GFLOP)|\d times (?:as )?fast")


def text(page: str) -> str:
    return (ROOT / page).read_text()


def prose(markdown: str) -> str:
    """Return a page without its code and without the tables that a program fills."""
    without = re.sub(r"<!-- table:.*?<!-- end -->", "", markdown, flags=re.DOTALL)
    return re.sub(r"```.*?```", "", without, flags=re.DOTALL)


def test_the_readme_is_short_and_shows_every_processor() -> None:
    readme = text("README.md")
    assert len(readme.splitlines()) <= 150
    tables = re.findall(r"<!-- table: summary \| (\w+) \| SSM-VR -->\n\n(.*?)\n\n<!-- end -->", readme, re.DOTALL)
    assert [name for name, _ in tables] == ["processors", "kinds"]
    columns = {path: path.read_text().partition("\n")[0].split(",") for path in RESULTS.glob("[cg]pu_*.csv")}
    measured = {path for path, names in columns.items() if {"best_rival", "bridge"} & set(names)}
    assert measured == {*summary.PROCESSORS.values(), summary.GPU}, "bench/summary.py leaves a processor out"


@covering.each("page", READ_FIRST)
def test_measured_numbers_stand_in_filled_tables_alone(page: str) -> None:
    assert MEASURED.findall(prose(text(page))) == []


def test_each_answer_is_short_and_has_a_link() -> None:
    sections = text("docs/faq.md").split("\n## ")[1:]
    assert len(sections) >= 12
    for section in sections:
        title, _, answer = section.partition("\n")
        assert title.endswith("?")
        assert len([line for line in prose(answer).splitlines() if line.strip()]) <= 6, title
        assert re.search(r"\]\([\w/]+\.md", answer), f"{title} has no link"


def test_the_glossary_is_short_sorted_and_linked() -> None:
    rows = re.findall(r"^\| (?!term|---)(.+?) \| (.+) \|$", text("docs/glossary.md"), re.MULTILINE)
    assert 20 <= len(rows) <= 30
    assert [meaning for _, meaning in rows if not re.search(r"\]\([\w/]+\.md", meaning)] == []
    terms = [term.strip("`").lower() for term, _ in rows]
    assert terms == sorted(terms)


def test_the_benchmarks_show_the_figures_that_are_drawn(tmp_path: Path) -> None:
    plots = pytest.importorskip("bench.summary_plots", reason="matplotlib draws", exc_type=ImportError)
    plots.draw(tmp_path)
    shown = re.findall(r"!\[(.+?)\]\(figures/(.+?)\)", text("docs/benchmarks.md"))
    assert sorted(name for _, name in shown) == sorted(path.name for path in tmp_path.iterdir())
    assert min(len(alternative) for alternative, _ in shown) > 50


def gpu_row(contender: str, event: str, size: str = "2,64,2,128,1") -> Row:
    return dict(zip("dHLBM", size.split(","), strict=True)) | {"loss": "SSM", "contender": contender, "event_us": event}


def test_a_gpu_has_a_rival_only_where_one_ran() -> None:
    rows = [gpu_row("fastssm cuda", "10"), gpu_row("autograd", "40"), gpu_row("Taylor", "20"), gpu_row("Slow", "30")]
    rows += [gpu_row("fastssm cuda", "10", "2,8,1,4,1"), gpu_row("autograd", "15", "2,8,1,4,1")]
    found = summary.of_gpu([*rows, gpu_row("fastssm torch", "1"), gpu_row("JAX", "")])
    assert str(found[Size(2, 64, 2, 128, 1)]) == "4.0× / 2.00×"
    assert str(found[Size(2, 8, 1, 4, 1)]) == "1.5× / –"


def test_a_missed_target_has_a_sentence_with_the_worst_case() -> None:
    def verdict(quantity: str, sense: str, bound: float, measured: float | None, met: bool) -> summary.Verdict:
        return summary.Verdict({"at": f"case {measured}"}, quantity, sense, bound, measured, met)

    verdicts = [
        verdict("x_best_rival", ">=", 1.4, 1.5, True),
        verdict("x_best_rival", ">=", 1.4, 1.2, False),
        verdict("x_best_rival", ">=", 1.1, 0.9, False),
        verdict("microseconds", "<=", 40, 50, False),
        verdict("microseconds", "<=", 40, 44, False),
        verdict("of_peak", ">=", 0.8, 0.9, True),
        verdict("of_peak", ">=", 0.8, None, False),
    ]
    slow, late = "the speed-up over the strongest rival", "the overhead of a call in microseconds"
    assert list(summary.sentences("CPU", verdicts, lambda row: row["at"])) == [
        f"- **CPU**, {slow}: missed in 2 of 3 cases; the worst is 0.9 for case 0.9, where the target is 1.1.",
        f"- **CPU**, {late}: missed in 2 of 2 cases; the worst is 50 for case 50, where the target is 40.",
    ]
