"""Draws the three figures of docs/benchmarks.md, for `python -m bench.plot`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from bench import cpu, networks
from bench.harness import read
from bench.measure import Row
from bench.networks_contenders import DOUBLE, JETS
from bench.networks_nets import SMALL
from bench.problems import GRID, LOSSES, SMALLEST
from bench.summary import KINDS, PROCESSORS, SpeedUp, of_network, of_processor

BLUE, ORANGE, GREY, GREEN = "#0072B2", "#E69F00", "#8C8C8C", "#009E73"  # Okabe and Ito
LOSS = LOSSES[1]  # the default


def pair(axis: Any, found: Sequence[SpeedUp], names: Sequence[str]) -> None:
    """Draw the speed-up of fastssm and that of the strongest rival over the same baseline, as bars side by side."""
    places = range(len(found))
    ours = [each.over_autograd for each in found]
    rivals = [each.over_autograd / each.over_rival for each in found if each.over_rival]
    axis.bar([i - 0.2 for i in places], ours, 0.38, color=BLUE, label="fastssm")
    hatched = {"color": ORANGE, "hatch": "//", "edgecolor": "white"}
    axis.bar([i + 0.2 for i in places], rivals, 0.38, label="strongest rival", **hatched)
    axis.axhline(1, color="black", linewidth=1)
    axis.set_xticks(places, names, fontsize=8)
    axis.grid(axis="y", linewidth=0.3)
    axis.set_axisbelow(True)
    axis.margins(y=0.12)
    for i, (own, rival) in enumerate(zip(ours, rivals, strict=True)):
        axis.annotate(f"{own:.1f}", (i - 0.2, own), ha="center", va="bottom", fontsize=7)
        axis.annotate(f"{rival:.1f}", (i + 0.2, rival), ha="center", va="bottom", fontsize=7)


def processors(figure: Path) -> None:
    """Draw the speed-up over autograd of each processor, by size."""
    sizes = (*SMALLEST[::-1], *GRID)
    names = [f"d {s.d}\nH {s.H}" + (f"\nM {s.M}" if s.M > 1 else "") for s in sizes]
    canvas, axes = plt.subplots(len(PROCESSORS), 1, figsize=(8, 8), sharex=True, sharey=True, layout="constrained")
    for axis, (name, path) in zip(axes, PROCESSORS.items(), strict=True):
        found = of_processor(read(path), LOSS)
        pair(axis, [found[size] for size in sizes], names)
        axis.set_title(name)
    axes[0].legend(fontsize=9)
    canvas.supylabel("times as fast as autograd")
    canvas.suptitle(f"{LOSS} and all gradients of an energy, one thread, float32", fontsize=10)
    canvas.savefig(figure, dpi=150)


def kinds(figure: Path) -> None:
    """Draw the speed-up over double backward of networks that run on jets, along one and eight directions."""
    rows = read(networks.OUT)
    names = ["convolutions,\nGroupNorm", "transformer", "perceptron,\nLayerNorm", "U-Net\n(score)"]
    canvas, axes = plt.subplots(1, 2, figsize=(9, 4.2), sharey=True, layout="constrained")
    for axis, M in zip(axes, ("1", "8"), strict=True):
        pair(axis, [of_network(rows, name, LOSS, M) for name in KINDS.values()], names)
        axis.set_title("one direction" if M == "1" else "eight directions")
    axes[0].set_ylabel("times as fast as double backward")
    axes[0].legend(fontsize=9)
    canvas.suptitle(f"{LOSS} and all gradients on jets, one thread, float32", fontsize=10)
    canvas.savefig(figure, dpi=150)


def memory(figure: Path) -> None:
    """Draw peak memory against the batch, on the CPU engine and on jets."""
    canvas, axes = plt.subplots(1, 2, figsize=(9, 4), sharey=True, layout="constrained")
    native = [row for row in read(cpu.OUT) if row["mode"] == "memory" and row["loss"] == LOSS]
    curves(axes[0], native, {"autograd": GREY, "fastssm torch": GREEN, "fastssm cpu": BLUE})
    axes[0].set_title("a multilayer perceptron, d 100, H 512, L 3")
    timed = [row for row in read(networks.OUT) if row["mode"] == "memory" and row["network"] == SMALL]
    curves(axes[1], timed, {DOUBLE: GREY, JETS: BLUE})
    axes[1].set_title("a small convolutional energy")
    axes[0].set_ylabel("peak MiB above the inputs")
    canvas.suptitle(f"memory of {LOSS} and all gradients, one direction", fontsize=10)
    canvas.savefig(figure, dpi=150)


def curves(axis: Any, rows: Sequence[Row], colours: dict[str, str]) -> None:
    """Draw a line for each contender."""
    for name, colour in colours.items():
        mine = sorted((int(row["B"]), float(row["peak_MiB"])) for row in rows if row["contender"] == name)
        axis.plot(*zip(*mine, strict=True), color=colour, marker="s" if colour == GREY else "o")
        axis.annotate(name, mine[-1], xytext=(0, 6), textcoords="offset points", ha="right", fontsize=9, color=colour)
    batches = sorted({int(row["B"]) for row in rows})
    axis.set(xscale="log", yscale="log", xlabel="samples in the batch")
    axis.set_xticks(batches, map(str, batches))
    axis.set_yticks([10, 100, 1000, 10000], ["10", "100", "1 000", "10 000"])
    axis.margins(x=0.1)
    axis.minorticks_off()
    axis.grid(linewidth=0.3)


def draw(folder: Path) -> None:
    """Draw all three."""
    processors(folder / "benchmarks_processors.png")
    kinds(folder / "benchmarks_networks.png")
    memory(folder / "benchmarks_memory.png")
