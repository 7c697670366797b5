"""The documentation is true: its code runs, its figures are those of the files, its commands exist."""

import doctest
import importlib
import pkgutil
import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

import fastssm
from bench.harness import RESULTS, read
from bench.torch_path import COLUMNS, OUT
from fastssm.activations import TABLE
from fastssm.cli import main
from tools import fill_tables, rules_table
from tools.fill_tables import filled

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
OTHERS = [ROOT / name for name in ("CHANGELOG.md", "RELEASING.md", "SECURITY.md", "THIRD_PARTY.md")]
LIBRARY = "fastssm._cuda"  # which looks like a module, and is none
SUBMODULES = {found.name for found in pkgutil.walk_packages(fastssm.__path__, "fastssm.")} - {LIBRARY}
MODULES = sorted({"fastssm", *SUBMODULES} - {"fastssm.__main__"})


@pytest.fixture
def one_process_group():
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.fixture
def measurements(tmp_path, monkeypatch):
    """A folder with the files of the reader that the README names."""
    rows = np.random.default_rng(0).normal(size=(220, 3)) @ [[2.0, 0, 0], [1.0, 30.0, 0], [0, 0, 0.1]]
    for name, part in (("measurements.csv", rows[:200]), ("new.csv", rows[200:])):
        np.savetxt(tmp_path / name, part, delimiter=",", header="height,weight,age", comments="", fmt="%.4f")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def code_of(page):
    """Return the page's python blocks as one program whose line numbers are those of the page."""
    keep, lines = False, []
    for line in page.read_text().splitlines():
        fence = line.startswith("```")
        keep = line == "```python" if fence else keep
        lines.append(line if keep and not fence else "")
    return "\n".join(lines)


@pytest.mark.parametrize(
    "page",
    [p for p in [*PAGES, CONTRIBUTING] if code_of(p).strip() and p.parent.name != "notebooks"],
    ids=lambda p: p.name,
)
@pytest.mark.usefixtures("one_process_group")
def test_the_code_of_each_page_runs(page, monkeypatch, request):
    torch.manual_seed(0)
    if page.name == "README.md":  # which trains on a file of the reader's
        request.getfixturevalue("measurements")
    module = types.ModuleType(page.stem)
    monkeypatch.setitem(sys.modules, page.stem, module)  # where torch.compile finds the globals of its classes
    exec(compile(code_of(page), page.name, "exec"), module.__dict__)


def test_the_commands_of_the_readme_run(measurements, capsys):
    """From a file to scores and samples, in the order of the page."""
    part = (ROOT / "README.md").read_text().partition("## From a CSV file to anomaly scores")[2]
    commands = [line.partition("#")[0].split() for line in part.split("```")[1].splitlines()[1:]]
    assert len(commands) == 3
    commands[0] += ["--steps", "20", "--hidden", "8"]
    for program, *arguments in commands:
        assert program == "fastssm"
        assert main(arguments) == 0
    assert "training on 3 columns: height, weight, age" in capsys.readouterr().out
    scores, samples = ((measurements / name).read_text().splitlines() for name in ("scores.csv", "samples.csv"))
    assert scores[0] == "row,energy,anomaly"
    assert len(scores) == 1 + 20
    assert samples[0] == "height,weight,age"
    assert len(samples) == 1 + 1000


def test_docstring_examples(subtests):
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    for name in MODULES:
        with subtests.test(name):
            torch.manual_seed(0)
            module = importlib.import_module(name)
            names = {"torch": torch, "nn": torch.nn, "fastssm": fastssm, **vars(module)}
            assert doctest.testmod(module, extraglobs=names, optionflags=options).failed == 0


def test_every_public_name_has_a_page_and_an_example():
    api = "\n".join(page.read_text() for page in (ROOT / "docs" / "api").glob("*.md"))
    public = [name for name in fastssm.__all__ if callable(getattr(fastssm, name))]
    assert [name for name in public if f"::: fastssm.{name}\n" not in api] == []


def test_every_rule_of_the_sweeps_is_traced_to_its_recursion():
    rules = set(re.findall(r"INLINE V (\w+)\(", (ROOT / "csrc" / "maths" / "sweep.h").read_text()))
    table = (ROOT / "docs" / "mathematics.md").read_text().partition("| recursion |")[2].partition("\n\n")[0]
    assert set(re.findall(r"\| `(\w+)` \|", table)) == rules


def test_the_list_of_activations_is_complete():
    listed = re.findall(r"`(?:fastssm\.nn\.)?(\w+)`", (ROOT / "docs" / "recognised.md").read_text())
    assert {row.module for row in TABLE} - set(listed) == set()


def test_the_architecture_names_every_module():
    modules = {name.split(".")[1] for name in SUBMODULES} - {"__main__"}
    listed = re.findall(r"`(\w+)`", (ROOT / "docs" / "architecture.md").read_text())
    assert modules - set(listed) == set()


def test_commands_and_files_that_pages_name_exist():
    makefile, wrong = (ROOT / "Makefile").read_text(), []
    for page in [*PAGES, CONTRIBUTING, *OTHERS]:
        text = page.read_text()
        commands = set(re.findall(r"^make ([\w-]+)|`make ([\w-]+)", text, re.MULTILINE))
        missing = [c for pair in commands for c in pair if c and not re.search(rf"^{c}:", makefile, re.MULTILINE)]
        links = re.findall(r"\]\((?!http|#)([^)\s#]+)", text)
        wrong += [(page.name, name) for name in missing + [x for x in links if not (page.parent / x).exists()]]
    assert wrong == []


def test_the_benchmark_tables_are_those_of_the_file():
    rows = read(OUT)
    assert rows
    texts = {page: page.read_text() for page in fill_tables.PAGES}
    assert [name for name, text in texts.items() if filled(text, rows) != text] == []
    assert len([name for name, text in texts.items() if "<!-- table:" in text]) >= 12
    examples = [row["example"] for row in read(RESULTS / "examples.csv")]
    shown = re.findall(r"<!-- table: examples \| (\w+) -->", "".join(texts.values()))
    assert set(shown) <= set(examples)


def test_the_table_of_rules_has_every_family_and_no_function_that_is_refused():
    families = rules_table.functions()
    assert all(families.values())
    listed = set().union(*families.values())
    assert {"conv2d", "logsigmoid", "layer_norm", "rms_norm", "cat", "chunk", "T", "fft.rfft", "add_", "topk"} <= listed
    assert listed.isdisjoint({"cross_entropy", "lstm", "size", "shape"})
    page = (ROOT / "docs" / "your_network.md").read_text()
    assert filled(page.replace("`rms_norm`", ""), []) == page


def test_a_rule_without_a_family_is_noticed():
    with pytest.raises(LookupError, match="add it to FAMILIES"):
        rules_table.family_of(test_a_rule_without_a_family_is_noticed)


def test_a_changed_figure_is_noticed():
    row = dict.fromkeys(COLUMNS, "") | {"status": "ok", "min_ms": "1.5", "threads": "1", "contender": "autograd"}
    row |= dict(zip("dHLBM", "12345", strict=True)) | {"loss": "SSM", "mode": "forward"}
    page = filled("<!-- table: forward | SSM | 1 -->\n<!-- end -->", [row])
    assert "| autograd | 1.5 |" in page
    assert filled(page, [row]) == page
    assert filled(page.replace("1.5", "1.4"), [row]) == page
