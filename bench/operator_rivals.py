"""The operators with `torch.func` and with fastssm.

Each function takes a problem, samples and their directions `[M, b, d]`, and returns one value per sample.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

from bench.problems import Problem
from bench.rivals import as_tensor, linears

Method = Callable[[Problem, Tensor, Tensor], Tensor]


class Operator(NamedTuple):
    """An operator of a kind of network.

    Attributes:
        kind: "energy" for a scalar network, "score" for a vector field.
        exact: whether it uses all d coordinates; otherwise one direction.
        ours: implementation by fastssm, without the backend.
        rivals: other implementations by name.
        truth: reference by nested autograd.
        tried: alternative methods that fastssm does not use.
    """

    kind: str
    exact: bool
    ours: Callable[..., Tensor]
    rivals: dict[str, Method]
    truth: Method
    tried: dict[str, Method] = {}  # noqa: RUF012  # default of a NamedTuple


def scalar(p: Problem) -> Callable[[Tensor], Tensor]:
    return lambda point: as_tensor(p.net(point)).squeeze(-1)


def diagonal_of(transform: Callable[..., Any], function: Callable[[Problem], Any]) -> Method:
    """Return a method that takes the diagonal of the full matrix of each sample."""
    return lambda p, x, v: as_tensor(vmap(transform(function(p)))(x)).diagonal(dim1=1, dim2=2)


def trace_of(transform: Callable[..., Any], function: Callable[[Problem], Any]) -> Method:
    diagonal = diagonal_of(transform, function)
    return lambda p, x, v: diagonal(p, x, v).sum(1)


def hutchinson_vjp(p: Problem, x: Tensor, v: Tensor) -> Tensor:
    """The estimate of flow-matching libraries: a vector-Jacobian product per sample under `vmap`."""

    def one(point: Tensor, direction: Tensor) -> Tensor:
        pulled = as_tensor(vjp(p.net, point)[1](direction)[0])
        return (pulled * direction).sum()

    return as_tensor(vmap(one)(x, v[0]))


def hutchinson_jvp(p: Problem, x: Tensor, v: Tensor) -> Tensor:
    """The same in forward mode, over the whole batch."""
    return (as_tensor(jvp(p.net, (x,), (v[0],))[1]) * v[0]).sum(1)


def jvp_of_grad(p: Problem, x: Tensor, v: Tensor) -> Tensor:
    slope = grad(lambda points: scalar(p)(points).sum())
    return (as_tensor(jvp(slope, (x,), (v[0],))[1]) * v[0]).sum(1)


def vmap_jvp_of_grad(p: Problem, x: Tensor, v: Tensor) -> Tensor:
    def one(point: Tensor, direction: Tensor) -> Tensor:
        return (as_tensor(jvp(grad(scalar(p)), (point,), (direction,))[1]) * direction).sum()

    return as_tensor(vmap(one)(x, v[0]))


def field(p: Problem) -> Any:
    return p.net


def gradient_of_scalar(p: Problem) -> Any:
    return grad(scalar(p))


def by_autograd(p: Problem, x: Tensor, v: Tensor) -> Tensor:
    """Return `v_m^T (dF/dx) v_m` by nested autograd, `[M, b]`; F is the field, or the gradient of the scalar."""
    x = x.detach().requires_grad_()
    output = as_tensor(p.net(x))
    if p.case.kind == "energy":
        output = torch.autograd.grad(output.sum(), x, create_graph=True)[0]
    rows = [torch.autograd.grad((output * u).sum(), x, create_graph=True)[0] for u in v]
    return torch.stack([(row * u).sum(1) for row, u in zip(rows, v, strict=True)])


def true_diagonal(p: Problem, x: Tensor, v: Tensor) -> Tensor:
    units = torch.eye(x.shape[1], dtype=x.dtype)[:, None].expand(-1, len(x), -1)
    return by_autograd(p, x, units).t()


def true_trace(p: Problem, x: Tensor, v: Tensor) -> Tensor:
    return true_diagonal(p, x, v).sum(1)


def true_form(p: Problem, x: Tensor, v: Tensor) -> Tensor:
    return by_autograd(p, x, v)[0]


def our_diagonal(p: Problem, x: Tensor, v: Tensor, **options: str) -> Tensor:
    import fastssm

    sign = -1.0 if p.case.kind == "energy" else 1.0  # the score of an energy is the negative gradient
    return sign * fastssm.jacobian_diag(p.net, x, **options)


def our_divergence(p: Problem, x: Tensor, v: Tensor, **options: str) -> Tensor:
    import fastssm

    return fastssm.divergence(p.net, x, v=v, **options)


def our_exact_divergence(p: Problem, x: Tensor, v: Tensor, **options: str) -> Tensor:
    import fastssm

    return fastssm.divergence(p.net, x, **options)


def our_laplacian(p: Problem, x: Tensor, v: Tensor, **options: str) -> Tensor:
    import fastssm

    return fastssm.laplacian(p.net, x, v=v, **options)


def our_exact_laplacian(p: Problem, x: Tensor, v: Tensor, **options: str) -> Tensor:
    import fastssm

    return fastssm.laplacian(p.net, x, **options)


def our_form(p: Problem, x: Tensor, v: Tensor, **options: str) -> Tensor:
    import fastssm

    return fastssm.hvp_form(p.net, x, v[0], **options)


def along_given_axes(p: Problem, x: Tensor, v: Tensor) -> Tensor:
    """The exact divergence with given axes as directions, which are multiplied at both ends of the network."""
    import fastssm

    dim = x.shape[1]
    axes = (dim**0.5 * torch.eye(dim, dtype=x.dtype))[:, None].expand(dim, len(x), dim)
    return fastssm.divergence(p.net, x, v=axes, backend="cpu")


def from_both_ends(p: Problem, x: Tensor, v: Tensor, tile: int = 16) -> Tensor:
    """The exact divergence of three hidden softplus layers, with tangents from below and adjoints from above.

    `tr(W4 D3 W3 D2 W2 D1 W1) = <W4 D3 W3, (D2 W2 D1 W1)^T>`: no tangent passes the middle activation.
    """
    first, second, third, last = linears(p.net)
    found = []
    for part in x.split(tile):
        z1 = first(part)
        z2 = second(torch.nn.functional.softplus(z1))
        z3 = third(torch.nn.functional.softplus(z2))
        above = (last.weight * z3.sigmoid()[:, None]) @ third.weight
        below = (first.weight.t() * z1.sigmoid()[:, None]) @ second.weight.t()
        found.append(torch.einsum("bdh,bdh,bh->b", above, below, z2.sigmoid()))
    return torch.cat(found)


HUTCHINSON: dict[str, Method] = {"vmap(vjp)": hutchinson_vjp, "jvp": hutchinson_jvp}
JVP_OF_GRAD: dict[str, Method] = {"vmap(jvp(grad))": vmap_jvp_of_grad, "jvp(grad)": jvp_of_grad}
OPERATORS = {
    "divergence, exact": Operator(
        "score",
        True,
        our_exact_divergence,
        {"vmap(jacrev)": trace_of(jacrev, field), "vmap(jacfwd)": trace_of(jacfwd, field)},
        true_trace,
        {"fastssm cpu, given axes": along_given_axes, "fastssm, from both ends": from_both_ends},
    ),
    "divergence, sliced": Operator("score", False, our_divergence, HUTCHINSON, true_form),
    "jacobian_diag of a score": Operator(
        "score",
        True,
        our_diagonal,
        {"vmap(jacrev)": diagonal_of(jacrev, field), "vmap(jacfwd)": diagonal_of(jacfwd, field)},
        true_diagonal,
    ),
    "jacobian_diag of an energy": Operator(
        "energy",
        True,
        our_diagonal,
        {"vmap(hessian)": diagonal_of(hessian, scalar), "vmap(jacrev(grad))": diagonal_of(jacrev, gradient_of_scalar)},
        true_diagonal,
    ),
    "laplacian, exact": Operator(
        "energy",
        True,
        our_exact_laplacian,
        {"vmap(hessian)": trace_of(hessian, scalar), "vmap(jacrev(grad))": trace_of(jacrev, gradient_of_scalar)},
        true_trace,
    ),
    "laplacian, sliced": Operator("energy", False, our_laplacian, JVP_OF_GRAD, true_form),
    "hvp_form": Operator("energy", False, our_form, JVP_OF_GRAD, true_form),
}
