"""The continuous-time evidence bound of a diffusion model as a loss."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple, get_args, overload

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from fastssm import checks
from fastssm.diffusion.bound import decoder, denoising_path, noised, prior, sliced_path
from fastssm.diffusion.model import ScoreModelArguments, check_bounded, score_model
from fastssm.diffusion.sde import SDE, CustomSDE
from fastssm.diffusion.simulation import check_simulation
from fastssm.diffusion.times import TimeSampling, check_t, check_times
from fastssm.directions import Directions
from fastssm.losses.module import Out, ScoreLoss
from fastssm.losses.reduction import check_reduction, reduce
from fastssm.noise import check_noise
from fastssm.operators import directions_of
from fastssm.options import (
    DirectionArguments,
    Model,
    SlicedOptions,
    SlicedTensors,
    What,
    takes,
)

Form = Literal["sliced", "exact", "denoising"]


class ElboTerms(NamedTuple):
    """The parts of the bound per sample, detached, before weights and reduction: `-loss = prior - path + decoder`.

    Attributes:
        prior: `E log N(x_T; 0, prior_std^2 I) + D log mean(T)`, `[B]`; of a `CustomSDE` one draw of it.
        path: the integral over time, one draw of it, `[B]`.
        decoder: `(|z|^2 - |z + std s|^2) / 2` at the earliest time, `[B]`; 0 where that is the data's own.
    """

    prior: Tensor
    path: Tensor
    decoder: Tensor


LossAndElboTerms = tuple[Tensor, ElboTerms]


class ElboOptions(SlicedOptions, ScoreModelArguments, total=False):
    """Options of `elbo_loss`.

    Attributes:
        form: "sliced", "exact" (the full trace) or "denoising".
        times: how times are drawn and weighted; `TimeSampling()`, which is importance sampling, if None.
            `predicts="noise"` with VP or SubVP needs an earliest time, `TimeSampling(t_min=1e-3)`.
        lam: member of the family of generative processes with noise `sqrt(1 - lam) g dw`, from 0 (the reverse-time
            SDE) to below 1: the path's term is multiplied by `1 + lam^2 / (4 (1 - lam))`, which bounds the likelihood
            of that process up to a constant in the model.
        decoder: whether to add the decoder's term. Without it the loss bounds the likelihood of `x_{t_min}`, up to
            a constant.
        variance_reduced: use `|s|^2` in place of `(v . s)^2`, in the sliced form.
    """

    form: Form
    times: TimeSampling | None
    lam: float
    decoder: bool


class TimeTensors(SlicedTensors, total=False):
    """The tensors of a batch that diffusion losses take besides x.

    Attributes:
        cond: further arguments of the model, before the time: `model(x, *cond, t)`.
        t: times `[B]`, instead of random ones; weighted as if drawn.
        noise: standard normal noise in the shape of x, instead of random noise.
    """

    t: Tensor | None
    noise: Tensor | None


class ElboArguments(TimeTensors, ElboOptions, total=False):
    """Keyword arguments of `elbo_loss`."""


@overload
def elbo_loss(
    model: Model, x: Tensor, *, return_terms: Literal[False] = False, **options: Unpack[ElboArguments]
) -> Tensor: ...


@overload
def elbo_loss(
    model: Model, x: Tensor, *, return_terms: Literal[True], **options: Unpack[ElboArguments]
) -> LossAndElboTerms: ...


@overload
def elbo_loss(
    model: Model, x: Tensor, *, return_terms: bool, **options: Unpack[ElboArguments]
) -> Tensor | LossAndElboTerms: ...


@takes(ElboArguments, form="sliced", predicts="score", lam=0.0, decoder=True)
def elbo_loss(
    model: Model, x: Tensor, *, return_terms: bool = False, **options: Unpack[ElboArguments]
) -> Tensor | LossAndElboTerms:
    """Train a diffusion model by maximum likelihood: score matching, weighted to bound `-log p(x)` in nats.

    With `x_t = mean(t) x + std(t) z`, `q` the density of t, and the score `s = s(x_t, t)`, one sample's loss is

        loss_b = g(t)^2 / q(t) (v^T J v + |s|^2 / 2)  -  prior  -  decoder,
        prior = E log N(x_T; 0, prior_std^2 I) + D log mean(T),
        decoder = (|z|^2 - |z + std s|^2) / 2  at t_min, 0 where std(t_min) = 0,

    whose mean over t, z and v is at least `-log p(x)`, with equality for the true score and prior. The denoising form
    has `s . z / std + |s|^2 / 2` in the bracket: the same mean, given x, without a Jacobian.

    In Huang's notation `a = g s`: the divergence of `g a - f` is that of the network, which the engine computes, and
    that of the drift, whose integral is `D log mean(T)`.

    Of a `CustomSDE` one path is simulated to T, with a stop at t, where the drift's divergence is taken along the
    same directions:

        prior = log N(x_T; 0, prior_std^2 I) + v^T (df/dx) v / q(t),    decoder = 0.

    Its mean over paths is the bound up to the error of the simulation, which decreases with `1 / steps`. It is
    differentiable in f and g too. The network's gradient does not depend on `prior`, which here adds noise to the
    value.

    Args:
        model: a score net or an energy of x at time t, called as `model(x, *cond, t)` with t `[B]`:
            `fastssm.nn.MLP(D, widths, D, fourier_time=True)`, or with `cond_dim=1`, or any module. `ReciprocalVE`
            gives it the logarithm of the deviation instead of t.
        x: data `[B, ...]`.
        options: keyword arguments of `ElboArguments`.
        noise: for a `CustomSDE` `[steps + 1, *x.shape]`.
        return_terms: return `(loss, ElboTerms)`.

    Returns:
        The loss in nats, float32 for half-precision data, otherwise in the dtype of x; with `return_terms` a pair.

    Raises:
        TypeError: if an argument has the wrong type, or the SDE neither a kernel in closed form nor a simulation.
        ValueError: if shapes, devices, names or times do not fit, or for the denoising form or a decoder of a
            `CustomSDE`, which need its kernel.
        UnsupportedError: if the named backend cannot run the call, or none can.

    Example:
        >>> import fastssm.nn
        >>> from fastssm.diffusion import VP, CustomSDE
        >>> net = fastssm.nn.MLP(2, [64, 64], 2, "silu", fourier_time=True)
        >>> elbo_loss(net, torch.randn(128, 2), sde=VP()).backward()
        >>> spring = CustomSDE(lambda x, t: -x - x**3, lambda t: torch.full_like(t, 1.4), steps=20)
        >>> elbo_loss(net, torch.randn(128, 2), sde=spring).backward()

    Source: Huang, Lim and Courville 2021, "A variational perspective on diffusion-based generative models and score
    matching", theorems 3 to 5; time sampling: appendix G; decoder: Kim et al. 2022, section 3.
    """
    form, lam, generator = options["form"], options["lam"], options["generator"]
    sde = check_bounded(options["sde"])
    checks.check_choice("form", form, get_args(Form))
    times = check_times(options["times"]) or TimeSampling()
    _check_simulated(sde, form, options["decoder"], times.earliest(sde))
    what: What = "score" if form == "denoising" else "objective"
    net = score_model(model, x, times.earliest(sde), what, options, options["precision"])
    reduced = check_reduction(x, options["weight"], options["reduction"])
    check_lam(lam)
    _check_given(sde, options, x)
    given, x = check_t(options["t"], x), net.request.x
    directions = _directions(form, x, options)
    at = noised(sde, x, times, given, options["noise"], generator)
    at = at._replace(times=at.times.scaled(family_factor(lam)))
    if directions is None:
        each = denoising_path(net, at)
        path: Tensor = reduce(each, reduced)
    else:
        variance_reduced = options["variance_reduced"] and form == "sliced"
        path, each = sliced_path(net, at, directions, variance_reduced, reduced, return_terms)
    known = prior(sde, x, at, directions)
    decoded = decoder(net, x, at) if options["decoder"] else torch.zeros_like(known)
    loss = path - reduce(known + decoded, reduced)
    return (loss, ElboTerms(known.detach(), each.detach(), decoded.detach())) if return_terms else loss


def _check_simulated(sde: SDE, form: Form, decoded: bool, first: float) -> None:
    """Raise ValueError for a CustomSDE if something needs its kernel."""
    if not isinstance(sde, CustomSDE):
        return
    if form == "denoising":
        raise ValueError(
            'form="denoising" needs the score of a kernel in closed form, which a CustomSDE does not have; use '
            'form="sliced" or form="exact".'
        )
    if decoded and first > sde.start:
        raise ValueError(
            f"a decoder needs a kernel in closed form, which a CustomSDE does not have, got the earliest time {first}; "
            "leave out t_min, or pass decoder=False, which bounds the likelihood of the state at that time."
        )


def _check_given(sde: SDE, options: ElboArguments, x: Tensor) -> None:
    """Raise unless noise and times, if given, are what the SDE needs to take x to any time."""
    noise, t = options["noise"], options["t"]
    if not isinstance(sde, CustomSDE):
        return check_noise(noise, x)
    check_simulation(sde.steps + 1, noise, x)
    given = check_t(t, x)
    if given is not None:
        inside = (given >= sde.start) & (given <= sde.end)
        checks.check_rows(inside, f"t must lie in [{sde.start:g}, {sde.end:g}]", "a simulation goes no further")


def check_lam(lam: object) -> None:
    """Raise unless the number is one of the members of the family that are not an ODE."""
    if isinstance(lam, bool) or not isinstance(lam, int | float):
        raise TypeError(f"lam must be a number, got {type(lam).__name__}.")
    if not 0.0 <= lam < 1.0:
        raise ValueError(f"lam must satisfy 0 <= lam < 1, got {lam}; at 1 the process is an ODE, see flow_log_prob.")


def family_factor(lam: float) -> float:
    """Return what multiplies the path's term for a member of the family."""
    return 1.0 + lam**2 / (4.0 * (1.0 - lam))


def _directions(form: Form, x: Tensor, options: DirectionArguments) -> Directions | None:
    """Return the directions of the sliced form, the basis for the exact one, None for denoising."""
    v, n_projections = options["v"], options["n_projections"]
    if form == "sliced":
        return directions_of(x, options)
    if v is not None or n_projections is not None:
        raise ValueError(f'v and n_projections are for form="sliced", got form="{form}"; leave them out.')
    checks.check_generator(options["generator"])
    return Directions(math.prod(x.shape[1:])) if form == "exact" else None


class ElboLoss(ScoreLoss[Out], loss=elbo_loss, tensors=TimeTensors):
    """`fastssm.diffusion.elbo_loss` as a module that owns the network, for data-parallel wrappers.

    `ElboLoss(net, sde=sde)(x)` is `elbo_loss(net, x, sde=sde)`.

    Example:
        >>> import fastssm.nn
        >>> from fastssm.diffusion import VP
        >>> loss = ElboLoss(fastssm.nn.MLP(2, [8], 2, "silu", cond_dim=1), sde=VP())
        >>> loss(torch.randn(16, 2)).backward()

    Source: Huang, Lim and Courville 2021.
    """

    @overload
    def __init__(
        self: ElboLoss[Tensor],
        model: nn.Module,
        *,
        return_terms: Literal[False] = False,
        **options: Unpack[ElboOptions],
    ) -> None: ...

    @overload
    def __init__(
        self: ElboLoss[LossAndElboTerms],
        model: nn.Module,
        *,
        return_terms: Literal[True],
        **options: Unpack[ElboOptions],
    ) -> None: ...

    @overload
    def __init__(
        self: ElboLoss[Tensor | LossAndElboTerms],
        model: nn.Module,
        *,
        return_terms: bool,
        **options: Unpack[ElboOptions],
    ) -> None: ...

    def __init__(self, model: nn.Module, **options: Any) -> None:
        super().__init__(model, **options)
