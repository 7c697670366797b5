"""The page about a run: one file, no requests, nothing of it unescaped."""

from __future__ import annotations

import base64
import html.parser
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from fastssm import report, training
from fastssm.cli import main
from fastssm.report import page, write_report
from tests.test_model import SMALL, table
from tests.test_training import ALONE, Recorder, replace

VOID = {"meta", "img", "polyline", "line"}
NASTY = "<script src=https://example.com/x.js>\"'&"


class Reader(html.parser.HTMLParser):
    """Keeps the elements of a page, and checks that they are closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def tags(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.found if tag == name]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> training.Outcome:
    folder = tmp_path_factory.mktemp("run")
    config = replace(SMALL, data=str(table(folder / "table.csv")), steps=20, evaluate_every=5)
    return training.train(config, folder / "out", ranks=ALONE, reporter=Recorder())


@pytest.fixture
def folder(finished: training.Outcome, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished.folder, tmp_path / "copy"))


def assert_alone(reader: Reader) -> None:
    """Nothing in the page makes a browser ask for anything."""
    assert not {"script", "link", "iframe", "object", "embed", "form", "a", "base"} & {tag for tag, _ in reader.found}
    for _, attributes in reader.found:
        assert not {"href", "srcset", "poster", "action", "formaction"} & set(attributes)
        assert not [name for name in attributes if name.startswith("on")]
        assert str(attributes.get("src", "data:")).startswith("data:")
    policy = next(m for m in reader.tags("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy["content"] == report.POLICY


def test_the_command_writes_one_page(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = b"\x89PNG\r\n\x1a\n rest"
    (folder / "figure.png").write_bytes(picture)
    assert main(["report", str(folder)]) == 0
    assert capsys.readouterr().out == f"report: {folder / 'report.html'}\n"
    text = (folder / "report.html").read_text(encoding="utf-8")
    reader = Reader(text)
    assert_alone(reader)
    assert "url(" not in text
    words = " ".join(reader.words)
    result = json.loads((folder / "result.json").read_text())
    for value in (f"{result['test_loss']:.6g}", f"{result['gaussian_test_loss']:.6g}", "sliced", "torch", "best step"):
        assert value in words
    (image,) = reader.tags("img")
    assert base64.b64decode(str(image["src"]).partition("base64,")[2]) == picture
    assert len(reader.tags("svg")) == 2
    out = tmp_path / "page.html"
    assert main(["report", str(folder), "--out", str(out)]) == 0
    assert out.read_text(encoding="utf-8") == text
    assert main(["report", str(folder), "--out", str(tmp_path / "no" / "page.html")]) == 2
    assert "there is no folder" in capsys.readouterr().err
    assert main(["report", str(tmp_path / "absent")]) == 2


def test_both_curves_and_the_baseline_are_drawn(finished: training.Outcome, folder: Path) -> None:
    text = write_report(folder).read_text(encoding="utf-8")
    lines = [str(line["points"]) for line in Reader(text).tags("polyline")]
    assert [len(line.split()) for line in lines] == [4, 4, 2, 2 * report.BINS]
    for line in lines:
        for point in line.split():
            x, y = map(float, point.split(","))
            assert report.LEFT - 1 <= x <= report.WIDTH - report.RIGHT + 1
            assert report.TOP - 1 <= y <= report.HEIGHT - report.BOTTOM + 1
    falls = [float(point.split(",")[1]) for point in lines[1].split()]
    losses = [row["validation_loss"] for row in finished.metrics]
    assert (falls[-1] > falls[0]) == (losses[-1] < losses[0])  # the axis points down


def test_it_says_when_the_gaussian_is_better(finished: training.Outcome) -> None:
    model = finished.model
    for beats, said in ((False, True), (True, False)):
        model.info["result"]["beats_gaussian"] = beats
        assert ("is worse than a Gaussian" in page(model, finished.metrics, None)) == said


def test_nothing_of_the_run_is_markup(folder: Path) -> None:
    saved = json.loads((folder / "model.json").read_text())
    saved["data"]["name"] = saved["config"]["data"] = saved["device"] = NASTY
    saved["result"]["ending"] = saved["result"]["measure"] = NASTY
    saved["versions"][NASTY] = NASTY
    saved["reading"] = None
    saved["columns"] = [NASTY, "b", "c"]
    (folder / "model.json").write_text(json.dumps(saved))
    (folder / "figure.png").write_bytes(b"<svg onload=alert(1)>")
    reader = Reader(write_report(folder).read_text(encoding="utf-8"))
    assert_alone(reader)
    assert " ".join(reader.words).count("example.com") >= 7
    assert reader.tags("img") == []


@pytest.mark.parametrize("text", ["", "[1]\n2\n", '{"step": 1}\n', '{"step": "x", "train_loss": 1}\n', "{"])
def test_odd_metrics_draw_no_curves(folder: Path, text: str) -> None:
    (folder / "metrics.jsonl").write_text(text)
    assert len(Reader(write_report(folder).read_text(encoding="utf-8")).tags("svg")) == 1


@pytest.mark.parametrize("text", ["{\n", "\xff\n", "[" * 100_000 + "\n"])
def test_unreadable_metrics_end_in_a_sentence(folder: Path, text: str) -> None:
    (folder / "metrics.jsonl").write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=r"metrics\.jsonl is not readable; remove it, or train the model again"):
        write_report(folder)


def test_a_model_without_much_information_has_a_page(finished: training.Outcome) -> None:
    model = finished.model.to("cpu")
    model.info, model.held_out = {"result": 3, "data": None}, None
    Reader(page(model, [], None))
    model.held_out = torch.ones(3).double()
    Reader(page(model, [{"step": 1, "train_loss": 2.0, "validation_loss": 2.0}], None))
