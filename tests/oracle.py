"""Score matching by plain autograd, written out anew: the judge of every backend. It imports nothing of fastssm."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

LOSSES = ("ssm", "vr", "control", "exact")
OPTIONS: dict[str, dict[str, object]] = {
    "ssm": {"variance_reduced": False},
    "vr": {"variance_reduced": True},
    "control": {"control_variate": "optimal"},
}


class Terms(NamedTuple):
    projected_score: Tensor  # v_m . s, [M, B]
    along: Tensor  # v_m^T J v_m, [M, B]
    score: Tensor  # [B, D]


class written_out(TorchFunctionMode):  # a context manager
    """Compute hardsigmoid by its formula: PyTorch has no second derivative of it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.hardsigmoid:
            return F.hardtanh(args[0] + 3.0, 0.0, 6.0) / 6.0
        return func(*args, **(kwargs or {}))


def terms(model: nn.Module, x: Tensor, v: Tensor, *, energy: bool, cond: Sequence[Tensor] = ()) -> Terms:
    """Differentiate the network once (an energy twice) per direction, every derivative on autograd's tape."""
    x = x if x.requires_grad else x.detach().clone().requires_grad_()
    v = v.reshape(len(v), len(x), -1)
    with written_out():
        output = model(x, *cond)
    s = (-derivative(output, x) if energy else output).reshape(v[0].shape)
    along = [(derivative((s * u).sum(), x).reshape(u.shape) * u).sum(1) for u in v]
    return Terms((v * s).sum(2), torch.stack(along), s)


def losses(
    model: nn.Module,
    x: Tensor,
    v: Tensor | None,
    loss: str,
    *,
    energy: bool,
    cond: Sequence[Tensor] = (),
    weight: Tensor | None = None,
) -> Tensor:
    """Return the loss of every sample before it is weighted, `[B]`; the coefficient of "control" knows the weights."""
    projected, along, s = terms(model, x, directions(x, v, loss), energy=energy, cond=cond)
    norm = s.square().sum(1) / 2
    if loss == "exact":
        return along.sum(0) + norm
    if loss == "vr":
        return along.mean(0) + norm
    plain = along.mean(0) + projected.square().mean(0) / 2
    if loss == "ssm":
        return plain
    noise = projected.square().mean(0) / 2 - norm
    w = torch.ones_like(norm) if weight is None else weight
    return plain - coefficient(*((w * term).detach() for term in (plain, noise, norm))) * noise


def directions(x: Tensor, v: Tensor | None, loss: str) -> Tensor:
    """Return the directions of a loss, those of the coordinates if it is exact."""
    dim = x[0].numel() if len(x) else 0
    return torch.eye(dim, dtype=x.dtype)[:, None].expand(dim, len(x), dim) if loss == "exact" else v


def magnitudes(
    model: nn.Module, x: Tensor, v: Tensor | None, loss: str, *, energy: bool, cond: Sequence[Tensor] = ()
) -> Tensor:
    """Return the loss of every sample as if its terms did not cancel: rounding errors are relative to this, `[B]`."""
    _, along, s = terms(model, x, directions(x, v, loss), energy=energy, cond=cond)
    along = along.abs()
    return (along.sum(0) if loss == "exact" else along.mean(0)) + s.square().sum(1) / 2


def coefficient(plain: Tensor, noise: Tensor, norm: Tensor) -> Tensor:
    """Return the regression coefficient of the samples' losses on the noise, 1 where there is none to speak of."""
    if noise.std(correction=0) <= 1e-12 * norm.max():
        return torch.ones(())
    both = torch.cov(torch.stack([plain, noise]))
    return both[0, 1] / both[1, 1]


def derivative(of: Tensor, x: Tensor) -> Tensor:
    of = of.sum() + 0.0 * x.sum()  # connected, whatever the network forgets
    return torch.autograd.grad(of, x, create_graph=True)[0]


def gradients(loss: Tensor, leaves: Iterable[Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(leaves), allow_unused=True, materialize_grads=True))


def reduced(each: Tensor, weight: Tensor | None, reduction: str) -> Tensor:
    """Weigh and reduce the losses of samples; "none" is contracted with 1, 2, 3, ... to have one number."""
    each = each if weight is None else each * weight
    return contracted(each) if reduction == "none" else getattr(each, reduction)()


def contracted(each: Tensor) -> Tensor:
    return (each * torch.arange(1, len(each) + 1, dtype=each.dtype)).sum()


def assert_close(
    found: Sequence[Tensor], expected: Sequence[Tensor], rtol: float, what: str = "", magnitude: float = 0.0
) -> None:
    """Compare each tensor by its largest difference relative to its own largest entry (1e-3 of the whole at least).

    `magnitude` is what the first, a loss, would be if its terms did not cancel.
    """
    floor = max(1e-3 * largest(e) for e in expected)
    for index, (f, e) in enumerate(zip(found, expected, strict=True)):
        assert f.shape == e.shape, f"{what} [{index}]: shape {tuple(f.shape)} is not {tuple(e.shape)}"
        worst, scale = largest(f.double() - e), max(largest(e), 0.0 if index else magnitude)
        assert worst <= rtol * max(scale, floor, 1e-3), f"{what} [{index}]: off by {worst:.2e} of {scale:.2e}"


def largest(t: Tensor) -> float:
    return float(t.detach().abs().max()) if t.numel() else 0.0
