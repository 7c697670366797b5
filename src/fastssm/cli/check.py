"""`fastssm check`: compare the loss and every gradient of a network with plain autograd."""

from __future__ import annotations

import argparse
import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import fastssm
from fastssm.backends.primitives import primitives
from fastssm.cli.autograd import autograd_loss, basis, dot, score
from fastssm.cli.importing import find
from fastssm.cli.options import add_backend, add_command, integers, require_positive
from fastssm.options import Kind, NetworkKind
from fastssm.text import table

DESCRIPTION = """\
Compare fastssm with plain autograd on your own network, in float64 and evaluation mode: the losses and the gradient of
every parameter. Layers whose third derivative PyTorch gets wrong or lacks, such as LayerNorm and attention, are
computed from means, products and softmax. Compare the derivatives of the network with finite differences. The exit
status is 0 if all agree and 1 otherwise.

NAME is a network, or a class or function that is called without arguments and returns the network, or (network, x), or
(network, x, cond, ...) with an example batch x and further arguments of the network. Without x, the batch is Gaussian
and has the shape --shape, or a shape that the first convolution or linear layer suggests and the network takes.
"""
EPILOG = "example: fastssm check --model mypackage.nets:make_energy --shape 3,32,32"
LOSSES = ("sliced", "variance-reduced", "exact")
DIFFERENCE_STEP = 1e-5
DIFFERENCE_TOLERANCE = 1e-5
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
SIZES = (8, 16, 28, 32)  # lengths of the sides that are tried first, then all others up to 64, then large ones
LARGE = ((100, 128, 256, 512, 1000, 1024), (96, 112, 128, 224, 256), ())
FLOOR = 1e-6  # gradients below this fraction of the largest are rounding errors; their errors are relative to it


@dataclass(frozen=True)
class Case:
    """A network and the batch to check it on."""

    model: nn.Module
    x: Tensor
    cond: tuple[Tensor, ...]
    kind: NetworkKind


@dataclass(frozen=True)
class Row:
    """One comparison: a name, a relative error per loss, and the tolerance."""

    name: str
    errors: tuple[float, ...]
    tolerance: float

    @property
    def passed(self) -> bool:
        """Return whether every error is finite and within the tolerance."""
        return all(error <= self.tolerance for error in self.errors)


def add(commands: Any) -> None:
    """Add the command."""
    parser = add_command(commands, "check", "compare with autograd on your own network", DESCRIPTION)
    parser.epilog = EPILOG
    parser.add_argument("--model", required=True, metavar="MODULE:NAME", help="the network, or what returns it")
    parser.add_argument("--shape", type=integers, metavar="D,...", help="shape of one sample (default: found by trial)")
    parser.add_argument("--batch", type=int, default=8, metavar="N", help="number of samples")
    parser.add_argument("--projections", type=int, default=2, metavar="M", help="directions per sample")
    parser.add_argument(
        "--kind",
        choices=("auto", "energy", "score"),
        default="auto",
        help="output of the network; auto decides by its shape",
    )
    parser.add_argument("--tolerance", type=float, default=1e-9, help="maximum relative error in float64")
    parser.add_argument("--seed", type=int, default=0, help="seed of the batch and the directions")
    add_backend(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    require_positive(args, "batch", "projections")
    torch.manual_seed(args.seed)
    case = make_case(args.model, args.shape, args.batch, args.kind)
    print(f"{type(case.model).__name__}, {case.kind}, x {tuple(case.x.shape)}, float64\n")
    print(fastssm.explain(case.model, case.x, cond=case.cond or None, kind=case.kind, backend=args.backend))
    rows = [*compare(case, args.projections, args.backend, args.tolerance), *differences(case)]
    print("\nrelative error against autograd\n")
    cells = [(row.name, *(f"{error:.1e}" for error in row.errors), "ok" if row.passed else "WRONG") for row in rows]
    heads = [cell for cell in cells if len(cell) == 5]
    print(table([("", *LOSSES, ""), *heads]))
    print("\nrelative error of the network's own derivatives against finite differences\n")
    print(table([cell for cell in cells if len(cell) == 3]))
    wrong = sum(not row.passed for row in rows)
    print(f"\n{'all agree' if not wrong else f'{wrong} of {len(rows)} rows are WRONG'}")
    return 1 if wrong else 0


def make_case(model: str, shape: tuple[int, ...] | None, batch: int, kind: Kind) -> Case:
    """Call the user's factory and draw a batch if it returns none.

    Raises:
        ValueError: if the factory cannot be imported, returns something else, or the shape or kind is ambiguous.
    """
    net, *arguments = _made(model)
    if not isinstance(net, nn.Module):
        raise ValueError(
            f"--model {model} must be a network or return one, alone or first in a tuple, got {type(net).__name__}"
        )
    net = net.double().eval()
    if not arguments:
        arguments = [torch.randn(batch, *(shape or guess_shape(net)))]
    x, *cond = [_double(argument) for argument in arguments]
    try:
        output = net(x, *cond)
    except Exception as error:
        raise ValueError(
            f"the network fails on a batch of shape {tuple(x.shape)} ({type(error).__name__}: {error}); pass --shape, "
            "or return (network, x) or (network, x, cond, ...)"
        ) from error
    return Case(net, x, tuple(cond), _kind(output, x, kind))


def _double(argument: Any) -> Tensor:
    if not isinstance(argument, Tensor):
        raise ValueError(f"the factory must return tensors after the network, got {type(argument).__name__}")
    return argument.double() if argument.is_floating_point() else argument


def _made(model: str) -> tuple[Any, ...]:
    """Return what `--model` names, called if it is no network: the network, and the arguments that come with it."""
    found = find("--model", model)
    if callable(found) and not isinstance(found, nn.Module):
        found = _called(model, found)
    return found if isinstance(found, tuple) else (found,)


def _called(model: str, factory: Callable[..., Any]) -> Any:
    try:
        inspect.signature(factory).bind()
    except TypeError as error:
        raise ValueError(
            f"--model {model} is called without arguments, but that fails ({error}); name a network, or a function "
            "that needs none"
        ) from None
    except ValueError:  # a signature that Python cannot tell
        pass
    return factory()


@torch.no_grad()
def guess_shape(net: nn.Module) -> tuple[int, ...]:
    """Return the shape of one sample: the first that its layers suggest and the network takes.

    Raises:
        ValueError: if there is none.
    """
    with torch.random.fork_rng(devices=[]):
        for shape in _suggested(net):
            try:
                output = net(torch.randn(2, *shape, dtype=torch.float64))
            except Exception:
                continue
            if isinstance(output, Tensor) and output.numel() in (2, 2 * math.prod(shape)):
                return shape
    raise ValueError(
        "no shape of a sample that the layers of the network suggest gives energies or scores; pass --shape, such as "
        "--shape 10 or --shape 3,32,32"
    )


def _suggested(net: nn.Module) -> Iterator[tuple[int, ...]]:
    """Yield shapes, those of convolutions first, as linear layers mostly follow them."""
    first = next((layer for layer in net.modules() if isinstance(layer, CONVOLUTIONS)), None)
    if first is not None:
        dims = len(first.kernel_size)
        for size in (*SIZES, *(size for size in range(1, 65) if size not in SIZES), *LARGE[dims - 1]):
            yield (first.in_channels, *(size,) * dims)
    for layer in net.modules():
        if isinstance(layer, nn.Linear):
            yield (layer.in_features,)


def _kind(output: Tensor, x: Tensor, kind: Kind) -> NetworkKind:
    if kind != "auto":
        return kind
    features = x[0].numel()
    energy, scores = output.numel() == len(x), output.numel() == x.numel()
    if energy == scores:
        raise ValueError(
            f"the output has shape {tuple(output.shape)} for x {tuple(x.shape)}; pass --kind energy or --kind score "
            f"(an energy is [B] or [B, 1], a score has {features} values per sample)"
        )
    return "energy" if energy else "score"


def compare(case: Case, projections: int, backend: str, tolerance: float) -> Iterator[Row]:
    """Yield one row for the values of the three losses and one for the gradient of each parameter."""
    named = [(name, p) for name, p in case.model.named_parameters() if p.requires_grad]
    parameters = [parameter for _, parameter in named]
    v = torch.randn(projections, *case.x.shape, dtype=case.x.dtype)
    common: dict[str, Any] = {"kind": case.kind, "cond": case.cond or None, "backend": backend}
    pairs = [
        *((_sliced(case, v, reduced, common), _autograd(case, v, reduced)) for reduced in (False, True)),
        (fastssm.exact_loss(case.model, case.x, **common), _autograd(case, basis(case.x), True)),
    ]
    yield Row("loss", tuple(relative_error(ours, theirs) for ours, theirs in pairs), tolerance)
    found = [(gradients(ours, parameters), gradients(theirs, parameters)) for ours, theirs in pairs]
    largest = [max((g.norm().item() for g in theirs), default=0.0) for _, theirs in found]
    for index, (name, _) in enumerate(named):
        errors = [
            relative_error(ours[index], theirs[index], FLOOR * scale)
            for (ours, theirs), scale in zip(found, largest, strict=True)
        ]
        yield Row(name, tuple(errors), tolerance)


def _sliced(case: Case, v: Tensor, variance_reduced: bool, common: dict[str, Any]) -> Tensor:
    loss: Tensor = fastssm.sliced_loss(case.model, case.x, v=v, variance_reduced=variance_reduced, **common)
    return loss


def _autograd(case: Case, v: Tensor, variance_reduced: bool) -> Tensor:
    with primitives():
        return autograd_loss(case.model, case.x, v, kind=case.kind, variance_reduced=variance_reduced, cond=case.cond)


def gradients(loss: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """Return the gradient of every parameter, or zeros if the loss does not depend on it."""
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]


def relative_error(ours: Tensor, theirs: Tensor, floor: float = 0.0) -> float:
    """Return `|ours - theirs| / max(|theirs|, floor)`; two zeros have error 0."""
    difference, size = (ours - theirs).detach().norm().item(), max(theirs.detach().norm().item(), floor)
    return float(difference / size if size else difference)


def differences(case: Case) -> Iterator[Row]:
    """Yield rows that compare the derivatives of the network with central differences, without the engines and jets."""
    v, x = torch.randn_like(case.x), case.x.detach().requires_grad_(True)
    scores = _score(case, x)
    if case.kind == "energy":
        energy = _central(lambda point: case.model(point, *case.cond).flatten(), x, v)
        yield _difference_row("dE/dx along a direction", -dot(scores, v), energy)
    curvature = dot(gradients(dot(scores, v).sum(), [x])[0], v)
    yield _difference_row("v.J v", curvature, dot(_central(lambda point: _score(case, point), x, v), v))
    parameters = [p for p in case.model.parameters() if p.requires_grad]
    if parameters:
        yield _difference_row("gradient along a direction", *_parameter_slopes(case, parameters, v))


def _score(case: Case, x: Tensor) -> Tensor:
    with primitives():
        return score(case.model, x, case.kind, case.cond)


def _central(f: Callable[[Tensor], Tensor], x: Tensor, v: Tensor) -> Tensor:
    ahead, behind = (f((x + sign * DIFFERENCE_STEP * v).detach().requires_grad_(True)) for sign in (1, -1))
    return (ahead - behind).detach() / (2 * DIFFERENCE_STEP)


def _parameter_slopes(case: Case, parameters: list[nn.Parameter], v: Tensor) -> tuple[Tensor, Tensor]:
    steps = [torch.randn_like(p) for p in parameters]
    analytic = gradients(_autograd(case, v[None], True), parameters)
    slope = torch.stack([(g * step).sum() for g, step in zip(analytic, steps, strict=True)]).sum()

    def moved(sign: float) -> Tensor:
        _move(parameters, steps, sign)
        try:
            return _autograd(case, v[None], True).detach()
        finally:
            _move(parameters, steps, -sign)

    return slope, (moved(1.0) - moved(-1.0)) / (2 * DIFFERENCE_STEP)


@torch.no_grad()
def _move(parameters: list[nn.Parameter], steps: list[Tensor], sign: float) -> None:
    for parameter, step in zip(parameters, steps, strict=True):
        parameter.add_(step, alpha=sign * DIFFERENCE_STEP)


def _difference_row(name: str, ours: Tensor, theirs: Tensor) -> Row:
    return Row(name, (relative_error(ours, theirs.reshape(ours.shape)),), DIFFERENCE_TOLERANCE)
