"""What every loss does last: weigh its samples and reduce them to a number."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from fastssm import checks

Cond = Tensor | tuple[Tensor, ...] | None


class LossTerms(NamedTuple):
    """The two terms of a loss per sample, detached, before weights and reduction; their sum is the sample's loss.

    Attributes:
        projected_jacobian: `mean_m v_m^T J v_m` (or `tr J`), `[B]`.
        square: `mean_m (v_m . s)^2 / 2`, or `|s|^2 / 2` with variance reduction, `[B]`.
    """

    projected_jacobian: Tensor
    square: Tensor


def check_reduction(x: Tensor, weight: object, reduction: str) -> Tensor | None:
    """Return the weight, None or `[B]`, and raise unless the samples' losses can be weighed and reduced."""
    checks.check_choice("reduction", reduction, checks.REDUCTIONS)
    given = checks.check_weight(weight, x)
    if x.shape[0] == 0 and reduction == "mean":
        raise ValueError('x holds no samples, and the mean of an empty batch is undefined; use reduction="sum".')
    return given


def reduced(each: Tensor, weight: Tensor | None, reduction: str) -> Tensor:
    """Weigh and reduce the samples' losses `[B]`; "mean" divides by B, whatever the weights."""
    each = each if weight is None else each * weight.to(each.dtype)
    return each if reduction == "none" else each.mean() if reduction == "mean" else each.sum()


def finish(
    jacobian: Tensor, square: Tensor, weight: Tensor | None, reduction: str, return_terms: bool
) -> Tensor | tuple[Tensor, LossTerms]:
    """Add up the two terms of each sample, weigh and reduce them."""
    loss = reduced(jacobian + square, weight, reduction)
    return (loss, LossTerms(jacobian.detach(), square.detach())) if return_terms else loss
