"""A page about a trained model: results, figures and settings in one HTML file that asks for nothing else."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import torch

from fastssm.plots import ALIKE, BLUE, GREY, VERMILION, loss_limits
from fastssm.training import Model, checkpoint, load

REPORT = "report.html"
WIDTH, HEIGHT = 640, 300  # of a figure, in its own units
LEFT, RIGHT, TOP, BOTTOM = 84, 12, 12, 46  # margins of a figure
BINS = 40  # of a histogram, at most; one for four rows
STYLE = """
:root { color-scheme: light dark; --line: #8884; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem; overflow-wrap: anywhere; }
h1 { line-height: 1.2; } .worse { color: #D55E00; font-weight: 600; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; }
td, th { text-align: left; padding: .25rem .75rem .25rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { width: 40%; overflow-wrap: break-word; }
td.number { white-space: nowrap; font-variant-numeric: tabular-nums; }
img, svg { max-width: 100%; height: auto; display: block; } img { background: #fff; }
svg text { font: 12px system-ui, sans-serif; fill: currentColor; } figure { margin: 1rem 0; }
@media (max-width: 40rem) { h1 { font-size: 1.5rem; } svg text { font-size: 17px; } }
"""
TEXT, NUMBER = "<td>", '<td class="number">'
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"  # the browser blocks every request


def write_report(run: str | Path, out: str | Path | None = None) -> Path:
    """Write a page about a finished run of `fastssm train`.

    Args:
        run: the output folder of the run.
        out: the file; `report.html` in the folder if None.

    Returns:
        The path of the file.

    Raises:
        ValueError: if the folder holds no whole model.

    Example:
        >>> write_report("runs/white-wine")  # doctest: +SKIP
    """
    folder = Path(run)
    path = folder / REPORT if out is None else Path(out)
    text = page(load(folder), _metrics(folder), _picture(folder))
    checkpoint.write_atomically(path, lambda file: file.write(text.encode()))
    return path


def page(model: Model, metrics: Sequence[dict[str, Any]], picture: bytes | None) -> str:
    """Return the page of a model, with the rows of its metrics and the figure of its training."""
    result, data = _part(model.info, "result"), _part(model.info, "data")
    name = str(data.get("name", model.config.data))
    parts = [
        f"<h1>{escape(name)}: {escape(model.kind)} network by the {escape(model.config.loss)} loss</h1>",
        _verdict(result),
        _section("Results", _table(_results(model, result, data))),
        _section("Losses", _losses(metrics, result, model.config.loss)),
        _section("Energies of held-out rows", _energies(model)),
        _section("Figure of the training", _image(picture)),
        _section("Columns", "<p>" + ", ".join(f"<code>{escape(column)}</code>" for column in model.columns) + "</p>"),
        _section("Settings", _table(vars(model.config).items())),
        _section("Made with", _table(_made(model))),
    ]
    head = (
        f'<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}"><title>{escape(name)}</title>'
    )
    body = "\n".join(part for part in parts if part)
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}<style>{STYLE}</style></head>\n<body>\n{body}\n</body></html>\n'
    )


def _metrics(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of the metrics that are whole."""
    names = ("step", "train_loss", "validation_loss")
    try:
        rows = checkpoint.read_metrics(folder)
    except (OSError, ValueError, RecursionError):
        raise ValueError(
            f"{folder / checkpoint.METRICS} is not readable; remove it, or train the model again"
        ) from None
    return [row for row in rows if isinstance(row, dict) and all(_is_number(row.get(name)) for name in names)]


def _picture(folder: Path) -> bytes | None:
    path = folder / "figure.png"
    content = path.read_bytes() if path.is_file() else b""
    return content if content.startswith(b"\x89PNG\r\n\x1a\n") else None


def _part(info: dict[str, Any], name: str) -> dict[str, Any]:
    found = info.get(name)
    return found if isinstance(found, dict) else {}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _section(title: str, content: str) -> str:
    return f"<h2>{title}</h2>\n{content}" if content else ""


def _verdict(result: dict[str, Any]) -> str:
    if result.get("beats_gaussian") is not False:
        return ""
    return '<p class="worse">The network is worse than a Gaussian with the training rows\' mean and covariance.</p>'


def _results(model: Model, result: dict[str, Any], data: dict[str, Any]) -> Iterable[tuple[str, Any]]:
    yield "rows", data.get("rows")
    yield "columns", len(model.columns)
    yield "parameters", sum(parameter.numel() for parameter in model.net.parameters())
    measure = result.get("measure", "loss")
    yield f"{measure} on the test rows (lower is better)", result.get("test_loss")
    yield "its standard error", result.get("test_loss_standard_error")
    yield "the same of a fitted Gaussian", result.get("gaussian_test_loss")
    for name in ("best_step", "steps", "ending", "seconds"):
        yield name.replace("_", " "), result.get(name)


def _made(model: Model) -> Iterable[tuple[str, Any]]:
    yield from _part(model.info, "versions").items()
    yield "device", model.info.get("device")
    yield "fingerprint of the rows", _part(model.info, "data").get("fingerprint")


def _table(rows: Iterable[tuple[str, Any]]) -> str:
    lines = [
        f"<tr><th>{escape(str(name))}</th>{NUMBER if _is_number(value) else TEXT}{_cell(value)}</td></tr>"
        for name, value in rows
        if value not in (None, (), [])
    ]
    return f'<div class="scroll"><table>{"".join(lines)}</table></div>'


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return escape(", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value))


def _image(picture: bytes | None) -> str:
    if picture is None:
        return ""
    return f'<img alt="figure of the training" src="data:image/png;base64,{base64.b64encode(picture).decode()}">'


def _losses(metrics: Sequence[dict[str, Any]], result: dict[str, Any], loss: str) -> str:
    """Draw both curves and the baseline; the training loss by itself where it is not what is measured."""
    if not metrics:
        return ""
    steps = [float(row["step"]) for row in metrics]
    curves = {name: [float(row[f"{name}_loss"]) for row in metrics] for name in ("train", "validation")}
    gaussian = result.get("gaussian_test_loss")
    also = (float(gaussian),) if isinstance(gaussian, int | float) and math.isfinite(gaussian) else ()
    training = ("training", VERMILION, curves["train"])
    shown = [("validation", BLUE, curves["validation"]), *(("fitted Gaussian", GREY, [v] * len(steps)) for v in also)]
    if loss in ALIKE:
        return _curves(steps, [training, *shown], "step")
    return _curves(steps, shown, "step") + _curves(steps, [(f"{loss} loss, training", *training[1:])], "step")


def _curves(steps: Sequence[float], curves: Sequence[tuple[str, str, list[float]]], label: str) -> str:
    """Draw named and coloured curves; grey ones are dashed."""
    axes = _Axes((min(steps), max(steps)), loss_limits([values for *_, values in curves]))
    marks = [
        axes.line(list(zip(steps, values, strict=True)), colour, "6 4" if colour == GREY else "")
        for _, colour, values in curves
    ]
    return axes.figure(marks, label, [(name, colour) for name, colour, _ in curves])


def _energies(model: Model) -> str:
    """Draw a histogram of the energies of the held-out rows."""
    held_out = model.held_out
    if held_out is None or not bool(held_out[-1] > held_out[0]):
        return ""
    low, high = float(held_out[0]), float(held_out.quantile(0.99))
    high = high if high > low else float(held_out[-1])
    bins = max(5, min(BINS, len(held_out) // 4))
    counts = torch.histc(held_out.clamp(max=high), bins, low, high)
    axes = _Axes((low, high), (0.0, 1.05 * float(counts.max())))
    edges = [low + (high - low) * index / bins for index in range(bins + 1)]
    path = [(edge, count) for index, count in enumerate(counts.tolist()) for edge in edges[index : index + 2]]
    return axes.figure([axes.line(path, BLUE)], "energy: lower is more likely (last bin: and above)", [("rows", BLUE)])


def round_numbers(low: float, high: float) -> list[float]:
    """Return three to eight numbers for an axis, multiples of 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10((high - low) / 3))
    step = next(power * times for times in (10, 5, 2, 1) if (high - low) / (power * times) >= 3)
    return [0.0 + float(f"{index * step:.12g}") for index in range(math.ceil(low / step), math.floor(high / step) + 1)]


class _Axes:
    """The axes of a figure in SVG.

    Args:
        x: left and right end.
        y: lower and upper end.
    """

    def __init__(self, x: tuple[float, float], y: tuple[float, float]) -> None:
        self.x, self.y = ((low, high if high > low else low + 1.0) for low, high in (x, y))

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Return where a point is drawn; what is out of view lies on its edge."""
        (left, right), (low, high) = self.x, self.y
        across, up = ((v - a) / (b - a) for v, a, b in ((x, left, right), (min(max(y, low), high), low, high)))
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    def line(self, points: Sequence[tuple[float, float]], colour: str, dashes: str = "") -> str:
        """Return a line through points."""
        where = " ".join(f"{x:.1f},{y:.1f}" for x, y in (self.at(*point) for point in points))
        return (
            f'<polyline points="{where}" fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dashes}"/>'
        )

    def figure(self, marks: Sequence[str], label: str, legend: Sequence[tuple[str, str]]) -> str:
        """Return the figure with ticks, a label below and a legend under it."""
        ticks = []
        for x in round_numbers(*self.x):
            across = self.at(x, self.y[0])[0]
            anchor = "end" if across > WIDTH - LEFT else "middle"  # labels may be wide
            ticks.append(f'<text x="{across:.0f}" y="{HEIGHT - 26}" text-anchor="{anchor}">{x:.10g}</text>')
        for y in round_numbers(*self.y):
            up = self.at(self.x[0], y)[1]
            ticks.append(f'<text x="{LEFT - 6}" y="{up + 4:.0f}" text-anchor="end">{y:.10g}</text>')
            ticks.append(
                f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{up:.0f}" y2="{up:.0f}" stroke="#8884" stroke-width="1"/>'
            )
        ticks.append(f'<text x="{WIDTH // 2}" y="{HEIGHT - 4}" text-anchor="middle">{escape(label)}</text>')
        names = ", ".join(f'<span style="color:{colour}">■</span> {escape(name)}' for name, colour in legend)
        drawing = "".join([*ticks, *marks])
        size = f'viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}"'
        svg = f'<svg {size} role="img" aria-label="{escape(label)}">{drawing}</svg>'
        return f"<figure>{svg}<figcaption>{names}</figcaption></figure>"
