"""The last step of every loss: weight the samples and reduce their losses to a number."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from fastssm import checks
from fastssm.options import REDUCTIONS, Reduction


class LossTerms(NamedTuple):
    """The two terms of a loss per sample, detached, before weights and reduction; their sum is the sample's loss.

    Attributes:
        projected_jacobian: `mean_m v_m^T J v_m` (or `tr J`), `[B]`.
        square: `mean_m (v_m . s)^2 / 2`, or `|s|^2 / 2` with variance reduction, `[B]`.
    """

    projected_jacobian: Tensor
    square: Tensor


class Reducer(NamedTuple):
    """How the losses of the samples become one.

    Attributes:
        weight: weight of each sample `[B]`, or None.
        reduction: "mean", which divides by B for any weights, "sum" or "none".
    """

    weight: Tensor | None
    reduction: Reduction


def scaled(how: Reducer, factor: Tensor) -> Reducer:
    """Return the reducer whose weights are multiplied by a factor `[B]`."""
    return how._replace(weight=factor if how.weight is None else factor * how.weight.to(factor.dtype))


def reduce(each: Tensor, how: Reducer) -> Tensor:
    """Weight and reduce the losses of the samples `[B]`.

    A function, as `torch.compile` of torch 2.10 cannot trace a call of a tuple.
    """
    each = each if how.weight is None else each * how.weight.to(each.dtype)
    return each if how.reduction == "none" else each.mean() if how.reduction == "mean" else each.sum()


def one_number(how: Reducer) -> bool:
    """Say whether a loss can be computed with its gradients: it is a number, whose weights are constants."""
    return how.reduction != "none" and not (how.weight is not None and how.weight.requires_grad)


def check_reduction(x: Tensor, weight: object, reduction: Reduction) -> Reducer:
    """Return the reducer of a call, and raise unless the losses of its samples can be weighted and reduced."""
    checks.check_choice("reduction", reduction, REDUCTIONS)
    given = checks.check_weight(weight, x)
    if x.shape[0] == 0 and reduction == "mean":
        raise ValueError('x holds no samples, and the mean of an empty batch is undefined; use reduction="sum".')
    return Reducer(given, reduction)


def finish(jacobian: Tensor, square: Tensor, reduced: Reducer, return_terms: bool) -> Tensor | tuple[Tensor, LossTerms]:
    """Add up the two terms of each sample, weight and reduce them."""
    loss = reduce(jacobian + square, reduced)
    return (loss, LossTerms(jacobian.detach(), square.detach())) if return_terms else loss
