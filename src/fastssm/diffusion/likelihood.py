"""The continuous-time evidence bound of a diffusion model: as a loss, and evaluated on held-out data."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple, cast, get_args, get_type_hints, overload

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from fastssm import checks
from fastssm.diffusion.bound import decoder, denoising_path, noised, prior, sliced_path
from fastssm.diffusion.model import ScoreModelArguments, Unit, check_linear, score_model
from fastssm.diffusion.times import TimeSampling, check_t, check_times, time_density, uniform
from fastssm.diffusion.truncation import SoftTruncation
from fastssm.directions import Directions
from fastssm.losses.module import Out, ScoreLoss
from fastssm.losses.reduction import check_reduction, reduce
from fastssm.noise import check_noise
from fastssm.operators import directions_of
from fastssm.options import (
    DirectionArguments,
    DirectionOptions,
    Model,
    Precision,
    SlicedOptions,
    SlicedTensors,
    What,
    takes,
)

Form = Literal["sliced", "exact", "denoising"]


class ElboTerms(NamedTuple):
    """The parts of the bound per sample, detached, before weights and reduction: `-loss = prior - path + decoder`.

    Attributes:
        prior: `E log N(x_T; 0, prior_std^2 I) + D log mean(T)`, `[B]`.
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


class ElboPath(ScoreModelArguments, DirectionOptions, total=False):
    """What `elbo` hands on to `elbo_loss`.

    Attributes:
        times: how times are drawn; `TimeSampling()` if None. The bound needs a fixed `t_min` and no weight.
        precision: "full" or "bf16", as for `fastssm.sliced_loss`.
    """

    form: Form
    times: TimeSampling | None
    precision: Precision


class ElboEvaluation(ElboPath, total=False):
    """Keyword arguments of `elbo`.

    Attributes:
        form: "exact" (the full trace), "sliced" (Hutchinson's estimate) or "denoising".
        n_times: times per sample.
        unit: "nats", the bound itself; or "bits", minus the bound in bits per dimension. For pixels scaled by `c`, add
            `log2 c`.
    """

    n_times: int
    unit: Unit


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

    Args:
        model: a score net or an energy of x at time t, called as `model(x, *cond, t)` with t `[B]`:
            `fastssm.nn.MLP(D, widths, D, fourier_time=True)`, or with `cond_dim=1`, or any module. `ReciprocalVE`
            gives it the logarithm of the deviation instead of t.
        x: data `[B, ...]`.
        options: keyword arguments of `ElboArguments`.
        return_terms: return `(loss, ElboTerms)`.

    Returns:
        The loss in nats, float32 for half-precision data, otherwise in the dtype of x; with `return_terms` a pair.

    Raises:
        TypeError: if an argument has the wrong type, or the SDE no kernel in closed form.
        ValueError: if shapes, devices, names or times do not fit.
        UnsupportedError: if the named backend cannot run the call, or none can.

    Example:
        >>> import fastssm.nn
        >>> from fastssm.diffusion import VP
        >>> net = fastssm.nn.MLP(2, [64, 64], 2, "silu", fourier_time=True)
        >>> elbo_loss(net, torch.randn(128, 2), sde=VP()).backward()

    Source: Huang, Lim and Courville 2021, "A variational perspective on diffusion-based generative models and score
    matching", theorems 3 to 5; time sampling: appendix G; decoder: Kim et al. 2022, section 3.
    """
    form, lam, generator = options["form"], options["lam"], options["generator"]
    linear = check_linear(options["sde"])
    checks.check_choice("form", form, get_args(Form))
    times = check_times(options["times"]) or TimeSampling()
    what: What = "score" if form == "denoising" else "objective"
    net = score_model(model, x, times.earliest(linear), what, options, options["precision"])
    reduced = check_reduction(x, options["weight"], options["reduction"])
    _check_lam(lam)
    check_noise(options["noise"], x)
    given, x = check_t(options["t"], x), net.request.x
    directions = _directions(form, x, options)
    at = noised(linear, x, times, given, options["noise"], generator)
    at = at._replace(times=at.times.scaled(1.0 + lam**2 / (4.0 * (1.0 - lam))))
    if directions is None:
        each = denoising_path(net, linear, at)
        path: Tensor = reduce(each, reduced)
    else:
        variance_reduced = options["variance_reduced"] and form == "sliced"
        path, each = sliced_path(net, at, directions, variance_reduced, reduced, return_terms)
    known = prior(linear, x)
    decoded = decoder(net, linear, x, at) if options["decoder"] else torch.zeros_like(known)
    loss = path - reduce(known + decoded, reduced)
    return (loss, ElboTerms(known.detach(), each.detach(), decoded.detach())) if return_terms else loss


@takes(ElboEvaluation, form="exact", n_times=16, unit="nats", predicts="score")
def elbo(model: Model, x: Tensor, **options: Unpack[ElboEvaluation]) -> Tensor:
    """Evaluate a lower bound of the log likelihood of every sample, without bias.

    `elbo_b = prior + decoder - mean_j g(t_j)^2 / q(t_j) (tr J + |s|^2 / 2)`, the terms of `elbo_loss`, with the times
    `t_j` of one sample stratified: one in each `1 / n_times` of the mass of q.

    Args:
        model: a model as for `elbo_loss`.
        x: data `[B, ...]`.
        options: keyword arguments of `ElboEvaluation`.

    Returns:
        The bound `[B]`, without gradients. Its mean over samples has the standard error `std / sqrt(B)`.

    Raises:
        TypeError: as `elbo_loss` does.
        ValueError: as `elbo_loss` does, or for times that are drawn anew or weighted.
        UnsupportedError: as `elbo_loss` does.

    Example:
        >>> import fastssm.nn
        >>> from fastssm.diffusion import VP
        >>> net = fastssm.nn.MLP(2, [64, 64], 2, "silu", fourier_time=True)
        >>> elbo(net, torch.randn(5, 2), sde=VP(), unit="bits").shape
        torch.Size([5])

    Source: Huang, Lim and Courville 2021, theorem 3; stratified times: Kingma et al. 2021, appendix I.
    """
    n_times, unit, generator = options["n_times"], options["unit"], options["generator"]
    checks.check_choice("unit", unit, get_args(Unit))
    checks.check_count("n_times", n_times)
    checks.check_data(x)
    linear, times = check_linear(options["sde"]), _check_fixed(check_times(options["times"]) or TimeSampling())
    density = time_density(linear, times.density, times.earliest(linear))
    call = cast("ElboPath", {name: options[name] for name in get_type_hints(ElboPath)})  # type: ignore[literal-required]
    total = torch.zeros_like(checks.widened(x).flatten(1)[:, 0])
    with torch.no_grad():
        for stratum in range(n_times):
            u = (stratum + uniform(checks.widened(x), generator)) / n_times
            total -= elbo_loss(model, x, t=density.quantile(u), reduction="none", **call)
    nats = total / n_times
    return nats if unit == "nats" else -nats / (math.log(2.0) * math.prod(x.shape[1:]))


def _check_fixed(times: TimeSampling) -> TimeSampling:
    """Return the sampling of times, and raise ValueError unless it gives a bound."""
    if isinstance(times.t_min, SoftTruncation) or times.weight is not None:
        raise ValueError(f"elbo evaluates a bound, which needs a fixed t_min and no weight, got {times}.")
    return times


def _check_lam(lam: object) -> None:
    if isinstance(lam, bool) or not isinstance(lam, int | float):
        raise TypeError(f"lam must be a number, got {type(lam).__name__}.")
    if not 0.0 <= lam < 1.0:
        raise ValueError(f"lam must satisfy 0 <= lam < 1, got {lam}; at 1 the process is an ODE, see flow_log_prob.")


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
