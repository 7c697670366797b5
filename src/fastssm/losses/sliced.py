"""Score matching, sliced and exact."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, get_args, overload

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from fastssm import backends, checks
from fastssm.backends.entries.flat import Form
from fastssm.directions import Directions
from fastssm.losses.module import LossAndTerms, Out, ScoreLoss
from fastssm.losses.reduction import LossTerms, Reducer, check_reduction, finish, one_number
from fastssm.operators import count_of, directions_of
from fastssm.options import (
    DEFAULTS,
    ControlVariate,
    LossOptions,
    LossTensors,
    Model,
    SlicedOptions,
    SlicedTensors,
    What,
    keys_of,
    takes,
)
from fastssm.sweeps import Terms


class SlicedScoreOptions(SlicedOptions, total=False):
    """Options of `sliced_loss`.

    Attributes:
        control_variate: "optimal" weights `(v . s)^2` against `|s|^2` by the coefficient that minimises the variance of
            the samples' losses times `weight`, estimated from the batch and held constant, which biases the loss of a
            small batch a little; needs two samples or more. Overrides `variance_reduced`.
    """

    control_variate: ControlVariate | None


class SlicedScoreArguments(SlicedTensors, SlicedScoreOptions, total=False):
    """Keyword arguments of `sliced_loss`."""


class ExactScoreArguments(LossTensors, LossOptions, total=False):
    """Keyword arguments of `exact_loss`."""


@overload
def sliced_loss(
    model: Model, x: Tensor, *, return_terms: Literal[False] = False, **options: Unpack[SlicedScoreArguments]
) -> Tensor: ...


@overload
def sliced_loss(
    model: Model, x: Tensor, *, return_terms: Literal[True], **options: Unpack[SlicedScoreArguments]
) -> LossAndTerms: ...


@overload
def sliced_loss(
    model: Model, x: Tensor, *, return_terms: bool, **options: Unpack[SlicedScoreArguments]
) -> Tensor | LossAndTerms: ...


@takes(SlicedScoreArguments)
def sliced_loss(
    model: Model, x: Tensor, *, return_terms: bool = False, **options: Unpack[SlicedScoreArguments]
) -> Tensor | LossAndTerms:
    r"""Sliced score matching: train an energy or a score net without forming a Hessian.

    `loss_b = mean_m( v_m^T J v_m + (v_m . s)^2 / 2 )`, or with variance reduction
    `loss_b = mean_m( v_m^T J v_m ) + |s|^2 / 2`, where `s = d log p / dx = -dE/dx` and `J = ds/dx`.

    It computes the same as this code, faster:

        x = x.detach().requires_grad_()
        s = -torch.autograd.grad(net(x).sum(), x, create_graph=True)[0]
        v = torch.randn_like(x).sign()
        Jv = torch.autograd.grad((s * v).sum(), x, create_graph=True)[0]
        loss = ((v * Jv).sum(1) + 0.5 * (s * s).sum(1)).mean()

    Args:
        model: an energy `E` (output `[B]` or `[B, 1]`, `log p = -E + const`) or a score (output like x). Any module
            runs; `fastssm.explain` says on which backend.
        x: data `[B, ...]`, flattened to `[B, D]` for the mathematics only. It is never changed, and may require grad.
        options: keyword arguments of `SlicedScoreArguments`.
        return_terms: return `(loss, LossTerms)`.

    Returns:
        The loss, float32 for half-precision data, otherwise in the dtype of x; with `return_terms` a pair.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if shapes, devices or names do not fit.
        UnsupportedError: if the named backend cannot run the call, or none can; the message lists every reason.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 64), nn.Softplus(), nn.Linear(64, 1))
        >>> loss = sliced_loss(net, torch.randn(128, 2))
        >>> loss.backward()

    Source: Song, Garg, Shi, Ermon 2019, "Sliced score matching", equations 7 and 8; control variate: appendix D.
    """
    if (found := _again(model, x, options, _SLICED)) is not None:
        return _with_terms(*found, return_terms)
    control_variate = options["control_variate"]
    checks.check_choice("control_variate", control_variate, (None, *get_args(ControlVariate)))
    request = backends.make_request(model, x, options["cond"], options["kind"], options["precision"])
    reduced = check_reduction(x, options["weight"], options["reduction"])
    _check_enough(x, control_variate)
    what: What = "objective" if control_variate is None else "terms"
    chosen = backends.select(request, what, options["backend"], count_of(x, options))
    directions = directions_of(x, options)
    if control_variate is None:
        return sliced_of(chosen, request, directions, options["variance_reduced"], reduced, return_terms)
    found = chosen.terms(request, directions)
    return finish(found.projected_jacobian, _controlled_square(found, reduced.weight), reduced, return_terms)


@overload
def exact_loss(
    model: Model, x: Tensor, *, return_terms: Literal[False] = False, **options: Unpack[ExactScoreArguments]
) -> Tensor: ...


@overload
def exact_loss(
    model: Model, x: Tensor, *, return_terms: Literal[True], **options: Unpack[ExactScoreArguments]
) -> LossAndTerms: ...


@overload
def exact_loss(
    model: Model, x: Tensor, *, return_terms: bool, **options: Unpack[ExactScoreArguments]
) -> Tensor | LossAndTerms: ...


@takes(ExactScoreArguments)
def exact_loss(
    model: Model, x: Tensor, *, return_terms: bool = False, **options: Unpack[ExactScoreArguments]
) -> Tensor | LossAndTerms:
    """Score matching with the exact trace: no projections, no noise.

    `loss_b = tr J + |s|^2 / 2`, where `s = d log p / dx = -dE/dx` and `J = ds/dx`.

    The curvatures of all D directions collapse into one row, so the cost is that of D + 2 rows. Directions are taken in
    chunks, so memory stays bounded for any D.

    Args:
        model: an energy or a score, as for `sliced_loss`.
        x: data `[B, ...]`.
        options: keyword arguments of `ExactScoreArguments`.
        return_terms: return `(loss, LossTerms)`.

    Returns:
        The loss; with `return_terms` a pair.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if shapes, devices or names do not fit.
        UnsupportedError: if the named backend cannot run the call, or none can.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 64), nn.Softplus(), nn.Linear(64, 1))
        >>> exact_loss(net, torch.randn(128, 2)).backward()

    Source: Hyvarinen 2005, "Estimation of non-normalized statistical models by score matching", theorem 1.
    """
    if (found := _again(model, x, options, _EXACT, basis=True)) is not None:
        return _with_terms(*found, return_terms)
    request = backends.make_request(model, x, options["cond"], options["kind"], options["precision"])
    reduced = check_reduction(x, options["weight"], options["reduction"])
    dim = math.prod(x.shape[1:])
    chosen = backends.select(request, "objective", options["backend"], dim)
    return sliced_of(chosen, request, Directions(dim), False, reduced, return_terms)


_Usual = tuple[tuple[str, Any], ...]


def _usual(arguments: Any) -> _Usual:
    """Return the options that a guarded call has at their defaults."""
    free = ("n_projections", "v", "variance_reduced", "reduction", "kind", "backend")
    return tuple((name, DEFAULTS.get(name)) for name in keys_of(arguments) if name not in free)


_ENGINES = ("auto", "cpu")
_SLICED, _EXACT = _usual(SlicedScoreArguments), _usual(ExactScoreArguments)


def _again(
    model: Model, x: Tensor, options: Mapping[str, Any], usual: _Usual, basis: bool = False
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Return the loss and its terms if the call is one that an engine remembers, else None."""
    for name, value in usual:
        if options[name] is not value:
            return None
    v, count = options.get("v"), options.get("n_projections")
    if count is not None and (v is not None or type(count) is not int or not 1 <= count <= checks.MOST):
        return None
    reduction, variance_reduced = options["reduction"], options.get("variance_reduced", False)
    if type(variance_reduced) is not bool or reduction not in ("mean", "sum") or options["backend"] not in _ENGINES:
        return None
    form = Form(variance_reduced, reduction == "mean")
    return backends.again(model, x, v, 0 if basis else count or 1, form, options["kind"])


def _with_terms(loss: Tensor, jacobian: Tensor, square: Tensor, return_terms: bool) -> Tensor | LossAndTerms:
    return (loss, LossTerms(jacobian.detach(), square.detach())) if return_terms else loss


def _check_enough(x: Tensor, control_variate: str | None) -> None:
    if control_variate is not None and x.shape[0] < 2:
        raise ValueError(
            f'control_variate="optimal" estimates a variance and needs two samples or more, got {x.shape[0]}.'
        )


def sliced_of(
    chosen: backends.Backend,
    request: backends.Request,
    directions: Directions,
    variance_reduced: bool,
    reduced: Reducer,
    return_terms: bool,
) -> Tensor | LossAndTerms:
    """Return the sliced loss of a checked call on a chosen backend: for all losses that are this one on other data.

    A fused backend computes a loss that is a number in one pass; otherwise the loss is made from the terms here.
    """
    if isinstance(chosen, backends.OnePass) and one_number(reduced):
        form = Form(variance_reduced, reduced.reduction == "mean")
        return _with_terms(*chosen.objective(request, directions, reduced.weight, form), return_terms)
    found = chosen.terms(request, directions)
    square = _norm_square(found) if variance_reduced else _projected_square(found)
    return finish(found.projected_jacobian, square, reduced, return_terms)


def _projected_square(found: Terms) -> Tensor:
    """`mean_m (v_m . s)^2 / 2`."""
    return 0.5 * found.projected_score.square().mean(0)


def _norm_square(found: Terms) -> Tensor:
    """`|s|^2 / 2`."""
    return 0.5 * found.score.square().sum(1)


def _controlled_square(found: Terms, weight: Tensor | None) -> Tensor:
    """`a - beta (a - c)` with `a = mean_m (v . s)^2 / 2`, `c = |s|^2 / 2`.

    `beta = Cov(w (j + a), w (a - c)) / Var(w (a - c))`. Moments are over the batch; `j` is the
    Jacobian's term and w the weight. `beta = 0` is SSM and `beta = 1` is SSM-VR. As `a - c` has mean zero, every
    constant `beta` gives the same expectation.
    """
    a, c = _projected_square(found), _norm_square(found)
    with torch.no_grad():
        w = torch.ones_like(a) if weight is None else weight.to(a.dtype)
        noise = w * (a - c)
        centred = noise - noise.mean()
        plain = w * (found.projected_jacobian + a)
        variance = centred.square().sum()
        tiny = 16.0 * torch.finfo(a.dtype).eps  # a = c up to rounding, say of a whole basis
        rounding = tiny**2 * (w.square() * (a.square() + c.square())).sum()
        beta = torch.where(variance > rounding, (plain * centred).sum() / variance, torch.ones_like(variance))
    return a - beta * (a - c)


class SlicedScoreLoss(ScoreLoss[Out], loss=sliced_loss, tensors=SlicedTensors):
    """`fastssm.sliced_loss` as a module that owns the network: `SlicedScoreLoss(net)(x)` is `sliced_loss(net, x)`.

    Data-parallel wrappers average the gradients of what they wrap when its `forward` has run, so wrap this, not the
    network: `DDP(SlicedScoreLoss(net))`.

    Example:
        >>> loss = SlicedScoreLoss(nn.Sequential(nn.Linear(2, 8), nn.Softplus(), nn.Linear(8, 1)))
        >>> loss(torch.randn(16, 2)).backward()

    Source: Song et al. 2019.
    """

    @overload
    def __init__(
        self: SlicedScoreLoss[Tensor],
        model: nn.Module,
        *,
        return_terms: Literal[False] = False,
        **options: Unpack[SlicedScoreOptions],
    ) -> None: ...

    @overload
    def __init__(
        self: SlicedScoreLoss[LossAndTerms],
        model: nn.Module,
        *,
        return_terms: Literal[True],
        **options: Unpack[SlicedScoreOptions],
    ) -> None: ...

    @overload
    def __init__(
        self: SlicedScoreLoss[Tensor | LossAndTerms],
        model: nn.Module,
        *,
        return_terms: bool,
        **options: Unpack[SlicedScoreOptions],
    ) -> None: ...

    def __init__(self, model: nn.Module, **options: Any) -> None:
        super().__init__(model, **options)


class ExactScoreLoss(ScoreLoss[Out], loss=exact_loss):
    """`fastssm.exact_loss` as a module that owns the network: `ExactScoreLoss(net)(x)` is `exact_loss(net, x)`.

    Example:
        >>> loss = ExactScoreLoss(nn.Sequential(nn.Linear(2, 8), nn.Softplus(), nn.Linear(8, 1)))
        >>> loss(torch.randn(16, 2)).backward()

    Source: Hyvarinen 2005.
    """

    @overload
    def __init__(
        self: ExactScoreLoss[Tensor],
        model: nn.Module,
        *,
        return_terms: Literal[False] = False,
        **options: Unpack[LossOptions],
    ) -> None: ...

    @overload
    def __init__(
        self: ExactScoreLoss[LossAndTerms],
        model: nn.Module,
        *,
        return_terms: Literal[True],
        **options: Unpack[LossOptions],
    ) -> None: ...

    @overload
    def __init__(
        self: ExactScoreLoss[Tensor | LossAndTerms],
        model: nn.Module,
        *,
        return_terms: bool,
        **options: Unpack[LossOptions],
    ) -> None: ...

    def __init__(self, model: nn.Module, **options: Any) -> None:
        super().__init__(model, **options)
