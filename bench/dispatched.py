"""Write bench/results/dispatched.csv: which operators a loss and its backward pass call, on the emulated CUDA engine.

Run ``python -m bench.dispatched`` with FASTSSM_NO_NATIVE=1. ``--label`` names the state of the code, and rows of other
labels stay. Torch's profiler sees the operators. The emulator takes CPU tensors through the host code of the engine.
"""

import argparse
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

import fastssm
from bench.harness import RESULTS, environment, read, write_rows
from bench.measure import Row
from bench.table import header, line
from fastssm import backends
from fastssm.backends import fused
from fastssm.backends.entries import eager

OUT = RESULTS / "dispatched.csv"
COLUMNS = (
    *("label", "commit", "date", "machine", "torch", "threads", "command"),
    *("net", "parameters", "reduction", "weighted", "called_by", "operator", "count"),
)
LABELS = ("before", "now")
B, D = 8, 3


class Net(NamedTuple):
    """A network to count for, and the width of its conditioning argument, 0 without."""

    build: Callable[[], nn.Module]
    cond: int = 0


NETS = {
    "energy": Net(lambda: fastssm.nn.MLP(D, [16, 16])),
    "wide energy": Net(lambda: fastssm.nn.MLP(D, [160, 160])),
    "residual energy": Net(lambda: fastssm.nn.MLP(D, [16, 16], residual=True)),
    "energy, cond": Net(lambda: fastssm.nn.MLP(D, [16, 16], cond_dim=2), 2),
    "energy, FiLM": Net(lambda: fastssm.nn.MLP(D, [16, 16], cond_dim=2, conditioning="film"), 2),
    "score": Net(lambda: fastssm.nn.MLP(D, [16, 16], D)),
    "wide score": Net(lambda: fastssm.nn.MLP(D, [160, 160], D)),
}


def enter_operators(library: str) -> None:
    """Load the operators of the emulator, and let calls with backend="torch" enter them as on a GPU."""
    torch.ops.load_library(library)
    backends.BACKENDS["torch"] = fused.Fused("torch", eager)


def counted(step: Callable[[], object]) -> tuple[Counter[str], Counter[str]]:
    """Run a step twice, and return the operators it called the second time, and those called inside of these."""
    step()
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        step()
    called, inside = Counter[str](), Counter[str]()
    for event in seen.events():
        if event.name.startswith(("aten::", "fastssm::")):
            outer = event.cpu_parent
            while outer is not None and not outer.name.startswith(("aten::", "fastssm::")):
                outer = outer.cpu_parent
            called.update([event.name] if outer is None else [])
            inside.update([] if outer is None else [f"{outer.name} > {event.name}"])
    return called, inside


def step_of(net: nn.Module, cond: Sequence[Tensor], reduction: str, weighted: bool) -> Callable[[], None]:
    """Return a loss and its backward pass, on data drawn once."""
    x, weight = torch.randn(B, D), torch.rand(B) if weighted else None

    def step() -> None:
        net.zero_grad()
        loss = fastssm.sliced_loss(net, x, cond=tuple(cond), reduction=reduction, weight=weight, backend="torch")
        loss.backward()  # type: ignore[no-untyped-call]

    return step


def of_modulations(net: nn.Module, cond: Sequence[Tensor]) -> Counter[str]:
    """Return the operators of the network that makes scales and shifts, forward and backward: PyTorch runs it."""
    if not isinstance(net, fastssm.nn.MLP) or net.modulation is None:
        return Counter()
    features = net.features(*cond)
    assert features is not None
    given = [torch.zeros(B, layer.out_features) for layer in net.hidden for _ in range(2)]

    def step() -> None:
        net.zero_grad()
        torch.autograd.backward([t for pair in net.modulations(features) for t in pair if t is not None], given)

    called, _ = counted(step)
    return called


def calls(name: str, reduction: str, weighted: bool) -> tuple[dict[str, Counter[str]], Counter[str], int]:
    """Return the operators that fastssm, PyTorch's backward and a modulating network call; those inside; parameters."""
    torch.manual_seed(0)
    net, width = NETS[name].build(), NETS[name].cond
    cond = [torch.randn(B, width)] if width else []
    called, inside = counted(step_of(net, cond, reduction, weighted))
    parameters = len(list(net.parameters()))
    backward = Counter({"aten::ones_like": 1, "aten::detach": parameters})  # the incoming 1, and each `.grad`
    modulating = of_modulations(net, cond)
    del modulating["aten::detach"]  # of the same gradients
    ours = called - backward - modulating
    return {"fastssm": ours, "backward": backward & called, "FiLM": modulating}, inside, parameters


def rows_of(label: str) -> Iterator[Row]:
    """Yield a row for each operator of each network."""
    shared = environment() | {"label": label, "threads": torch.get_num_threads(), "command": "bench.dispatched"}
    for name in NETS:
        for reduction, weighted in (("mean", False), ("sum", False), ("mean", True)):
            found, inside, parameters = calls(name, reduction, weighted)
            each = {"net": name, "parameters": parameters, "reduction": reduction, "weighted": weighted}
            for by, operators in (*found.items(), ("inside", inside)):
                for operator, count in operators.items():
                    yield shared | each | {"called_by": by, "operator": operator, "count": count}


def markdown(rows: Sequence[Row]) -> Iterator[str]:
    """Yield a table: for each network the operators called before and now, without those of a modulating network."""
    yield from header(["network", *(f"{label}: {by}" for by in ("fastssm", "PyTorch's backward") for label in LABELS)])
    mine = [row for row in rows if row["reduction"] == "mean" and row["weighted"] == "False"]
    for net in dict.fromkeys(row["net"] for row in mine):
        cells = []
        for by in ("fastssm", "backward"):
            for label in LABELS:
                found = [r for r in mine if (r["net"], r["called_by"], r["label"]) == (net, by, label)]
                total = sum(int(r["count"]) for r in found)
                names = (f"{r['count']} `{r['operator'].split('::')[1]}`" for r in found)
                cells.append(f"{total}: {', '.join(names)}")
        yield line([net, *cells])


def main() -> None:
    """Count, and write the file."""
    from tests.cuda.harness.operators import operators

    parser = argparse.ArgumentParser(prog="python -m bench.dispatched", description=__doc__)
    parser.add_argument("--label", choices=LABELS, default="now", help="before and after a change of the host code")
    label = parser.parse_args().label
    enter_operators(str(operators()))
    kept = [row for row in read(OUT) if row["label"] != label]
    write_rows(sorted([*kept, *rows_of(label)], key=lambda row: LABELS.index(str(row["label"]))), OUT, COLUMNS)


if __name__ == "__main__":
    main()
