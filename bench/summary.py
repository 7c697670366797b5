"""Tables of the README and of docs/benchmarks.md that put several result files side by side."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from bench import cpu, networks, networks_table, operators, targets
from bench.harness import RESULTS, read
from bench.measure import Row
from bench.networks_contenders import JETS, JETS_COMPILED
from bench.networks_nets import CONV, MLP, TRANSFORMER, UNET
from bench.problems import GRID, SMALLEST, Size
from bench.steps import BACKWARD
from bench.table import header, line
from bench.targets import Verdict, size_of

PROCESSORS = {
    "AMD Zen 5, AVX-512": cpu.OUT,
    "AMD Zen 5, held to AVX2, without JAX": cpu.SHOWN["avx2"],
    "Intel Xeon with AMX": cpu.SHOWN["intel"],
    "Intel Xeon, held to AVX2, without JAX": cpu.SHOWN["intel avx2"],
}
GPU = RESULTS / "gpu_nvidia_h200.csv"
GPU_LOSS = "SSM"  # the only one that ran there
KINDS = {
    "convolutions and GroupNorm: an energy of images": CONV,
    "a transformer: an energy of images": TRANSFORMER,
    "a multilayer perceptron with LayerNorm: an energy": MLP,
    "a U-Net: a score of images": UNET,
}
QUANTITIES = {
    "of_peak": "the share of the FMA peak",
    "x_best_rival": "the speed-up over the strongest rival",
    "time_of_SSM": "the time of SSM-VR divided by that of SSM",
    "x_float32": "the speed-up of bfloat16 over float32",
    "x_one_thread": "the speed-up of two threads over one",
    "microseconds": "the overhead of a call in microseconds",
    "better_x_double_backward": "the speed-up over double backward",
}


class SpeedUp(NamedTuple):
    """How many times faster than autograd, and than the strongest rival that was measured beside it."""

    over_autograd: float
    over_rival: float | None
    rival: str = ""

    def __str__(self) -> str:
        """Return a cell of a table."""
        rival = "–" if self.over_rival is None else f"{self.over_rival:.2f}×"
        return f"{self.over_autograd:.1f}× / {rival}"


def of_processor(rows: Sequence[Row], loss: str, kind: str = "energy") -> dict[Size, SpeedUp]:
    """Return the speed-ups of the CPU engine by size: one thread, softplus, float32, loss and all gradients."""
    wanted = {"mode": BACKWARD, "loss": loss, "kind": kind, "threads": "1", "activation": "softplus"}
    wanted["contender"] = "fastssm cpu"
    mine = [row for row in rows if all(row[name] == value for name, value in wanted.items())]
    return {
        size_of(row): SpeedUp(
            1 / float(row["ratio_to_autograd"]), 1 / float(row["ratio_to_best_rival"]), row["best_rival"]
        )
        for row in mine
    }


def of_gpu(rows: Sequence[Row]) -> dict[Size, SpeedUp]:
    """Return the speed-ups of the CUDA engine by size, of GPU time; without a rival where only autograd ran."""
    timed = [row for row in rows if row["loss"] == GPU_LOSS and row["event_us"]]
    times: dict[Size, dict[str, float]] = {}
    for row in timed:
        times.setdefault(size_of(row), {})[row["contender"]] = float(row["event_us"])
    found = {}
    for size, each in times.items():
        ours, autograd = each["fastssm cuda"], each["autograd"]
        rivals = {name: time for name, time in each.items() if not name.startswith("fastssm") and name != "autograd"}
        best = min(rivals, key=lambda name: rivals[name], default="")
        found[size] = SpeedUp(autograd / ours, rivals[best] / ours if best else None, best)
    return found


def processor_table(loss: str) -> Iterator[str]:
    """Yield one line per processor, one column per size: speed-up over autograd / over the strongest rival."""
    sizes = (*GRID, *SMALLEST)
    yield from header(["d,H,L,B,M", *map(str, sizes)])
    for name, path in PROCESSORS.items():
        found = of_processor(read(path), loss)
        yield line([name, *(str(found.get(size, "")) for size in sizes)])
    found = of_gpu(read(GPU))
    yield line([f"NVIDIA H200, {GPU_LOSS}", *(str(found.get(size, "")) for size in sizes)])


def of_network(rows: Sequence[Row], name: str, loss: str, M: str) -> SpeedUp:
    """Return the speed-up of the better of eager and compiled jets over eager double backward."""
    wanted = {"network": name, "loss": loss, "M": M, "mode": BACKWARD}
    mine = [row for row in rows if all(row[column] == value for column, value in wanted.items())]
    best = min((r for r in mine if r["contender"] in (JETS, JETS_COMPILED)), key=lambda row: float(row["min_ms"]))
    ratios = float(best["ratio_to_double_backward"]), float(best["ratio_to_best_rival"])
    return SpeedUp(1 / ratios[0], 1 / ratios[1], best["best_rival"])


def spread(found: Sequence[SpeedUp]) -> str:
    """Return the least and the largest of each speed-up."""
    autograd = [each.over_autograd for each in found]
    rival = [each.over_rival for each in found if each.over_rival is not None]
    if len(found) == 1:
        return str(found[0])
    return f"{min(autograd):.1f}–{max(autograd):.1f}× / {min(rival):.2f}–{max(rival):.2f}×"


def kind_table(loss: str) -> Iterator[str]:
    """Yield one line per kind of network: what runs it, and its speed-ups along one direction and along eight."""
    yield from header(["your network", "runs on", "M = 1", "M = 8"])
    rows = read(cpu.OUT)
    for kind in ("energy", "score"):
        found = of_processor(rows, loss, kind)
        cells = [spread([each for size, each in found.items() if size.M == M]) for M in (1, 8)]
        yield line([f"a multilayer perceptron: {'an energy' if kind == 'energy' else 'a score'}", "an engine", *cells])
    timed = read(networks.OUT)
    for words, name in KINDS.items():
        yield line([words, "`jets`", *(str(of_network(timed, name, loss, M)) for M in ("1", "8"))])
    yield line(["anything else: recurrent layers, your own `autograd.Function`, …", "`reference`", "–", "–"])


def missed_list() -> Iterator[str]:
    """Yield a sentence for each kind of target of a file that was missed: how often, and where by most."""
    for name, path in PROCESSORS.items():
        yield from sentences(name, list(targets.verdicts(read(path))), place)
    verdicts = list(networks_table.verdicts(read(networks.OUT)))
    yield from sentences("`jets`", verdicts, lambda row: f"a {row['network']}, {row['loss']}, M = {row['M']}")
    for name, path in operators.FILES.items():
        verdicts = [operator_verdict(row) for row in read(path) if row["target"]]
        yield from sentences(f"operators on {name}", verdicts, lambda row: f"{row['operator']}, {threads(row)}")


def operator_verdict(row: Row) -> Verdict:
    """Return whether an operator met its target, which is a speed-up over the strongest rival."""
    quantity, bound = row["target"].split(">=")
    measured = 1 / float(row["ratio_to_best_rival"])
    return Verdict(row, quantity, ">=", float(bound), measured, measured >= float(bound))


def place(row: Row) -> str:
    """Return the problem of a row in words."""
    score = "" if row["kind"] == "energy" else " of a score network"
    activation = "" if row["activation"] == "softplus" else f", {row['activation']}"
    return f"{row['loss']}{score} at {size_of(row)}{activation}, {threads(row)}"


def threads(row: Row) -> str:
    """Return the number of threads of a row in words."""
    return "one thread" if row["threads"] == "1" else "two threads"


def sentences(name: str, verdicts: Sequence[Verdict], where: Callable[[Row], str]) -> Iterator[str]:
    """Yield the sentences of one file."""
    for quantity in dict.fromkeys(verdict.quantity for verdict in verdicts):
        mine = [verdict for verdict in verdicts if verdict.quantity == quantity]
        missed = [verdict for verdict in mine if not verdict.met and verdict.measured is not None]
        if missed:
            worst = max(missed, key=shortfall)
            often = f"missed in {len(missed)} of {len(mine)} cases"
            least = f"{worst.measured:.3g} for {where(worst.row)}, where the target is {worst.bound:g}"
            yield f"- **{name}**, {QUANTITIES[quantity]}: {often}; the worst is {least}."


def shortfall(verdict: Verdict) -> float:
    """Return by which factor a target was missed."""
    assert verdict.measured is not None
    ratio = verdict.bound / verdict.measured
    return ratio if verdict.sense == ">=" else 1 / ratio


TABLES: dict[str, Callable[..., Iterator[str]]] = {
    "processors": processor_table,
    "kinds": kind_table,
    "missed": missed_list,
}
