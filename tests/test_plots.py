"""The loss plot shows both curves and the baseline, and says when the model is worse than the Gaussian."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from fastssm import plots
from fastssm.cli import main

figure = pytest.importorskip("matplotlib.figure")
STEPS = 20


def drawn(train: list[float], validation: list[float], baseline: float, loss: str = "sliced") -> Any:
    """Return the axes of the loss plot of a run with these curves."""
    rows = [
        {"step": 100 * i, "train_loss": t, "validation_loss": v}
        for i, (t, v) in enumerate(zip(train, validation, strict=True), 1)
    ]
    best = min(validation)
    outcome = SimpleNamespace(
        metrics=rows,
        measure=SimpleNamespace(name="exact score matching loss"),
        config=SimpleNamespace(loss=loss),
        prepared=SimpleNamespace(dataset=SimpleNamespace(name="rows")),
        baseline=SimpleNamespace(value=baseline),
        test=SimpleNamespace(value=best, error=0.1),
        validation=best,
        best_step=100 * (validation.index(best) + 1),
        beats_gaussian=best < baseline,
    )
    axes = figure.Figure().subplots()
    plots._draw_losses(axes, outcome)
    return axes


def share_in_view(axes: Any, values: list[float]) -> float:
    low, high = axes.get_ylim()
    return sum(low <= value <= high for value in values) / len(values)


def decaying(start: float, end: float) -> list[float]:
    return [end + (start - end) * 0.5**i for i in range(STEPS)]


CASES = [
    (decaying(2.0, -8.0), decaying(3.0, -7.0), -5.0),
    (decaying(1e6, -8.0), decaying(1e3, -7.0), -5.0),
    (decaying(2.0, -1.0), decaying(3.0, -0.5), -5.0),  # worse than the Gaussian
    (decaying(2.0, -1.0), decaying(3.0, -0.5), 400.0),
    (decaying(2.0, -90.0), decaying(3.0, -7.0), -5.0),  # training far below validation
    ([0.0] * STEPS, [0.0] * STEPS, 0.0),
]


@pytest.mark.parametrize(("train", "validation", "baseline"), CASES)
@pytest.mark.parametrize("loss", ["sliced", "denoising"])
def test_both_curves_and_the_baseline_are_in_view(
    train: list[float], validation: list[float], baseline: float, loss: str
) -> None:
    axes = drawn(train, validation, baseline, loss)
    other = [each for each in axes.figure.axes if each is not axes]
    assert len(other) == (loss == "denoising")
    assert share_in_view(axes, [baseline, min(validation)]) == 1
    assert share_in_view(axes, validation) >= 0.5
    assert share_in_view([*other, axes][0], train) >= 0.5
    low, high = axes.get_ylim()
    shown = [*validation[STEPS // 2 :], baseline, *(train[STEPS // 2 :] if loss == "sliced" else [])]
    assert high - low < 3 * max(max(shown) - min(shown), 1e-3)  # and not a line at the edge
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels[0] == f"training ({loss} loss)"
    assert labels[-1] == "fitted Gaussian (test rows)"


def test_the_title_says_when_the_gaussian_is_better() -> None:
    assert "worse than the Gaussian (-5.00)" in drawn(*CASES[2]).get_title()
    assert "worse" not in drawn(*CASES[0]).get_title()


def test_the_summary_says_when_the_gaussian_is_better(
    tmp_path: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--hidden", "8", "--evaluate-every", "1000", "--batch", "64"]
    for steps, worse in (("2", True), ("1500", False)):
        assert main(["train", "moons", "--steps", steps, "--lr", "0.01", *options]) == 0
        text = capsys.readouterr().out
        assert ("The network is worse than the Gaussian: do not use it. Train longer" in text) == worse
