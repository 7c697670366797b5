"""Write bench/results/networks_attempts.csv: ``python -m bench.networks_attempts`` from the root of the repository.

What makes jets fast, and what does not: for each way, the speed-up over double backward without it and with it, one
thread, all ways interleaved in one process for each problem. Ways that are part of fastssm are taken out for "before".
"""

import argparse
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, NamedTuple
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import fastssm.jets.table  # noqa: F401, the rules, which are patched here
from bench.harness import RESULTS, WHO, environment, write_rows
from bench.measure import Row, interleaved
from bench.networks_contenders import DOUBLE, Setting, jets, own_problem, plain, setting
from bench.networks_nets import CONV, MLP, NETWORKS, TINY, UNET
from bench.steps import BACKWARD, torch_step
from bench.table import header, line
from fastssm.backends import jets as backend
from fastssm.jets import elementwise, lifting, norms
from fastssm.jets.jet import RULES, Jet
from fastssm.jets.linear import linear

OUT = RESULTS / "networks_attempts.csv"
PROBLEMS = ((CONV, 1, "SSM"), (CONV, 1, "SSM-VR"), (CONV, 8, "SSM"), (CONV, 8, "SSM-VR"), (UNET, 1, "SSM"))
PROBLEMS += ((UNET, 8, "SSM"), (MLP, 1, "SSM"), (MLP, 1, "SSM-VR"))
COLUMNS = (
    *(*WHO, "threads", "network", "M", "loss", "way", "adopted", "ms_before", "ms_after"),
    *("ratio_before", "ratio_after"),
)
JETS = "as it is"


class Way(NamedTuple):
    """One way to run jets.

    Attributes:
        name: in the file.
        adopted: whether fastssm does so; then `patched` undoes it.
        patched: a context that runs jets in the other way.
        images: whether it is for networks of images only.
    """

    name: str
    adopted: bool
    patched: Callable[[], Any]
    images: bool = False


def tile(mib: int) -> Way:
    return Way(f"tiles of {mib} MiB", False, lambda: mock.patch.object(backend, "TILE_BYTES", mib << 20))


@contextmanager
def one_convolution() -> Iterator[None]:
    """Run value and tangents through one convolution, put together before it."""

    def rule(input: Jet, weight: Tensor, bias: Any = None, *args: Any, **kwargs: Any) -> Jet:
        count = len(input.tangents) + 1
        rows = torch.cat([input.value[None], input.tangents]).flatten(0, 1)
        out = F.conv2d(rows, weight, None, *args, **kwargs)
        out = out.view(count, -1, *out.shape[1:])
        value = out[0] if bias is None else out[0] + bias[:, None, None]
        curve = linear(
            input, lambda z: z, value, lambda r: lifting.batched(lambda z: F.conv2d(z, weight, None, *args), r)
        )
        curve.tangents = out[1:]
        return curve

    with mock.patch.dict(RULES, {F.conv2d: rule}):
        yield


WAYS = (
    Way(
        "derivatives of an activation once",
        True,
        lambda: mock.patch.object(elementwise, "formula_only", return_value=True),
    ),
    Way("normalisation with its scale", True, lambda: mock.patch.object(norms, "formula_only", return_value=True)),
    Way("products of rows one by one", True, lambda: mock.patch.object(lifting, "WIDE", 1 << 60)),
    *map(tile, (16, 32, 128, 256)),
    Way("one convolution of value and tangents", False, one_convolution, images=True),
)


class Convolutions(TorchDispatchMode):
    """Notes the arguments of every convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, ...]] = []

    def __torch_dispatch__(self, function: Any, types: object, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        """Note a convolution, and run the function."""
        if function is torch.ops.aten.convolution.default:
            self.calls.append(args)
        return function(*args, **(kwargs or {}))


def alone(s: Setting, memory_format: torch.memory_format) -> Callable[[], None]:
    """Return what runs only the convolutions that jets need, forward and backward, on all rows at once."""
    aten, calls = torch.ops.aten, []
    with Convolutions() as seen, torch.no_grad():
        s.net(s.x, *s.cond)
    for place, (x, weight, _, *rest) in enumerate(seen.calls):
        rows = len(s.v) + (2 if s.kind == "energy" and place else 1)  # no curvature before the first activation
        x = x.repeat(rows, 1, 1, 1).to(memory_format=memory_format)
        weight = weight.detach().to(memory_format=memory_format)
        grad = torch.randn_like(aten.convolution(x, weight, None, *rest))
        calls.append((x, weight, grad, rest, [place > 0, True, False]))

    def run() -> None:
        for x, weight, grad, rest, wanted in calls:
            aten.convolution(x, weight, None, *rest)
            aten.convolution_backward(grad, x, weight, None, *rest, wanted)

    return run


def channels_last(s: Setting) -> Callable[[], Any]:
    """Return the step with a network and data in the other order of axes."""
    moved = s._replace(x=s.x.to(memory_format=torch.channels_last))
    moved.net.to(memory_format=torch.channels_last)
    return stepped(moved)


def stepped(s: Setting) -> Callable[[], Any]:
    return torch_step(own_problem(s), BACKWARD, lambda: jets(s)).call


def calls_of(s: Setting) -> dict[str, Callable[[], Any]]:
    """Return everything that is timed for a problem, by name."""
    step = stepped(s)
    calls = {DOUBLE: plain(s).call, JETS: step}
    images = s.x.ndim == 4

    def other(way: Way) -> Callable[[], Any]:
        def run() -> Any:
            with way.patched():
                return step()

        return run

    calls |= {way.name: other(way) for way in WAYS if images or not way.images}
    if images:
        calls["channels_last"] = channels_last(s._replace(net=deepcopy(s.net)))
        calls["convolutions alone"] = alone(s, torch.contiguous_format)
        calls["convolutions alone, channels_last"] = alone(s, torch.channels_last)
    return calls


def rows(network: Any, M: int, loss: str, budget: float) -> Iterator[Row]:
    """Yield a row for each way."""
    times = {name: timing.min_ms for name, timing in interleaved(calls_of(setting(network, loss, M)), budget).items()}
    double, now = times.pop(DOUBLE), times.pop(JETS)
    adopted = {way.name for way in WAYS if way.adopted}
    for name, other in times.items():
        before, after = (other, now) if name in adopted else (now, other)
        yield {
            **{"network": network.name, "M": M, "loss": loss, "way": name, "adopted": name in adopted},
            **{"ms_before": before, "ms_after": after, "ratio_before": double / before, "ratio_after": double / after},
        }


def markdown(rows: Sequence[Row]) -> Iterator[str]:
    """Yield one line per way, one column per problem: the speed-up over double backward without it and with it."""
    places = list(dict.fromkeys((row["network"], row["M"], row["loss"]) for row in rows))
    cells = {
        (row["way"], row["network"], row["M"], row["loss"]): "{:.2f} → {:.2f}".format(
            *(float(row[name]) for name in ("ratio_before", "ratio_after"))
        )
        for row in rows
    }
    yield from header(["way", "in fastssm", *(f"{network}, {loss}, M = {M}" for network, M, loss in places)])
    for way, adopted in dict.fromkeys((row["way"], row["adopted"]) for row in rows):
        yield line([way, "yes" if adopted == "True" else "no", *(cells.get((way, *where), "") for where in places)])


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="tiny networks, in seconds; writes nothing")
    parser.add_argument("--budget", type=float, default=8.0, help="seconds of interleaved rounds per problem")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    shared, found, nets = environment() | {"threads": 1}, [], TINY if options.smoke else NETWORKS
    for name, M, loss in PROBLEMS:
        for row in rows(nets[name], M, loss, 0.0 if options.smoke else options.budget):
            print(f"{name:22} M={M} {loss:6} {row['way']:40} {row['ratio_before']:6.2f} -> {row['ratio_after']:.2f}")
            found.append(shared | row)
    if not options.smoke:
        write_rows(found, OUT, COLUMNS)


if __name__ == "__main__":
    main()
