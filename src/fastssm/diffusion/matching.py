"""Sliced score matching along a diffusion whose kernel is not known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args, overload

from torch import Tensor, nn
from typing_extensions import Required, Unpack

from fastssm import checks
from fastssm.diffusion.likelihood import TimeTensors
from fastssm.diffusion.model import ScoreModelArguments, check_sde, score_model
from fastssm.diffusion.sde import SDE, CustomSDE, LinearSDE
from fastssm.diffusion.simulation import check_simulation
from fastssm.diffusion.times import TimeSampling, check_t, check_times
from fastssm.losses.module import LossAndTerms, Out, ScoreLoss
from fastssm.losses.reduction import check_reduction, scaled
from fastssm.losses.sliced import sliced_of
from fastssm.noise import check_noise
from fastssm.operators import directions_of
from fastssm.options import Model, SlicedOptions, takes

Weighting = Literal["likelihood", "variance"]
TimeFunction = Callable[[Tensor], Tensor]


class SlicedDiffusionOptions(SlicedOptions, total=False):
    """Options of `sliced_diffusion_loss`.

    Attributes:
        sde: any diffusion; `CustomSDE(f, g)` simulates its states.
        weighting: lambda: "likelihood" for `g(t)^2`, "variance" for `std(t)^2` (closed-form kernels), or a function of
            t `[B]`.
        times: how times are drawn; `TimeSampling("uniform")` if None. Its weight multiplies lambda.
    """

    sde: Required[SDE]
    weighting: Weighting | TimeFunction
    times: TimeSampling | None


class SlicedDiffusionTensors(TimeTensors, total=False):
    """The tensors of a batch that `sliced_diffusion_loss` takes besides x.

    Attributes:
        noise: standard normal, instead of random noise: like x, for a `CustomSDE` `[steps, *x.shape]`.
    """


class SlicedDiffusionArguments(SlicedDiffusionTensors, SlicedDiffusionOptions, total=False):
    """Keyword arguments of `sliced_diffusion_loss`."""


@overload
def sliced_diffusion_loss(
    model: Model, x: Tensor, *, return_terms: Literal[False] = False, **options: Unpack[SlicedDiffusionArguments]
) -> Tensor: ...


@overload
def sliced_diffusion_loss(
    model: Model, x: Tensor, *, return_terms: Literal[True], **options: Unpack[SlicedDiffusionArguments]
) -> LossAndTerms: ...


@overload
def sliced_diffusion_loss(
    model: Model, x: Tensor, *, return_terms: bool, **options: Unpack[SlicedDiffusionArguments]
) -> Tensor | LossAndTerms: ...


@takes(SlicedDiffusionArguments, weighting="likelihood")
def sliced_diffusion_loss(
    model: Model, x: Tensor, *, return_terms: bool = False, **options: Unpack[SlicedDiffusionArguments]
) -> Tensor | LossAndTerms:
    """Learn the scores of all marginals of any diffusion, of which only drift and noise must be known.

    With t uniform on `[t_min, T]` and `x_t` the state of the diffusion that started in x,

        loss_b = lambda(t) (v^T J v + |s|^2 / 2),    s = s(x_t, t), J = ds/dx.

    The denoising loss needs the kernel's score; this one needs a sample of the kernel. Its minimiser over s is
    `d log p_t / dx`, for any positive weight lambda.

    Args:
        model: a score net or an energy of x at time t, called as `model(x, *cond, t)` with t `[B]`.
        x: data `[B, ...]`.
        options: keyword arguments of `SlicedDiffusionArguments`.
        return_terms: return `(loss, LossTerms)`, the terms without lambda.

    Returns:
        The loss, float32 for half-precision data, otherwise in the dtype of x; with `return_terms` a pair.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if shapes, devices, names or times do not fit.
        UnsupportedError: if the named backend cannot run the call, or none can.

    Example:
        >>> import fastssm.nn
        >>> from fastssm.diffusion import CustomSDE
        >>> net = fastssm.nn.MLP(2, [64, 64], 2, "silu", cond_dim=1)
        >>> double_well = CustomSDE(lambda x, t: x - x**3, lambda t: torch.ones_like(t), steps=20)
        >>> sliced_diffusion_loss(net, torch.randn(128, 2), sde=double_well).backward()

    Source: Song et al. 2021, "Score-based generative modeling through SDEs", section 3.3; Huang, Lim and Courville
    2021, section 3.
    """
    weighting, noise, generator = options["weighting"], options["noise"], options["generator"]
    sde, times = check_sde(options["sde"]), check_times(options["times"]) or TimeSampling("uniform")
    first = times.earliest(sde)
    _check_weighting(sde, weighting)
    call: ScoreModelArguments = {
        "sde": sde, "predicts": "score", "cond": options["cond"], "kind": options["kind"],
        "backend": options["backend"],
    }  # fmt: skip
    net = score_model(model, x, first, "objective", call, options["precision"])
    reduced = check_reduction(x, options["weight"], options["reduction"])
    if isinstance(sde, CustomSDE):
        check_simulation(sde.steps, noise, x)
    else:
        check_noise(noise, x)
    given, x = check_t(options["t"], x), net.request.x
    directions = directions_of(x, options)
    drawn = times.draw(sde, x, given, generator)
    reduced = scaled(reduced, _lambda(sde, weighting, drawn.t) * drawn.weights / (sde.end - first))
    state = sde.perturb(x, drawn.t, noise, generator)
    return sliced_of(
        net.backend, net.at(state, drawn.t), directions, options["variance_reduced"], reduced, return_terms
    )


def _check_weighting(sde: SDE, weighting: object) -> None:
    if callable(weighting):
        return
    checks.check_choice("weighting", weighting, get_args(Weighting))
    if weighting == "variance" and not isinstance(sde, LinearSDE):
        raise ValueError('weighting="variance" needs std(t), which a CustomSDE does not have; pass a function of t.')


def _lambda(sde: SDE, weighting: Weighting | TimeFunction, t: Tensor) -> Tensor:
    """Return `lambda(t)`, `[B]`."""
    if not callable(weighting):
        return (sde.std(t) if weighting == "variance" and isinstance(sde, LinearSDE) else sde.diffusion(t)).square()
    found = weighting(t)
    if found.shape != t.shape:
        raise ValueError(f"weighting(t) must have the shape of t, {tuple(t.shape)}, got {tuple(found.shape)}.")
    return found


class SlicedDiffusionLoss(ScoreLoss[Out], loss=sliced_diffusion_loss, tensors=SlicedDiffusionTensors):
    """`fastssm.diffusion.sliced_diffusion_loss` as a module that owns the network, for data-parallel wrappers.

    `SlicedDiffusionLoss(net, sde=sde)(x)` is `sliced_diffusion_loss(net, x, sde=sde)`.

    Example:
        >>> import fastssm.nn
        >>> from fastssm.diffusion import VP
        >>> loss = SlicedDiffusionLoss(fastssm.nn.MLP(2, [8], 2, "silu", cond_dim=1), sde=VP())
        >>> loss(torch.randn(16, 2)).backward()

    Source: Song et al. 2021.
    """

    @overload
    def __init__(
        self: SlicedDiffusionLoss[Tensor],
        model: nn.Module,
        *,
        return_terms: Literal[False] = False,
        **options: Unpack[SlicedDiffusionOptions],
    ) -> None: ...

    @overload
    def __init__(
        self: SlicedDiffusionLoss[LossAndTerms],
        model: nn.Module,
        *,
        return_terms: Literal[True],
        **options: Unpack[SlicedDiffusionOptions],
    ) -> None: ...

    @overload
    def __init__(
        self: SlicedDiffusionLoss[Tensor | LossAndTerms],
        model: nn.Module,
        *,
        return_terms: bool,
        **options: Unpack[SlicedDiffusionOptions],
    ) -> None: ...

    def __init__(self, model: nn.Module, **options: Any) -> None:
        super().__init__(model, **options)
