"""Draw the figures of docs/benchmarks.md and docs/benchmarks/ from the CSV files: ``python -m bench.plot``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from bench import cpu, summary_plots, torch_path
from bench.contenders import GEMMS
from bench.harness import read
from bench.measure import Row
from bench.problems import GRID, LOSSES
from bench.targets import size_of

FIGURES = Path(__file__).parents[1] / "docs" / "figures"
OKABE_ITO = {"black": "#000000", "orange": "#E69F00", "sky": "#56B4E9", "green": "#009E73", "blue": "#0072B2"}
OKABE_ITO |= {"vermilion": "#D55E00", "purple": "#CC79A7", "grey": "#8C8C8C"}
Styles = dict[str, tuple[str, str]]  # colour and marker; each is sufficient to distinguish contenders
STYLES: Styles = {
    "func.vjp + compile": ("sky", "v"),
    "jvp(grad)": ("grey", "x"),
    "Taylor": ("orange", "s"),
    "Taylor + compile": ("vermilion", "D"),
    "FD-SSM": ("purple", "<"),
    "FD-SSM + compile": ("purple", ">"),
    "torchebm": ("grey", "1"),
    "ebmkit": ("grey", "2"),
    "jet-for-pytorch": ("black", "+"),
    "fastssm torch": ("blue", "o"),
    "fastssm torch + compile": ("green", "*"),
}
NATIVE_STYLES: Styles = {
    "Taylor + compile": ("vermilion", "D"),
    "FD-SSM + compile": ("purple", ">"),
    "ebmkit": ("grey", "2"),
    "JAX jvp(grad)": ("orange", "v"),
    "JAX jvp(jvp)": ("orange", "^"),
    "JAX Taylor": ("orange", "s"),
    GEMMS: ("black", "_"),
    "fastssm torch + compile": ("green", "*"),
    "fastssm cpu": ("blue", "o"),
    "fastssm cpu bf16": ("sky", "p"),
}
AUTOGRAD: Styles = {"autograd": ("grey", "^")}


def lines(axis: Any, rows: Sequence[Row], styles: Styles, column: str, inverse: bool = False) -> None:
    """Plot a column of the CSV file, or its inverse, for each size of the grid."""
    for name, (colour, marker) in styles.items():
        found = {size_of(row): float(row[column]) for row in rows if row["contender"] == name and row[column]}
        places = [i for i, size in enumerate(GRID) if size in found]
        if not places:
            continue
        ours = name.startswith("fastssm")
        axis.plot(
            places,
            [1 / found[GRID[i]] if inverse else found[GRID[i]] for i in places],
            color=OKABE_ITO[colour],
            marker=marker,
            markersize=9 if ours else 6,
            linewidth=2 if ours else 0.8,
            linestyle="-" if ours else ":",
            zorder=3 if ours else 2,
            label=name,
        )
    axis.axhline(1, color="black", linewidth=1)
    axis.set_xticks(range(len(GRID)), [f"d {s.d}, H {s.H}\nL {s.L}, B {s.B}\nM {s.M}" for s in GRID], fontsize=7)
    axis.grid(axis="y", linewidth=0.3)


def speed_ups(axis: Any, rows: Sequence[Row], styles: Styles, loss: str) -> None:
    """Plot the speed-up over autograd."""
    mine = [row for row in rows if row["loss"] == loss]
    lines(axis, mine, styles, "ratio_to_autograd", inverse=True)
    axis.set(yscale="log", title=f"{loss}: value and all gradients, 1 thread", ylabel="speed-up over autograd")
    axis.set_yticks([0.25, 0.5, 1, 2, 4, 8, 16], ["¼", "½", "1", "2", "4", "8", "16"], minor=False)
    axis.minorticks_off()
    factors = [value for line in axis.lines for value in line.get_ydata()]
    axis.set_ylim(0.9 * min(factors), 1.15 * max(factors))


def shares(axis: Any, rows: Sequence[Row], styles: Styles) -> None:
    """Plot the rate of the products of the two sweeps as a fraction of the measured peak."""
    lines(axis, [row for row in rows if row["loss"] == LOSSES[0]], AUTOGRAD | styles, "fraction_of_peak")
    axis.set(ylim=(0, 1.05), title=f"{LOSSES[0]}: the sweeps' arithmetic over the time, 1 thread")
    axis.set_ylabel("share of the measured FMA peak")


def memory(axis: Any, rows: Sequence[Row], styles: Styles) -> None:
    """Plot peak memory against the batch."""
    for name, (colour, marker) in (AUTOGRAD | styles).items():
        mine = sorted((int(r["B"]), float(r["peak_MiB"])) for r in rows if r["contender"] == name and r["peak_MiB"])
        if mine:
            axis.plot(*zip(*mine, strict=True), color=OKABE_ITO[colour], marker=marker, label=name)
    batches = sorted({int(row["B"]) for row in rows})
    axis.set(xscale="log", yscale="log", xlabel="batch", ylabel="peak MiB above inputs")
    axis.set_title("memory, SSM, d 100, H 512, L 3")
    axis.set_xticks(batches, map(str, batches), fontsize=7)
    axis.minorticks_off()
    axis.grid(linewidth=0.3)
    if axis.lines:
        axis.legend(fontsize=7)


def draw(rows: Sequence[Row], figure: Path, styles: Styles, native: bool) -> None:
    """Draw a figure: both losses with one thread, memory, and for the native engine the fraction of the peak."""
    if native:
        panels, grid = plt.subplots(2, 2, figsize=(12, 9), layout="constrained")
    else:
        panels, grid = plt.subplots(1, 3, figsize=(15, 4.6), layout="constrained", width_ratios=(5, 5, 3))
    axes = grid.flatten()
    usual = [r for r in rows if (r.get("kind"), r.get("activation")) in ((None, None), ("energy", "softplus"))]
    timed = [row for row in usual if row["mode"] == "forward+backward" and row["threads"] == "1"]
    for axis, loss in zip(axes, LOSSES, strict=False):
        speed_ups(axis, timed, styles, loss)
    if native:
        shares(axes[2], timed, styles)
    memory(axes[-1], [row for row in usual if row["mode"] == "memory" and row["loss"] == LOSSES[0]], styles)
    handles, names = axes[2 if native else 0].get_legend_handles_labels()
    panels.legend(handles, names, loc="outside lower center", ncols=6, fontsize=8, frameon=False)
    ours = next(row for row in rows if row["contender"] == "fastssm torch")
    panels.suptitle(f"{ours['machine']}, torch {ours['torch']}, {ours['dtype']}", fontsize=8)
    figure.parent.mkdir(parents=True, exist_ok=True)
    plt.savefig(figure, dpi=150)


if __name__ == "__main__":
    for module, styles in ((torch_path, STYLES), (cpu, NATIVE_STYLES)):
        if rows := read(module.OUT):
            name = module.__name__.rpartition(".")[2]
            draw(rows, FIGURES / f"{name}.png", styles, module is cpu)
    summary_plots.draw(FIGURES)
