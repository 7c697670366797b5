"""Notebooks: stored without outputs, in the shape of their pages, and a bar of progress that suits them."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench import notebooks
from bench.harness import read
from fastssm.training import Progress, StepRecord
from tests.covering import each

ROOT = Path(__file__).parents[1]
NAMES = ["causal_discovery", "diffusion_likelihood", "image_energy", "quickstart"]


def stripped(text: str) -> list[str]:
    """Return what a notebook has that must not be stored: outputs, counts, and what editors leave."""
    book = json.loads(text)
    code = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    found = [f"cell {number} has outputs" for number, cell in enumerate(code) if cell["outputs"]]
    found += [f"cell {number} has a count" for number, cell in enumerate(code) if cell["execution_count"] is not None]
    found += [f"metadata {name}" for cell in book["cells"] for name in set(cell["metadata"]) - notebooks.KEPT]
    return found + [f"metadata {name}" for name in set(book["metadata"]) - {"kernelspec", "language_info"}]


@each("path", notebooks.NOTEBOOKS, label=lambda path: path.stem)
def test_a_notebook_is_stored_without_outputs_and_has_a_title_and_parameters(path: Path) -> None:
    text = path.read_text()
    assert stripped(text) == [], "run `make notebooks ARGS=--strip`"
    first, second, *rest = notebooks.cells_of(path)
    assert first["source"].startswith("# ")
    assert second["metadata"]["tags"] == ["parameters"]
    drawn = [cell for cell in rest if re.search(r"^(plt\.)?show\(", cell["source"], re.MULTILINE)]
    assert drawn
    assert [cell["id"] for cell in drawn if not cell["metadata"].get("alt")] == []
    assert len({cell["id"] for cell in [first, second, *rest]}) == 2 + len(rest)


def test_outputs_are_noticed_and_removed(tmp_path: Path) -> None:
    book = json.loads(notebooks.NOTEBOOKS[0].read_text())
    code = next(cell for cell in book["cells"] if cell["cell_type"] == "code")
    code |= {"outputs": [{"output_type": "stream", "name": "stdout", "text": "3"}], "execution_count": 1}
    code["metadata"]["collapsed"] = True
    book["metadata"]["widgets"] = {}
    edited = tmp_path / "edited.ipynb"
    edited.write_text(json.dumps(book))
    assert len(stripped(edited.read_text())) == 4
    notebooks.strip(edited)
    assert edited.read_text() == notebooks.NOTEBOOKS[0].read_text()


@each("path", notebooks.NOTEBOOKS, label=lambda path: path.stem)
def test_a_page_shows_the_notebook_as_it_was_last_run(path: Path) -> None:
    rows = [row for row in read(notebooks.OUT) if row["notebook"] == path.stem]
    assert {row["digest"] for row in rows} == {notebooks.digest(path)}, "run `make notebooks`"
    page = (notebooks.PAGES / f"{path.stem}.md").read_text()
    assert page == notebooks.page(path, rows), "run `make notebooks ARGS=--pages`"
    figures = [row["text"] for row in rows if row["kind"] == "figure"]
    assert figures
    assert [name for name in figures if not (notebooks.FIGURES / name).exists()] == []
    assert page.count("![") == len(figures)
    assert "![](" not in page


def test_every_notebook_has_a_page_and_every_page_a_notebook() -> None:
    assert [path.stem for path in notebooks.NOTEBOOKS] == NAMES
    assert sorted(path.stem for path in notebooks.PAGES.glob("*.md")) == NAMES
    assert {row["notebook"] for row in read(notebooks.OUT)} == set(NAMES)


def test_a_smoke_run_has_small_numbers(tmp_path: Path) -> None:
    path = next(path for path in notebooks.NOTEBOOKS if path.stem == "quickstart")
    whole, small = ({}, {})  # type: tuple[dict[str, Any], dict[str, Any]]
    exec(notebooks.cells_of(path)[1]["source"], whole)
    exec(notebooks.cells_of(path, smoke=True)[1]["source"], small)
    assert small["steps"] < 50 < whole["steps"]


# Progress


def records(steps: int) -> list[StepRecord]:
    """Return the records of a training that evaluates at its end."""
    every = [StepRecord(step, steps, -1.5, 1e-3, 0.1) for step in range(1, steps)]
    return [*every, StepRecord(steps, steps, -2.0, 1e-3, 0.1, train_loss=-1.75, validation_loss=-2.25)]


def test_progress_is_a_line_outside_a_notebook(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress()
    for record in [*records(10), *records(3)]:
        progress(record)
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("step 10/10  loss    -1.7500  validation    -2.2500")
    assert second.startswith("step 3/3  loss")


def test_progress_is_one_bar_in_a_notebook(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pictures: list[dict[str, str]] = []

    def display(data: dict[str, str], *, raw: bool, display_id: bool = False) -> SimpleNamespace:
        assert raw
        pictures.append(data)
        return SimpleNamespace(update=display)

    ipython = SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=object()))
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=display))
    progress = Progress()
    for record in records(1000):
        progress(record)
    assert len(pictures) < 10
    assert pictures[0]["text/plain"] == "step 0/1000"
    assert pictures[-1]["text/plain"] == "step 1000/1000  loss -1.750  validation -2.250"
    assert '<progress value="1000" max="1000"' in pictures[-1]["text/html"]
    assert capsys.readouterr().out == ""
