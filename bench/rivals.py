"""Other implementations of the loss, each a function ``(problem) -> scalar``; sources are in README.md."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import grad, jvp, vjp, vmap

from bench.problems import EXACT_LOSS, Problem


def sliced(projected_jacobian: Tensor, projected_score: Tensor, score_sqnorm: Tensor | None) -> Tensor:
    """Return mean_b( mean_m v.Jv + mean_m (v.s)^2/2 ), or with |s|^2/2 if the squared norm is given."""
    squares = projected_score.square().mean(0) if score_sqnorm is None else score_sqnorm
    return (projected_jacobian.mean(0) + squares / 2).mean()


def autograd(p: Problem) -> Tensor:
    """The authors' double backward with one copy of the batch per direction; a loop for the exact loss."""
    if p.loss == EXACT_LOSS:
        return autograd_loop(p)
    count, batch, features = p.v.shape
    x = p.x.expand(count, batch, features).reshape(-1, features).detach().requires_grad_()
    v = p.v.reshape(-1, features)
    score = score_at(p, x)
    projected = (score * v).sum(-1)
    (row,) = torch.autograd.grad(projected.sum(), x, create_graph=trainable(p.net))
    squares = score.square().sum(-1) if p.variance_reduced else projected.square()
    return ((row * v).sum(-1) + squares / 2).mean()


def autograd_loop(p: Problem) -> Tensor:
    """The exact trace with one more backward pass per coordinate."""
    x = p.x.detach().requires_grad_()
    score = score_at(p, x)
    trace = x.new_zeros(())
    for i in range(score.shape[1]):
        row = torch.autograd.grad(score[:, i].sum(), x, create_graph=trainable(p.net), retain_graph=True)[0]
        trace = trace + row[:, i]
    return (trace + squared_norm(score) / 2).mean()


def score_at(p: Problem, x: Tensor) -> Tensor:
    """Return the score at ``x``, which requires grad: the output, or the negative gradient of the energy."""
    output = as_tensor(p.net(x))
    return output if p.case.kind == "score" else -torch.autograd.grad(output.sum(), x, create_graph=True)[0]


def func_vjp(p: Problem) -> Tensor:
    """``torch.func``: reverse over reverse, with the score shared by all directions (v.Jv = v.J^T v)."""
    score, pullback = vjp(score_function(p), p.x)[:2]
    rows = over_directions(lambda v: pullback(v)[0], p.v)
    return sliced((rows * p.v).sum(-1), (score * p.v).sum(-1), squared_norm(score) if p.variance_reduced else None)


def jvp_grad(p: Problem) -> Tensor:
    """``torch.func``: forward over reverse."""
    function = score_function(p)
    score = jvp(function, (p.x,), (p.v[0],))[0] if len(p.v) == 1 else function(p.x)
    rows = over_directions(lambda v: jvp(function, (p.x,), (v,))[1], p.v)
    return sliced((rows * p.v).sum(-1), (score * p.v).sum(-1), squared_norm(score) if p.variance_reduced else None)


def taylor(p: Problem) -> Tensor:
    """Taylor mode by hand: values, tangents and one summed curvature row through one GEMM per layer.

    SSM-VR needs no curvature row. The adjoint row gives the score and, with ``sum_l f'' (tangent_l)^2 adjoint_l``,
    also the curvature. The forward pass then costs three units instead of four.
    """
    energies_only(p)
    count, activation = len(p.v), DERIVATIVES[p.case.activation]
    rows, record = torch.cat([p.x[None], p.v]), []
    for layer in linears(p.net)[:-1]:
        image = rows @ layer.weight.T
        z, tangents = image[0] + layer.bias, image[1 : count + 1]
        value, first, second = activation(z)
        bend = second * tangents.square().sum(0)
        record.append((layer.weight, first, bend))
        carried = [value[None], first * tangents]
        if not p.variance_reduced:
            carried.append((first * image[-1] + bend if len(image) > count + 1 else bend)[None])
        rows = torch.cat(carried)
    readout = linears(p.net)[-1].weight
    if p.variance_reduced:
        return adjoint_sweep(record, readout, count)
    slopes = rows[1:] @ readout[0]
    return sliced(-slopes[-1:] / count, slopes[:-1], None)


def adjoint_sweep(record: list[tuple[Tensor, Tensor, Tensor]], readout: Tensor, count: int) -> Tensor:
    """The second half of Taylor mode for SSM-VR: a downward sweep that accumulates the curvature."""
    adjoint, curvature = readout, readout.new_zeros(())
    for weight, first, bend in reversed(record):
        curvature = curvature + (bend * adjoint).sum(-1)
        adjoint = (first * adjoint) @ weight
    return (adjoint.square().sum(-1) / 2 - curvature / count).mean()


def finite_differences(p: Problem, step: float = 0.1) -> Tensor:
    """FD-SSM: energies at x and x ± εv with |εv| = ``step``, the authors' default; no gradient in x."""
    energies_only(p)
    if p.variance_reduced:
        raise NotImplementedError(
            "FD-SSM has no variance-reduced form for energies, because |score|^2 needs a gradient"
        )
    count, batch, features = p.v.shape
    scale = step / features**0.5
    points = torch.cat([p.x[None], p.x + scale * p.v, p.x - scale * p.v])
    energy = p.net(points.reshape(-1, features)).view(2 * count + 1, batch)
    middle, ahead, behind = energy[0], energy[1 : count + 1], energy[count + 1 :]
    return sliced((2 * middle - ahead - behind) / scale**2, (behind - ahead) / (2 * scale), None)


def energies_only(p: Problem) -> None:
    if p.case.kind != "energy":
        raise NotImplementedError("only energies are supported")


def softplus(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    s = torch.sigmoid(z)
    return F.softplus(z), s, s * (1 - s)


def tanh(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    t = torch.tanh(z)
    slope = 1 - t * t
    return t, slope, -2 * t * slope


def silu(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    s = torch.sigmoid(z)
    bell = s * (1 - s)
    return z * s, s + z * bell, bell * (2 + z * (1 - 2 * s))


DERIVATIVES = {"softplus": softplus, "tanh": tanh, "silu": silu}


def linears(net: nn.Sequential) -> list[nn.Linear]:
    return [part for part in net if isinstance(part, nn.Linear)]


def trainable(net: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in net.parameters())


def squared_norm(score: Tensor) -> Tensor:
    return score.square().sum(-1)


def score_function(p: Problem) -> Any:
    return p.net if p.case.kind == "score" else grad(lambda x: -p.net(x).sum())


def over_directions(function: Any, v: Tensor) -> Tensor:
    """``vmap`` over the directions, skipped for a single direction."""
    return as_tensor(function(v[0])[None] if len(v) == 1 else vmap(function)(v))


def as_tensor(result: Any) -> Tensor:
    assert isinstance(result, Tensor)
    return result
