"""Figures of a finished training run. They need matplotlib, imported on first use, but no display."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from fastssm.training import Outcome

BLUE, VERMILION, GREY = (
    "#0072B2",
    "#D55E00",
    "#666666",
)  # from the colour-blind safe palette of Okabe and Ito
GRID = 240
ARROWS = 24
POINTS = 5000
LARGEST_SAMPLE = 20_000  # about the most rows that quantiles and histograms are made of
EXTREMES = 5  # number of most and of least likely rows shown
PICTURES = 16  # the same, if the rows are images
ALIKE = ("sliced", "exact", "finite-difference", "composite")  # losses that estimate what is measured
LARGEST_TABLE = 16  # maximum number of columns shown


def draw_outcome(outcome: Outcome, path: Path) -> None:
    """Draw the density of two-dimensional data; otherwise losses, energies and extreme rows.

    Args:
        outcome: the finished run.
        path: path of the PNG file.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    if outcome.prepared.train.shape[1] == 2:
        draw_densities([outcome], path)
    else:
        _draw_tabular(outcome, path)


def draw_densities(outcomes: Sequence[Outcome], path: Path) -> None:
    """Draw two-dimensional data and the learned densities: side by side for one, in columns for several.

    Args:
        outcomes: finished runs on two columns.
        path: path of the PNG file.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    count = len(outcomes)
    figure = _figure(10.4, 4.9) if count == 1 else _figure(3.1 * count, 6.6)
    axes = figure.subplots(*((1, 2) if count == 1 else (2, count)), squeeze=False)
    pairs = [axes[0]] if count == 1 else axes.T
    for outcome, (data_axes, model_axes) in zip(outcomes, pairs, strict=True):
        extent = _extent(outcome)
        _draw_points(data_axes, outcome, extent)
        mappable, label = (_draw_density if outcome.config.kind == "energy" else _draw_field)(
            model_axes, outcome, extent
        )
        if count == 1:
            figure.colorbar(mappable, ax=model_axes, label=label)
        for panel in (data_axes, model_axes) if count > 1 else ():
            panel.set(xlabel="", ylabel="")
    figure.savefig(path)


def _figure(width: float, height: float) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("matplotlib is not installed (pip install matplotlib)") from None
    return Figure(figsize=(width, height), layout="constrained", dpi=130)


def _some(rows: Tensor) -> Tensor:
    """Return rows at equal distances, enough for a figure."""
    return rows[:: max(1, len(rows) // LARGEST_SAMPLE)]


def _extent(outcome: Outcome) -> tuple[float, float, float, float]:
    """Return left, right, bottom and top: the range of the data plus a margin, in data units."""
    rows = _some(outcome.prepared.dataset.rows)
    low, high = rows.quantile(0.0005, dim=0), rows.quantile(0.9995, dim=0)
    margin = 0.12 * (high - low)
    (left, bottom), (right, top) = (low - margin).tolist(), (high + margin).tolist()
    return left, right, bottom, top


def _frame(axes: Axes, outcome: Outcome, extent: tuple[float, float, float, float], title: str) -> None:
    left, right, bottom, top = extent
    axes.set(xlim=(left, right), ylim=(bottom, top), title=title)
    axes.set(xlabel=outcome.prepared.dataset.columns[0], ylabel=outcome.prepared.dataset.columns[1])
    axes.set_box_aspect(1)


def _draw_points(axes: Axes, outcome: Outcome, extent: tuple[float, float, float, float]) -> None:
    rows = outcome.prepared.dataset.rows[:POINTS].numpy()
    axes.scatter(rows[:, 0], rows[:, 1], s=2.0, color=BLUE, alpha=0.5, linewidths=0)
    _frame(axes, outcome, extent, f"{outcome.prepared.dataset.name}: data")


def _grid(extent: tuple[float, float, float, float], count: int) -> Tensor:
    """Return the centres of count x count cells, `[count * count, 2]`, x varying fastest."""
    left, right, bottom, top = extent
    centres = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    x, y = left + (right - left) * centres, bottom + (top - bottom) * centres
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).reshape(-1, 2)


def density_on_grid(outcome: Outcome, extent: tuple[float, float, float, float], count: int = GRID) -> Tensor:
    """Return `exp(-E)` on count x count cells (rows from bottom to top), normalised over them."""
    left, right, bottom, top = extent
    energy = evaluate(outcome.net, outcome.prepared.scaler.scale(_grid(extent, count))).double().flatten()
    cell = (right - left) * (top - bottom) / count**2
    return torch.softmax(-energy, 0).reshape(count, count) / cell


def _draw_density(axes: Axes, outcome: Outcome, extent: tuple[float, float, float, float]) -> tuple[Any, str]:
    density = density_on_grid(outcome, extent)
    image = axes.imshow(density.numpy(), extent=extent, origin="lower", cmap="viridis", aspect="auto", vmin=0)
    _frame(axes, outcome, extent, "learned density exp(−E) / Z")
    return image, "density"


def _draw_field(axes: Axes, outcome: Outcome, extent: tuple[float, float, float, float]) -> tuple[Any, str]:
    grid, scaler = _grid(extent, ARROWS), outcome.prepared.scaler
    scores = evaluate(outcome.net, scaler.scale(grid)).double() @ scaler.matrix.T  # chain rule, in data units
    length = scores.norm(dim=1, keepdim=True)
    arrows = scores / length * length.clamp(max=length.quantile(0.9)) ** 0.5
    rows = outcome.prepared.dataset.rows[:POINTS].numpy()
    axes.scatter(rows[:, 0], rows[:, 1], s=2.0, color="#CCCCCC", linewidths=0)
    columns = (*grid.T.numpy(), *arrows.T.numpy(), length.flatten().log10().numpy())
    quiver = axes.quiver(*columns, angles="xy", cmap="viridis", pivot="mid", width=0.004)
    _frame(axes, outcome, extent, "learned score (arrow length ∝ √|s|)")
    return quiver, "log₁₀ |s|"


@torch.no_grad()
def evaluate(net: nn.Module, scaled: Tensor) -> Tensor:
    """Return the output of the network on scaled rows, on the CPU."""
    device = next(net.parameters()).device
    return torch.cat([net(part.float().to(device)).cpu() for part in torch.split(scaled, 8192)])


def _draw_tabular(outcome: Outcome, path: Path) -> None:
    energies = outcome.config.kind == "energy"
    pictures = outcome.prepared.dataset.image is not None
    lower_height = 2.2 if pictures else 3.7
    figure = _figure(11.0, 3.9 + lower_height if energies else 4.2)
    if energies:
        upper, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=(3.9, lower_height))[:, 0]
        (_draw_pictures if pictures else _draw_rows)(lower, outcome)
    else:
        upper = figure
    left, right = upper.subplots(1, 2)
    _draw_losses(left, outcome)
    _draw_histograms(right, outcome)
    figure.savefig(path)


def _draw_losses(axes: Axes, outcome: Outcome) -> None:
    """Draw both curves and the baseline; a training loss that measures something else has its own axis."""
    steps = [row["step"] for row in outcome.metrics]
    train = [row["train_loss"] for row in outcome.metrics]
    validation = [row["validation_loss"] for row in outcome.metrics]
    measure, alike = outcome.measure.name.split()[0], outcome.config.loss in ALIKE
    beside = axes if alike else axes.twinx()
    curves = [
        *beside.plot(steps, train, color=VERMILION, lw=1.3, label=f"training ({outcome.config.loss} loss)"),
        *axes.plot(steps, validation, color=BLUE, lw=1.8, label=f"validation ({measure} loss, averaged weights)"),
        *axes.plot(
            [outcome.best_step], [outcome.validation], "o", color=BLUE, label=f"best, step {outcome.best_step:,}"
        ),
        axes.axhline(outcome.baseline.value, color=GREY, ls="--", lw=1.2, label="fitted Gaussian (test rows)"),
    ]
    axes.set(
        ylim=loss_limits([validation, *([train] if alike else [])], outcome.baseline.value),
        xlabel="step",
        ylabel="score matching loss",
    )
    if not alike:
        beside.set_ylim(loss_limits([train]))
        beside.set_ylabel(f"{outcome.config.loss} loss", color=VERMILION)
    worse = "" if outcome.beats_gaussian else f",\nworse than the Gaussian ({outcome.baseline.value:.2f})"
    test = f"test loss {outcome.test.value:.2f} ± {outcome.test.error:.2f}{worse}"
    axes.set_title(f"{outcome.prepared.dataset.name}: {test}", color="k" if outcome.beats_gaussian else VERMILION)
    axes.legend(handles=curves, frameon=False, fontsize=8)
    for each in {axes, beside}:
        each.spines[["top", "right"] if alike else ["top"]].set_visible(False)


def loss_limits(curves: Sequence[Sequence[float]], *also: float) -> tuple[float, float]:
    """Return limits that show some values and the later half of every curve, with what was before as far as it fits."""
    late = [value for curve in curves for value in curve[len(curve) // 2 :]] + [*also]
    early = [value for curve in curves for value in curve]
    low, high = min(late), max(late)
    room = max(high - low, 1e-3)
    low, high = max(min(early + late), low - 0.5 * room), min(max(early + late), high + 0.5 * room)
    margin = 0.1 * max(high - low, 1e-3)
    return low - margin, high + margin


def gaussian_rows(outcome: Outcome) -> Tensor:
    """Return rows drawn from a Gaussian fitted to the scaled training rows, as many as in the test set."""
    facts = outcome.model.facts
    generator = torch.Generator().manual_seed(0)
    centred = torch.randn(len(outcome.prepared.test), facts.features, generator=generator, dtype=torch.float64)
    variance, axes = torch.linalg.eigh(facts.covariance)
    deviation = (variance.clamp(min=0) + facts.noise**2).sqrt()
    rows: Tensor = facts.mean + (centred * deviation) @ axes.T
    return rows


def _draw_histograms(axes: Axes, outcome: Outcome) -> None:
    prepared, energies = outcome.prepared, outcome.config.kind == "energy"
    train = _some(prepared.train)
    noise = prepared.noise * torch.randn(train.shape, generator=torch.Generator().manual_seed(0))
    sources = {
        "training rows": (train + noise, VERMILION, "-"),
        "test rows": (prepared.test, BLUE, "-"),
        "rows from the fitted Gaussian": (gaussian_rows(outcome), GREY, "--"),
    }
    outputs = {name: evaluate(outcome.net, rows) for name, (rows, _, _) in sources.items()}
    values = {name: out.flatten() if energies else out.norm(dim=1) for name, out in outputs.items()}
    everything = torch.cat(list(values.values()))
    zero = torch.cat([values["training rows"], values["test rows"]]).min() if energies else 0.0
    span = (float(everything.min() - zero), float(everything.quantile(0.99) - zero))
    for name, (_, colour, style) in sources.items():
        shown = (values[name] - zero).clamp(*span).numpy()
        axes.hist(shown, bins=40, range=span, density=True, histtype="step", color=colour, ls=style, lw=1.5, label=name)
    axes.set_title("energies: lower is more likely" if energies else "norms of the score")
    axes.set(
        xlabel="E(x) − lowest energy of a row (last bin: and above)" if energies else "|s(x)| (last bin: and above)",
        ylabel="density of rows",
    )
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def ranked_test_rows(outcome: Outcome) -> tuple[Tensor, Tensor]:
    """Return the places of the test rows in the data set, from most to least likely, and their energies.

    The rows are those of the file, without the noise that is added to measure losses.
    """
    prepared = outcome.prepared
    original = prepared.dataset.original[prepared.test_index]
    energies, order = evaluate(outcome.net, prepared.scaler.scale(original)).flatten().sort()
    return prepared.test_index[order], energies


def _draw_rows(figure: Any, outcome: Outcome) -> None:
    ranked, _ = ranked_test_rows(outcome)
    dataset = outcome.prepared.dataset
    count = min(EXTREMES, len(ranked) // 2)
    shown = torch.cat([ranked[:count], ranked[len(ranked) - count :]])
    rows = dataset.original[shown, :LARGEST_TABLE]
    every = _some(dataset.original)[:, :LARGEST_TABLE]
    standard = (rows - every.mean(0)) / every.std(0)
    axes = figure.subplots()
    image = axes.imshow(standard.numpy(), cmap="PuOr", vmin=-4, vmax=4, aspect="auto")
    for (i, j), deviation in _enumerate(standard):
        axes.text(
            j, i, f"{rows[i, j]:.4g}", ha="center", va="center", color="w" if abs(deviation) > 2.6 else "k", fontsize=8
        )
    axes.axhline(count - 0.5, color="k", lw=1.5)
    names = [name if len(name) <= 14 else name.replace(" ", "\n", 1) for name in dataset.columns[:LARGEST_TABLE]]
    axes.set_xticks(range(len(names)), names, fontsize=8, rotation=0 if len(names) <= 12 else 30)
    axes.set_yticks(range(2 * count), [f"row {number:,}" for number in dataset.row_numbers[shown].tolist()], fontsize=8)
    for place, name in ((0.75, "most likely"), (0.25, "least likely")):
        axes.text(-0.08, place, name, transform=axes.transAxes, rotation=90, ha="center", va="center")
    axes.tick_params(length=0)
    wide = "" if len(dataset.columns) <= LARGEST_TABLE else f", first {LARGEST_TABLE} of {len(dataset.columns)} columns"
    axes.set_title(f"most and least likely test rows{wide}")
    figure.colorbar(image, ax=axes, label="standard deviations from the mean", pad=0.01)


def _enumerate(matrix: Tensor) -> Any:
    return (((i, j), value) for i, row in enumerate(matrix.tolist()) for j, value in enumerate(row))


def _draw_pictures(figure: Any, outcome: Outcome) -> None:
    ranked, energies = ranked_test_rows(outcome)
    image = outcome.prepared.dataset.image or (1, 1)
    count = min(PICTURES, len(ranked) // 2)
    every = _some(outcome.prepared.dataset.original)
    low, high = every.quantile(0.002).item(), every.quantile(0.998).item()
    figure.suptitle("most (above) and least likely test rows, with E(x) − lowest energy", fontsize=12)
    axes = figure.subplots(2, count, squeeze=False)
    for strip, part in zip(axes, (slice(0, count), slice(len(ranked) - count, None)), strict=True):
        pictures = outcome.prepared.dataset.original[ranked[part]].reshape(-1, *image)
        for cell, picture, energy in zip(strip, pictures, energies[part] - energies[0], strict=True):
            cell.imshow(picture.numpy(), cmap="gray", vmin=low, vmax=high)
            cell.set_title(f"{energy:.0f}", fontsize=8)
            cell.set_axis_off()
