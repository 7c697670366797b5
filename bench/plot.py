"""Draw docs/figures/torch_path.png from the CSV: ``python -m bench.plot [CSV] [PNG]``."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from bench.problems import GRID, LOSSES
from bench.table import size_of
from bench.torch_path import MEMORY_BATCHES, OUT, read
from bench.worker import Row

FIGURE = Path(__file__).parents[1] / "docs" / "figures" / "torch_path.png"
OKABE_ITO = {"black": "#000000", "orange": "#E69F00", "sky": "#56B4E9", "green": "#009E73", "blue": "#0072B2"}
OKABE_ITO |= {"vermilion": "#D55E00", "purple": "#CC79A7", "grey": "#8C8C8C"}
STYLES = {  # colour and marker: both differ, so that neither is needed alone
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


def speed_ups(axis: Any, rows: Sequence[Row], title: str) -> None:
    """Plot speed-up over autograd, one column of the axis for each size of the grid."""
    for name, (colour, marker) in STYLES.items():
        found = [row for row in rows if row["contender"] == name and row["ratio_to_autograd"]]
        mine = {size_of(row): 1 / float(row["ratio_to_autograd"]) for row in found}
        if not mine:
            continue
        places = [i for i, size in enumerate(GRID) if size in mine]
        ours = name.startswith("fastssm")
        axis.plot(
            places,
            [mine[GRID[i]] for i in places],
            color=OKABE_ITO[colour],
            marker=marker,
            markersize=9 if ours else 6,
            linewidth=2 if ours else 0.8,
            linestyle="-" if ours else ":",
            zorder=3 if ours else 2,
            label=name,
        )
    axis.axhline(1, color="black", linewidth=1)
    axis.set(yscale="log", title=title, ylabel="speed-up over autograd")
    axis.set_yticks([0.25, 0.5, 1, 2, 4, 8], ["¼", "½", "1", "2", "4", "8"], minor=False)
    axis.minorticks_off()
    axis.set_xticks(range(len(GRID)), [f"d {s.d}, H {s.H}\nL {s.L}, B {s.B}\nM {s.M}" for s in GRID], fontsize=7)
    axis.grid(axis="y", linewidth=0.3)


def memory(axis: Any, rows: Sequence[Row]) -> None:
    """Plot peak memory against the batch."""
    for name, (colour, marker) in ({"autograd": ("grey", "^")} | STYLES).items():
        mine = sorted((int(r["B"]), float(r["peak_MiB"])) for r in rows if r["contender"] == name and r["peak_MiB"])
        if mine:
            axis.plot(*zip(*mine, strict=True), color=OKABE_ITO[colour], marker=marker, label=name)
    axis.set(xscale="log", yscale="log", xlabel="batch", ylabel="peak MiB above inputs")
    axis.set_title("memory, SSM, d 100, H 512, L 3")
    axis.set_xticks(MEMORY_BATCHES, map(str, MEMORY_BATCHES), fontsize=7)
    axis.minorticks_off()
    axis.grid(linewidth=0.3)
    if axis.lines:
        axis.legend(fontsize=7)


def draw(csv: Path = OUT, figure: Path = FIGURE) -> None:
    """Draw the figure: both losses with one thread, and memory."""
    rows = read(csv)
    panels, axes = plt.subplots(1, 3, figsize=(15, 4.6), layout="constrained", width_ratios=(5, 5, 3))
    timed = [row for row in rows if row["mode"] == "forward+backward" and row["threads"] == "1"]
    for axis, loss in zip(axes, LOSSES, strict=False):
        speed_ups(axis, [row for row in timed if row["loss"] == loss], f"{loss}: value and all gradients, 1 thread")
    memory(axes[2], [row for row in rows if row["mode"] == "memory" and row["loss"] == LOSSES[0]])
    handles, names = axes[0].get_legend_handles_labels()
    panels.legend(handles, names, loc="outside lower center", ncols=6, fontsize=8, frameon=False)
    ours = next(row for row in rows if row["contender"] == "fastssm torch")
    panels.suptitle(f"{ours['machine']}, torch {ours['torch']}, {ours['dtype']}", fontsize=8)
    figure.parent.mkdir(parents=True, exist_ok=True)
    plt.savefig(figure, dpi=150)


if __name__ == "__main__":
    draw(*map(Path, sys.argv[1:]))
