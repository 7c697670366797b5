"""What a new activation, loss or direction still lacks, in one sentence for each file; and the tables of the docs.

CONTRIBUTING.md has the recipes. These tests fail with the sentences of the steps that are missing.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import fastssm
import fastssm.diffusion
from fastssm.activations import TABLE, Activation
from fastssm.citations import CITED
from fastssm.directions import PROJECTIONS
from fastssm.nn import make_activation
from tests import covering
from tests.test_activations import KINKED, derivatives, smooth
from tests.test_fuzz import KINKED as KINKED_NAMES

ROOT = Path(__file__).parents[1]
TWINS = {"sliced_loss": "SlicedScoreLoss", "exact_loss": "ExactScoreLoss"}  # all others follow from the function's name
NOT_IN = {  # twins that a test or the command line does without
    "tests/test_compile.py": {"CompositeLoss", "ExactScoreLoss"},
    "tests/test_parallel.py": {"ExactScoreLoss", "MissingLoss"},  # the latter draws what fills gaps
    "src/fastssm/training/objectives.py": {
        "SlicedDiffusionLoss",
        "DensityRatioLoss",  # there is one table, and it needs two
        "MissingLoss",  # training scales a table and drops rows with gaps before a loss sees them
        "ManifoldLoss",  # training scales the columns of a table, which unit vectors and angles must not be
    },
}


def place(file: str) -> Path:
    """Return the path of a file of the repository; the package may be installed elsewhere."""
    inside = file.removeprefix("src/fastssm/")
    return ROOT / file if inside == file else Path(fastssm.__file__).parent / inside


def text(file: str) -> str:
    return place(file).read_text()


def names(word: str, file: str) -> bool:
    return re.search(rf"\b{re.escape(word)}\b", text(file)) is not None


def fail_with(sentences: list[str]) -> None:
    if sentences:
        pytest.fail("\n".join(["a step of CONTRIBUTING.md is missing:", *sentences]), pytrace=False)


def missing_of_activation(row: Activation) -> list[str]:
    """Return what is missing of an activation outside its row in the table."""
    found = []
    if f" {row.name}_jet(" not in text("csrc/maths/activations.h"):
        found.append(f"csrc/maths/activations.h has no {row.name}: run `make generate` and build again")
    if row.curved and row.name not in smooth(1.0):
        found.append(f"tests/test_activations.py has no reference for {row.module}: add {row.name!r} to smooth()")
    parameters = text("tests/test_generated.py").partition("PARAMETERS = {")[2].partition("}")[0]
    for name in row.parameters:
        if f'"{name}"' not in parameters:
            found.append(f"tests/test_generated.py has no value for {name} of {row.module}: add it to PARAMETERS")
    if not re.search(rf"`(?:fastssm\.nn\.)?{row.module}`", text("docs/recognised.md")):
        found.append(f"docs/recognised.md does not list {row.module}: add it to the table of activations")
    return found


def missing_of_kink(row: Activation) -> list[str]:
    """Return where an activation whose derivatives jump must be named."""
    module = make_activation(row.name)
    jumps = set()
    for kink in (-3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0, 6.0):
        slope, curvature = derivatives(module, torch.tensor([kink - 1e-9, kink + 1e-9], dtype=torch.float64))[1:3]
        if max(float((order[1] - order[0]).abs()) for order in (slope, curvature)) > 1e-3:
            jumps.add(kink)
    if not jumps:
        return []
    found = []
    if 0.0 in jumps and not isinstance(module, KINKED):
        found.append(f"tests/test_activations.py: add nn.{row.module} to KINKED, its derivatives jump at zero")
    if row.name not in KINKED_NAMES:
        found.append(f"tests/test_fuzz.py: add {row.name!r} to KINKED, its derivatives jump")
    return found


def test_every_activation_is_complete() -> None:
    fail_with([line for row in TABLE for line in missing_of_activation(row) + missing_of_kink(row)])


def test_the_documentation_lists_no_activation_that_does_not_exist() -> None:
    row = " ".join(section("docs/recognised.md", "Activations")[0])
    listed = re.findall(r"`(?:fastssm\.nn\.)?([A-Z]\w+)`", row)
    assert sorted(listed) == sorted({row.module for row in TABLE})


def missing_of_loss(package: str, name: str) -> list[str]:
    """Return what is missing of a public loss outside its own file."""
    twin = TWINS.get(name, name.title().replace("_", ""))
    root = package.replace(".", "/")
    found = []
    api = "\n".join(page.read_text() for page in (ROOT / "docs" / "api").glob("*.md"))
    if not hasattr(fastssm.diffusion if package == "fastssm.diffusion" else fastssm, twin):
        found.append(f"src/{root}/__init__.py does not export {twin}, the module twin of {name}")
    found += [
        f"docs/api/ has no entry for {public}: add `::: {package}.{public}` to the page of its topic"
        for public in (name, twin)
        if f"::: {package}.{public}\n" not in api
    ]
    pages = [str(page.relative_to(ROOT)) for page in (ROOT / "docs").rglob("*.md") if page.parent.name != "api"]
    if not any(names(name, page) for page in pages):
        found.append(f"no page describes {name}: add docs/losses/{name.removesuffix('_loss')}.md")
    if name not in CITED:
        found.append(f"src/fastssm/citations.py names no paper of {name}: add it to CITED, and the paper to papers.bib")
    if not names(name, "CHANGELOG.md"):
        found.append(f"CHANGELOG.md does not mention {name}")
    tests = [str(path.relative_to(ROOT)) for path in (ROOT / "tests").glob("test_*.py")]
    bad = [file for file in tests if Path(file).name.startswith("test_bad_")]
    if not any(names(name, file) for file in bad):
        found.append(f"no tests/test_bad_*.py passes wrong input to {name}: add its errors to one of them")
    if not any(names(name, file) for file in set(tests) - set(bad) - {"tests/test_migration.py"}):
        found.append(f"no test compares {name} with the oracle: add tests/test_{name}.py")
    for file, without in NOT_IN.items():
        if twin not in without and not names(twin, file):
            found.append(f"{file} does not run {twin}: add it to its table, or to NOT_IN in tests/test_scaffold.py")
    return found


LOSSES = [(package.__name__, name) for package in (fastssm, fastssm.diffusion) for name in package.__all__]
LOSSES = [(package, name) for package, name in LOSSES if name.endswith("_loss")]


def test_every_loss_is_complete() -> None:
    fail_with([line for package, name in LOSSES for line in missing_of_loss(package, name)])


def test_every_page_is_in_the_navigation() -> None:
    pages = sorted(str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md"))
    fail_with([f"mkdocs.yml has no entry for docs/{page}" for page in pages if f"- {page}\n" not in text("mkdocs.yml")])


def missing_of_direction(name: str) -> list[str]:
    """Return what is missing of a distribution of directions."""
    found = []
    if f"| `{name}` |" not in text("docs/mathematics.md"):
        found.append(f"docs/mathematics.md does not describe {name}: add it to the table of directions")
    if not names(name, "docs/quickstart.md"):
        found.append(f"docs/quickstart.md does not list {name}: add it to the section on directions")
    return found


@covering.each("name", PROJECTIONS)
def test_a_direction_is_complete(name: str) -> None:
    fail_with(missing_of_direction(name))


def test_the_sentences_name_the_file_and_the_step() -> None:
    row = Activation("tanhshrink2", "Tanhshrink2", lambda m, z: iter(()), ("slope",))
    assert missing_of_activation(row) == [
        "csrc/maths/activations.h has no tanhshrink2: run `make generate` and build again",
        "tests/test_activations.py has no reference for Tanhshrink2: add 'tanhshrink2' to smooth()",
        "tests/test_generated.py has no value for slope of Tanhshrink2: add it to PARAMETERS",
        "docs/recognised.md does not list Tanhshrink2: add it to the table of activations",
    ]
    loss = missing_of_loss("fastssm", "cauchy_loss")
    assert loss[0] == "src/fastssm/__init__.py does not export CauchyLoss, the module twin of cauchy_loss"
    assert len(loss) == 10
    assert len(missing_of_direction("cauchy")) == 2


def section(page: str, title: str) -> list[list[str]]:
    """Return the rows of the table in a section of a page."""
    body = text(page).partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    rows = [line.strip("|").split(" | ") for line in body.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row] for row in rows[1:]]


def test_the_table_of_tile_sizes_is_that_of_the_sources() -> None:
    rows = section("docs/architecture.md", "Tile sizes")
    assert len(rows) == 10
    for _, file, *cells in rows:
        path = file.strip("`")
        for constant in re.findall(r"`(\w+ = [^`]+)`", " ".join(cells)):
            assert constant in text(path), f"docs/architecture.md says {constant} in {path}, which does not"


def test_the_glossary_is_short_and_its_files_exist() -> None:
    rows = section("docs/architecture.md", "Glossary")
    assert 20 <= len(rows) <= 25
    files = [file for row in rows for file in re.findall(r"`([\w/]+(?:/|\.py|\.h))`", row[2])]
    assert [f for f in files if not place(f).exists() and not place(f"src/fastssm/{f}").exists()] == []
