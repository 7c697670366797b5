"""Composite score matching: an autoregressive model trained through its one-dimensional conditional scores."""

from __future__ import annotations

from typing import Any, Literal, overload

import torch
from torch import Tensor, nn
from typing_extensions import TypedDict, Unpack

from fastssm import checks, conditionals
from fastssm.losses.denoising import denoising_loss
from fastssm.losses.module import LossAndTerms, Out, ScoreLoss
from fastssm.losses.reduction import LossTerms, Reducer, check_reduction, finish, reduce
from fastssm.losses.sliced import exact_loss
from fastssm.noise import check_noise, check_sigma
from fastssm.options import EngineOptions, Model, NetworkKind, RandomOptions, ReductionOptions, takes


class CompositeOptions(EngineOptions, ReductionOptions, RandomOptions, total=False):
    """Options of `composite_loss`.

    Attributes:
        sigma: standard deviation of the noise of the denoising form, a number or one per sample `[B]`; None for the
            exact form.
        kind: "energy" (`s_d = -dE/dx_d`) or "score"; the shape of a one-dimensional output cannot tell.
    """

    sigma: float | Tensor | None
    kind: NetworkKind


class CompositeTensors(TypedDict, total=False):
    """The tensors of a batch that `composite_loss` takes besides x.

    Attributes:
        weight: weight of each sample, `[B]`; "mean" still divides by B.
        noise: z, like x, instead of random noise; needs `sigma`.
    """

    weight: Tensor | None
    noise: Tensor | None


class CompositeArguments(CompositeTensors, CompositeOptions, total=False):
    """Keyword arguments of `composite_loss`."""


class _Call(EngineOptions, total=False):
    """What the losses of the head take from the composite loss."""

    cond: Tensor
    kind: NetworkKind


@overload
def composite_loss(
    context_net: Model,
    head: Model,
    x: Tensor,
    *,
    return_terms: Literal[False] = False,
    **options: Unpack[CompositeArguments],
) -> Tensor: ...


@overload
def composite_loss(
    context_net: Model,
    head: Model,
    x: Tensor,
    *,
    return_terms: Literal[True],
    **options: Unpack[CompositeArguments],
) -> LossAndTerms: ...


@overload
def composite_loss(
    context_net: Model, head: Model, x: Tensor, *, return_terms: bool, **options: Unpack[CompositeArguments]
) -> Tensor | LossAndTerms: ...


@takes(CompositeArguments, kind="energy")
def composite_loss(
    context_net: Model,
    head: Model,
    x: Tensor,
    *,
    return_terms: bool = False,
    **options: Unpack[CompositeArguments],
) -> Tensor | LossAndTerms:
    """Composite score matching of an autoregressive model: exact, with one direction per coordinate and no projections.

    `loss_b = sum_d( ds_d/dx_d + s_d^2 / 2 )` with the conditional scores `s_d = d log p(x_d | x_{<d}) / dx_d`, which
    `head` computes from `x_d` and the context `c_d(x_{<d})`. With `sigma`, denoising: `x~_d = x_d + sigma z_d` and
    `loss_b = sum_d (s_d(c_d, x~_d) + z_d / sigma)^2 / 2`, the context being that of the clean data.

    The B D pairs of a sample and a coordinate are one batch of one-dimensional data, of which the contexts are the
    conditioning columns: the engine runs them in 3 rows for any D, and gives the contexts their gradients.

    Args:
        context_net: from x to contexts `[B, D, C]`, that of `d` a function of the coordinates before `d`, such as a
            `fastssm.nn.MADEContext`.
        head: a one-dimensional energy or score of `(x_d [N, 1], c_d [N, C])`, such as
            `fastssm.nn.MLP(1, widths, cond_dim=C)`, shared by all coordinates.
        x: data `[B, ...]`, flattened to `[B, D]`.
        options: keyword arguments of `CompositeArguments`.
        return_terms: return `(loss, LossTerms)`; in the denoising form the Jacobian's term is zero.

    Returns:
        The loss; with `return_terms` a pair. It can be differentiated once, in both nets' parameters and in x.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if shapes, devices or names do not fit, or sigma is not positive.
        UnsupportedError: if the named backend cannot run the head, or none can.

    Example:
        >>> context = fastssm.nn.MADEContext(2, 8, [32])
        >>> head = fastssm.nn.MLP(1, [32, 32], cond_dim=8)
        >>> composite_loss(context, head, torch.randn(64, 2)).backward()

    Source: Meng, Yu, Song, Song, Ermon 2020, "Autoregressive score matching", equations 5 and 7.
    """
    kind, noise, sigma = options["kind"], options["noise"], options["sigma"]
    points, contexts = conditionals.pairs(context_net, x, kind)
    reduced = check_reduction(x, options["weight"], options["reduction"])
    call: _Call = {
        "cond": contexts, "kind": kind, "backend": options["backend"], "precision": options["precision"],
    }  # fmt: skip
    if sigma is None and noise is not None:
        raise ValueError("noise belongs to the denoising form; pass sigma too, or leave noise out.")
    if sigma is None:
        return _exact(head, points, x, reduced, return_terms, call)
    check_noise(noise, x)
    shape = len(x), x.shape[1:].numel()
    each = denoising_loss(
        head, points, sigma=check_sigma(sigma, x).expand(len(x)).repeat_interleave(shape[1]),
        noise=None if noise is None else noise.reshape(-1, 1), generator=options["generator"], reduction="none", **call,
    )  # fmt: skip
    square = each.view(shape).sum(1)
    return finish(torch.zeros_like(square), square, reduced, return_terms)


def _exact(
    head: Model, points: Tensor, x: Tensor, reduced: Reducer, return_terms: bool, call: _Call
) -> Tensor | LossAndTerms:
    """Return the exact form: the losses of all coordinates, added up."""
    shape = len(x), x.shape[1:].numel()
    weight, reduction = reduced
    if reduction == "none":
        each, parts = exact_loss(head, points, reduction="none", return_terms=True, **call)
        loss = reduce(each.view(shape).sum(1), reduced)
    else:
        shared = None if weight is None else weight.repeat_interleave(shape[1])
        loss, parts = exact_loss(head, points, weight=shared, reduction="sum", return_terms=True, **call)
        loss = loss / len(x) if reduction == "mean" else loss
    return (loss, LossTerms(*(part.view(shape).sum(1) for part in parts))) if return_terms else loss


class CompositeLoss(ScoreLoss[Out], loss=composite_loss, tensors=CompositeTensors):
    """`fastssm.composite_loss` as a module that owns both nets: `CompositeLoss(context_net, head)(x)`.

    The head is kept as the attribute `model`.

    Example:
        >>> import torch
        >>> from fastssm.nn import MLP, MADEContext
        >>> loss = CompositeLoss(MADEContext(2, 8, [32]), MLP(1, [32, 32], cond_dim=8))
        >>> loss(torch.randn(64, 2)).backward()

    Source: Meng et al. 2020.
    """

    @overload
    def __init__(
        self: CompositeLoss[Tensor],
        context_net: nn.Module,
        head: nn.Module,
        *,
        return_terms: Literal[False] = False,
        **options: Unpack[CompositeOptions],
    ) -> None: ...

    @overload
    def __init__(
        self: CompositeLoss[LossAndTerms],
        context_net: nn.Module,
        head: nn.Module,
        *,
        return_terms: Literal[True],
        **options: Unpack[CompositeOptions],
    ) -> None: ...

    @overload
    def __init__(
        self: CompositeLoss[Tensor | LossAndTerms],
        context_net: nn.Module,
        head: nn.Module,
        *,
        return_terms: bool,
        **options: Unpack[CompositeOptions],
    ) -> None: ...

    def __init__(self, context_net: nn.Module, head: nn.Module, **options: Any) -> None:
        super().__init__(head, **options)
        checks.check_module(context_net)
        checks.check_not_wrapped([context_net])
        self.context_net = context_net

    def evaluate(self, x: Tensor, **tensors: Any) -> Out:
        """Call the function with both nets."""
        out: Out = composite_loss(self.context_net, self.model, x, **tensors, **self.options)
        return out
