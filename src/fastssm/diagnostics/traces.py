"""The trace of a Jacobian from few products with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Generator, Tensor

from fastssm import backends, checks
from fastssm.directions import PROJECTIONS, gaussian
from fastssm.options import BackendName, Cond, Kind, Model

TraceMethod = Literal["hutchinson", "hadamard", "hutch++", "xtrace"]
Products = Callable[[Tensor], Tensor]
_LEAST: dict[str, int] = {"hutchinson": 1, "hadamard": 1, "hutch++": 3, "xtrace": 2}


@torch.inference_mode(False)  # a derivative is what it computes
def jacobian_trace(
    model: Model,
    x: Tensor,
    *,
    n_products: int = 12,
    method: TraceMethod = "xtrace",
    cond: Cond = None,
    kind: Kind = "auto",
    generator: Generator | None = None,
    backend: BackendName = "auto",
) -> Tensor:
    r"""Estimate the trace of the score's Jacobian at each sample from few products with it.

    `tr J` with `J = ds/dx`, the Laplacian of `log p`. With m products and random signs `v`, "hutchinson" is the mean of
    `v . J v`, and "hadamard" the same along rows of a Hadamard matrix. "hutch++" finds a basis Q of `J S` for `m / 3`
    normal columns S, and takes `tr(Q^T J Q)` plus the mean of `w . J w` along `w = (I - Q Q^T) v`. "xtrace" uses each
    of `m / 2` random vectors in turn for the second part, all others for the first, and takes the mean. All are
    unbiased. The last two are exact if the rank of J is at most `m / 3`, or less than `m / 2`, and their error
    decreases as `1 / m` or faster where the spectrum decays.

    Args:
        model: an energy or a score, as for `fastssm.sliced_loss`.
        x: points `[B, ...]`.
        n_products: m, the number of products with J at each sample. Each is a derivative of the score along with
            m copies of x; for m near D, `fastssm.divergence` and `fastssm.laplacian` are exact.
        method: "hutchinson", "hadamard", "hutch++" or "xtrace".
        cond: further arguments, passed as `model(x, *cond)`.
        kind: "energy", "score" or "auto".
        generator: source of the random vectors.
        backend: "auto" or the name of a backend.

    Returns:
        The estimate `[B]`, detached.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if shapes, devices or names do not match, or there are too few products for the method.
        UnsupportedError: if the backend, or every backend with "auto", cannot run the call.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 8), nn.Softplus(), nn.Linear(8, 1))
        >>> jacobian_trace(net, torch.randn(5, 2), n_products=6).shape
        torch.Size([5])

    Source: Meyer, Musco, Musco, Woodruff 2021, "Hutch++: optimal stochastic trace estimation", algorithm 1; Epperly,
        Tropp, Webber 2024, "XTrace: making the most of every sample in stochastic trace estimation".
    """
    checks.check_choice("method", method, get_args(TraceMethod))
    checks.check_generator(generator)
    checks.check_count("n_products", n_products)
    if n_products < _LEAST[method]:
        raise ValueError(f'n_products must be at least {_LEAST[method]} for method="{method}", got {n_products}.')
    request = backends.make_request(model, x, cond, kind)
    chosen = backends.select(request, "score", backend)
    x = request.x.detach()
    like = checks.widened(x.flatten(1))
    count = min(n_products // 3 if method == "hutch++" else n_products // 2, like.shape[1])

    def products(v: Tensor) -> Tensor:
        """Return `J^T v`, whose trace is that of J, of vectors `[K, B, D]`."""
        k = len(v)
        rows = x.repeat(k, *[1] * (x.ndim - 1)).requires_grad_()
        with torch.enable_grad():
            many = request.at(rows, lambda c: c.detach().repeat(k, *[1] * (c.ndim - 1)))
            s = chosen.score(many)
            along = (s * v.flatten(0, 1).to(s.dtype)).sum() + 0.0 * rows.sum()  # connected, whatever the score forgets
        return torch.autograd.grad(along, rows)[0].reshape(v.shape).double()

    if method == "xtrace":
        found = _xtrace(products, gaussian((count, *like.shape), like, generator).double())
    elif method == "hutch++":
        sketched = gaussian((count, *like.shape), like, generator).double()  # random signs may be linearly dependent
        probes = PROJECTIONS["rademacher"]((n_products - 2 * count, *like.shape), like, generator).double()
        found = _hutch(products, sketched, probes)
    else:
        signs = PROJECTIONS["rademacher" if method == "hutchinson" else "hadamard"]
        v = signs((n_products, *like.shape), like, generator).double()
        found = (v * products(v)).sum(2).mean(0)
    return found.to(like.dtype)


def _columns(v: Tensor) -> Tensor:
    """Return vectors `[K, B, D]` as the columns of matrices `[B, D, K]`."""
    return v.permute(1, 2, 0)


def _basis(sketch: Tensor, products: Products) -> tuple[Tensor, Tensor, Tensor]:
    """Return the factors Q `[B, D, K]` and R of a sketch `[K, B, D]`, and the products with Q as columns."""
    q, r = torch.linalg.qr(_columns(sketch))
    return q, r, _columns(products(q.permute(2, 0, 1)))


def _trace(q: Tensor, z: Tensor) -> Tensor:
    return (q * z).sum((1, 2))


def _hutch(products: Products, sketched: Tensor, probes: Tensor) -> Tensor:
    """Hutch++: what the sketch sees, exactly, and the rest along probes, less what the sketch sees of them."""
    q, _, z = _basis(products(sketched), products)
    v = _columns(probes)
    rest = v - q @ (q.mT @ v)
    return _trace(q, z) + _trace(rest, _columns(products(rest.permute(2, 0, 1)))) / len(probes)


def _xtrace(products: Products, omega: Tensor) -> Tensor:
    """XTrace: for each vector, a basis of the products with all others, exactly, and the rest along that vector.

    The basis without vector i is that of all, less the direction `Q s_i`, with `s_i` the normalised column i of
    `R^-T`. The vector's part outside it is uniform in direction, so it gets the length that has the right mean.
    """
    dim, count = omega.shape[2], len(omega)
    y = products(omega)
    q, r, z = _basis(y, products)
    s = _normalised(_inverse_transpose(r))
    inside = q.mT @ _columns(omega)
    inside = inside - s * (s * inside).sum(1, keepdim=True)
    rest = _columns(omega) - q @ inside
    along = (rest * (_columns(y) - z @ inside)).sum(1)
    scale = (dim - count + 1) / rest.square().sum(1)
    less = (s * (q.mT @ z @ s)).sum(1)
    return (_trace(q, z)[:, None] - less + scale * along).mean(1)


def _inverse_transpose(r: Tensor) -> Tensor:
    """Return `R^-T` of triangular matrices; zeros of the diagonal, where the rank is exceeded, count as rounding."""
    eps = torch.finfo(r.dtype).eps
    floor = eps * r.abs().amax((1, 2)).clamp(min=eps)[:, None]
    diagonal = r.diagonal(dim1=1, dim2=2)
    missing = torch.where(diagonal.abs() < floor, floor, 0.0)
    unit = torch.eye(r.shape[1], dtype=r.dtype, device=r.device).expand_as(r)
    found: Tensor = torch.linalg.solve_triangular((r + torch.diag_embed(missing)).mT, unit, upper=False)
    return found


def _normalised(columns: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(columns, dim=1, keepdim=True)
    return columns / length
