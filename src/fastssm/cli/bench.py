"""`fastssm bench`: time a loss and all its gradients on this machine, with autograd and with fastssm."""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import fastssm
from fastssm import backends
from fastssm.activations import BY_NAME
from fastssm.cli.autograd import autograd_loss
from fastssm.cli.check import FLOOR, gradients, relative_error
from fastssm.cli.options import add_command, integers, join_integers, require_positive
from fastssm.directions import draw
from fastssm.nn import MLP
from fastssm.options import BACKEND_NAMES, BackendName
from fastssm.text import table
from fastssm.training import choose_device

DESCRIPTION = """\
Time one loss and the gradients of all parameters of an energy network, with the authors' autograd formula and with
every backend of fastssm that is available here. Each gradient is first compared with float64 autograd.
The contenders run interleaved, so that load on the machine affects all of them alike.
"""
WARM_UP = 3
TOLERANCE = 1e-3  # of a float32 gradient, relative to its norm

Contender = Callable[[], Tensor]


def add(commands: Any) -> None:
    """Add the command."""
    parser = add_command(commands, "bench", "time autograd against fastssm on this machine", DESCRIPTION)
    parser.add_argument("--features", type=int, default=10, metavar="D", help="number of features")
    parser.add_argument(
        "--hidden", type=integers, default="256,256,256", metavar="W,W,...", help="widths of the hidden layers"
    )
    parser.add_argument(
        "--activation", choices=tuple(BY_NAME), default="softplus", metavar="NAME", help="activation function"
    )
    parser.add_argument("--batch", type=int, default=1024, metavar="N", help="number of samples")
    parser.add_argument("--projections", type=int, default=1, metavar="M", help="directions per sample")
    parser.add_argument(
        "--loss", choices=("sliced", "variance-reduced"), default="variance-reduced", help="form of the loss"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--repeats", type=int, default=20, metavar="N", help="timed runs of each contender")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    require_positive(args, "batch", "projections", "repeats")
    torch.manual_seed(0)
    device = choose_device(args.device)
    net = MLP(args.features, args.hidden, activation=args.activation).to(device)
    x = torch.randn(args.batch, args.features, device=device)
    v = draw("rademacher", (args.projections, *x.shape), dtype=x.dtype, device=device)
    found = contenders(net, x, v, args.loss == "variance-reduced")
    verify(net, x, v, args.loss == "variance-reduced", found)
    timings = interleaved(net, found, args.repeats, device)
    print(
        f"{args.loss} loss and all gradients, D {args.features}, hidden {join_integers(args.hidden)}, "
        f"batch {args.batch}, M {args.projections}, {device.type}, {torch.get_num_threads()} threads, float32\n"
    )
    reference = min(timings["autograd"])
    rows = [
        (name, f"{min(times) * 1e3:.2f}", f"{statistics.median(times) * 1e3:.2f}", f"{reference / min(times):.2f}")
        for name, times in timings.items()
    ]
    print(table([("", "min ms", "median ms", "x autograd"), *rows]))
    return 0


def contenders(net: MLP, x: Tensor, v: Tensor, variance_reduced: bool) -> dict[str, Contender]:
    """Return the functions to time by name; each returns the loss."""

    def ours(backend: BackendName) -> Contender:
        return lambda: fastssm.sliced_loss(
            net, x, v=v, kind="energy", variance_reduced=variance_reduced, backend=backend
        )

    missing = backends.availability()
    names = [name for name in BACKEND_NAMES if name not in ("auto", "reference") and not missing[name]]
    plain: Contender = lambda: autograd_loss(net, x, v, kind="energy", variance_reduced=variance_reduced)  # noqa: E731
    return {"autograd": plain, **{f"fastssm {name}": ours(name) for name in names}}


def verify(net: MLP, x: Tensor, v: Tensor, variance_reduced: bool, found: dict[str, Contender]) -> None:
    """Compare the gradients of each contender with float64 autograd.

    Raises:
        ValueError: if a gradient is wrong, with the contender and the parameter.
    """
    exact = copy.deepcopy(net).double()
    loss = autograd_loss(exact, x.double(), v.double(), kind="energy", variance_reduced=variance_reduced)
    expected = gradients(loss, list(exact.parameters()))
    floor = FLOOR * max(gradient.norm().item() for gradient in expected)
    for name, contender in found.items():
        got = gradients(contender(), list(net.parameters()))
        for (parameter, _), ours, theirs in zip(net.named_parameters(), got, expected, strict=True):
            error = relative_error(ours.double(), theirs, floor)
            if not error <= TOLERANCE:
                raise ValueError(
                    f"{name}: the gradient of {parameter} must agree with float64 autograd to {TOLERANCE:.0e}, got a "
                    f"relative error of {error:.1e}; nothing was timed. Run `fastssm check` on the network"
                )


def interleaved(net: MLP, found: dict[str, Contender], repeats: int, device: torch.device) -> dict[str, list[float]]:
    """Return the seconds of a loss and its gradients, with the contenders interleaved, after a warm-up."""
    timings: dict[str, list[float]] = {name: [] for name in found}
    parameters = list(net.parameters())
    for repeat in range(WARM_UP + repeats):
        for name, contender in found.items():
            _synchronize(device)
            began = time.perf_counter()
            gradients(contender(), parameters)
            _synchronize(device)
            if repeat >= WARM_UP:
                timings[name].append(time.perf_counter() - began)
    return timings


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
