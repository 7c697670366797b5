"""A page about a trained model: results, figures and settings in one HTML file that asks for nothing else."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import torch

from fastssm.plots import BLUE, GREY, VERMILION, loss_limits
from fastssm.training import Model, checkpoint, load

REPORT = "report.html"
WIDTH, HEIGHT = 640, 300  # of a figure, in its own units
LEFT, RIGHT, TOP, BOTTOM = 64, 12, 12, 40  # margins of a figure
BINS = 40
STYLE = """
:root { color-scheme: light dark; --line: #8884; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem; overflow-wrap: anywhere; }
h1 { line-height: 1.2; } .worse { color: #D55E00; font-weight: 600; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; }
td, th { text-align: left; padding: .25rem .75rem .25rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
img, svg { max-width: 100%; height: auto; display: block; } img { background: #fff; }
svg text { font: 12px system-ui, sans-serif; fill: currentColor; } figure { margin: 1rem 0; }
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
        _section("Losses", _losses(metrics, result)),
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
        if value is not None
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


def _losses(metrics: Sequence[dict[str, Any]], result: dict[str, Any]) -> str:
    """Draw both curves and the baseline."""
    if not metrics:
        return ""
    steps = [float(row["step"]) for row in metrics]
    curves = {name: [float(row[f"{name}_loss"]) for row in metrics] for name in ("train", "validation")}
    gaussian = result.get("gaussian_test_loss")
    also = (float(gaussian),) if isinstance(gaussian, int | float) and math.isfinite(gaussian) else ()
    axes = _Axes((min(steps), max(steps)), loss_limits(list(curves.values()), *also))
    marks = [
        axes.line(list(zip(steps, curves["train"], strict=True)), VERMILION),
        axes.line(list(zip(steps, curves["validation"], strict=True)), BLUE),
        *(axes.line([(min(steps), value), (max(steps), value)], GREY, "6 4") for value in also),
    ]
    return axes.figure(marks, "step", [("training", VERMILION), ("validation", BLUE), ("fitted Gaussian", GREY)])


def _energies(model: Model) -> str:
    """Draw a histogram of the energies of the held-out rows."""
    held_out = model.held_out
    if held_out is None or not bool(held_out[-1] > held_out[0]):
        return ""
    low, high = float(held_out[0]), float(held_out.quantile(0.99))
    high = high if high > low else float(held_out[-1])
    counts = torch.histc(held_out.clamp(max=high), BINS, low, high)
    axes = _Axes((low, high), (0.0, 1.05 * float(counts.max())))
    edges = [low + (high - low) * index / BINS for index in range(BINS + 1)]
    path = [(edge, count) for index, count in enumerate(counts.tolist()) for edge in edges[index : index + 2]]
    return axes.figure([axes.line(path, BLUE)], "energy: lower is more likely (last bin: and above)", [("rows", BLUE)])


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
        for share in (0.0, 0.25, 0.5, 0.75, 1.0):
            x, y = (low + share * (high - low) for low, high in (self.x, self.y))
            across, up = self.at(x, self.y[0])[0], self.at(self.x[0], y)[1]
            ticks.append(f'<text x="{across:.0f}" y="{HEIGHT - 22}" text-anchor="middle">{x:.4g}</text>')
            ticks.append(f'<text x="{LEFT - 6}" y="{up + 4:.0f}" text-anchor="end">{y:.3g}</text>')
            ticks.append(
                f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{up:.0f}" y2="{up:.0f}" stroke="#8884" stroke-width="1"/>'
            )
        ticks.append(f'<text x="{WIDTH // 2}" y="{HEIGHT - 4}" text-anchor="middle">{escape(label)}</text>')
        names = ", ".join(f'<span style="color:{colour}">■</span> {escape(name)}' for name, colour in legend)
        drawing = "".join([*ticks, *marks])
        size = f'viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}"'
        svg = f'<svg {size} role="img" aria-label="{escape(label)}">{drawing}</svg>'
        return f"<figure>{svg}<figcaption>{names}</figcaption></figure>"
