"""The page about a run: one file, no requests, nothing of it unescaped."""

from __future__ import annotations

import base64
import html.parser
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from fastssm import plots, report, training
from fastssm.cli import main
from fastssm.report import page, write_report
from tests import browser
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
    assert [len(line.split()) for line in lines] == [4, 4, 4, 2 * 7]
    for line in lines:
        for point in line.split():
            x, y = map(float, point.split(","))
            assert report.LEFT - 1 <= x <= report.WIDTH - report.RIGHT + 1
            assert report.TOP - 1 <= y <= report.HEIGHT - report.BOTTOM + 1
    falls = [float(point.split(",")[1]) for point in lines[1].split()]
    losses = [row["validation_loss"] for row in finished.metrics]
    assert (falls[-1] > falls[0]) == (losses[-1] < losses[0])  # the axis points down


def test_a_loss_of_another_scale_is_drawn_by_itself(finished: training.Outcome) -> None:
    """Beside a training loss of 1000, nobody could tell the validation loss from the baseline."""
    model = finished.model.to("cpu")
    model.config = replace(model.config, loss="denoising")
    rows = [{"step": step, "train_loss": 1000.0 / step, "validation_loss": -1.0 - step} for step in (1, 2, 3, 4)]
    model.info = {"result": {"gaussian_test_loss": -4.0}}
    reader = Reader(page(model, rows, None))
    assert "denoising loss, training" in " ".join(reader.words)
    validation, gaussian, _, *_ = (str(line["points"]) for line in reader.tags("polyline"))
    heights = [float(point.split(",")[1]) for point in (*validation.split(), gaussian.split()[0])]
    assert max(heights) - min(heights) > 0.6 * (report.HEIGHT - report.TOP - report.BOTTOM)
    assert heights[2] == pytest.approx(heights[4], abs=0.1)  # -4 at step 3, and of the Gaussian


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


WIDER = """
[...document.querySelectorAll("body *")]
  .filter(e => e.getBoundingClientRect().right > innerWidth + 0.5)
  .map(e => e.tagName + " " + e.getBoundingClientRect().right)
"""
PICTURES = """
[...document.querySelectorAll("svg, img")].map(e => [e.tagName, e.clientWidth || e.getBoundingClientRect().width,
  e.getBoundingClientRect().height, e.naturalWidth ?? 1])
"""
CUT = """
[...document.querySelectorAll("svg text")]
  .map(e => [e, e.getBoundingClientRect(), e.closest("svg").getBoundingClientRect()])
  .filter(([e, a, b]) => a.left < b.left - 1 || a.right > b.right + 1 || a.top < b.top - 1 || a.bottom > b.bottom + 1)
  .map(([e]) => e.textContent)
"""


def test_a_browser_shows_the_page_at_any_width(finished: training.Outcome, folder: Path, tmp_path: Path) -> None:
    """Opened in Chromium, on a telephone and on a desk: nothing is wider than the page, nothing is asked of a host."""
    browser.chromium()
    pytest.importorskip("matplotlib")
    saved = json.loads((folder / "model.json").read_text())
    saved["data"]["name"] = "a_name_without_any_blank_" * 8
    (folder / "model.json").write_text(json.dumps(saved))
    rows = [{**row, "step": 5000 * row["step"]} for row in finished.metrics]  # wide labels on the axis
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    plots.draw_outcome(finished, folder / "figure.png")
    path = write_report(folder)
    with browser.page(tmp_path) as page:
        for width in (400, 1280):
            page.open(path, width)
            assert page.value("innerWidth") == width
            assert page.value("document.documentElement.scrollWidth") <= width
            assert page.value(WIDER) == page.value(CUT) == []
            pictures = page.value(PICTURES)
            assert [name.lower() for name, *_ in pictures] == ["svg", "svg", "img"]
            assert all(min(shown) > 0 and across > 0.5 * min(width, 640) for _, across, *shown in pictures)
            where = os.environ.get("FASTSSM_SCREENSHOTS")
            if where:
                (Path(where) / f"report-{width}.png").write_bytes(page.picture())
        assert {url.partition(":")[0] for url in page.requests} == {"file", "data"}
        assert [url for url in page.requests if url.startswith("file")] == [path.as_uri()] * 2
        assert page.complaints == []
        page.value("console.error('seen'); new Image().src = 'https://example.com/x.png'")
        page.value("1")
        assert any("seen" in text for text in page.complaints)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (200.0, 6000.0, [1000.0, 2000.0, 3000.0, 4000.0, 5000.0, 6000.0]),
        (-8.3, 4.4, [-8.0, -6.0, -4.0, -2.0, 0.0, 2.0, 4.0]),
        (1e-9, 3e-9, [1e-9, 1.5e-9, 2e-9, 2.5e-9, 3e-9]),
        (1e6, 1e6 + 1, [1e6, 1000000.2, 1000000.4, 1000000.6, 1000000.8, 1000001.0]),
    ],
)
def test_axes_have_round_numbers(low: float, high: float, expected: list[float]) -> None:
    assert report.round_numbers(low, high) == expected
