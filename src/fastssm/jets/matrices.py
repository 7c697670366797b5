"""Functions of matrices: inverse, determinants, linear systems.

With `X = A^-1`: `X' = -X A' X`, `X'' = -X K X + 2 sum_m X A'_m X A'_m X`, and for `log |det A|` the tangents
`tr X A'` and the curvature `tr X K - sum_m tr X A'_m X A'_m`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastssm.jets.jet import Jet, NoRule
from fastssm.jets.linear import linear
from fastssm.jets.operand import apply, closed, composed
from fastssm.jets.rules import rule


@rule("inv", "inverse", "linalg_inv")
def inverse(input: Jet) -> Jet:
    """The inverse."""
    x, tape = torch.linalg.inv(input.value), input.tape
    xt = x @ input.tangents

    def curve(k: Tensor | None) -> Tensor:
        bent = 2.0 * tape.total(xt @ xt)
        return torch.matmul(bent if k is None else bent - x @ k, x)

    return tape.jet(x, -xt @ x, (input,), curve)


@rule("slogdet", "linalg_slogdet")
def slogdet(input: Jet) -> Any:
    """The sign, a constant, and the logarithm of the absolute value of the determinant."""
    found = torch.linalg.slogdet(input.value)
    sign, value = found
    x, tape = torch.linalg.inv(input.value), input.tape
    xt = x @ input.tangents

    def curve(k: Tensor | None) -> Tensor:
        bent = tape.total(-(xt * xt.mT).sum((-2, -1)))
        return bent if k is None else bent + _trace(x @ k)

    return type(found)((sign, tape.jet(value, _trace(xt), (input,), curve)))


def _trace(rows: Tensor) -> Tensor:
    return rows.diagonal(dim1=-2, dim2=-1).sum(-1)


@composed("logdet")
def logdet(input: Any) -> Any:
    """The logarithm of the determinant, NaN where that is negative."""
    sign, value = apply(torch.linalg.slogdet, input)
    return value * closed(torch.where(sign.value > 0, 1.0, torch.nan).to(sign.value.dtype))


@composed("det", "linalg_det")
def det(input: Any) -> Any:
    """The determinant of a regular matrix."""
    sign, value = apply(torch.linalg.slogdet, input)
    return value.exp() * sign


@composed("solve", "linalg_solve")
def solve(a: Any, b: Any, *, left: bool = True) -> Any:
    """`A^-1 B`."""
    if not left:
        raise NoRule("jets have a rule for linalg.solve with left=True only")
    if b.ndim == 1 or (a.ndim > 2 and b.shape == a.shape[:-1]):
        return apply(torch.linalg.solve, a, b.unsqueeze(-1)).squeeze(-1)
    if isinstance(a.tensor, Jet):
        return apply(torch.linalg.inv, a).matmul(b)
    batch = torch.broadcast_shapes(a.shape[:-2], b.shape[:-2])  # type: ignore[no-untyped-call]
    whole = a.value.expand(*batch, *a.shape[-2:])
    return closed(linear(b.tensor, lambda z: torch.linalg.solve(whole, z)))


@rule("solve_triangular", "linalg_solve_triangular")
def solve_triangular(a: Any, b: Any, **options: Any) -> Jet:
    """`A^-1 B` for a triangular matrix that does not depend on x."""
    if isinstance(a, Jet):
        raise NoRule("jets have no rule for solve_triangular with a matrix that depends on x; use torch.linalg.solve")
    return linear(b, lambda z: torch.linalg.solve_triangular(a, z, **options))
