"""The continuous-time evidence bound of a diffusion model: as a loss, and evaluated on held-out data."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple, overload

import torch
from torch import Tensor, nn

from fastssm import checks
from fastssm.diffusion.model import ScoreModel, check_first, check_linear, check_t, score_model
from fastssm.diffusion.sde import SDE, LinearSDE, normal_like
from fastssm.diffusion.times import TIMES, TimeDensity, starts_in_data, time_density, uniform
from fastssm.diffusion.truncation import SoftTruncation
from fastssm.directions import Directions
from fastssm.losses.reduction import Cond, check_reduction, reduced
from fastssm.losses.sliced import sliced_of
from fastssm.noise import check_noise
from fastssm.operators import choose_directions

FORMS = ("sliced", "exact", "denoising")
UNITS = ("nats", "bits")


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


@overload
def elbo_loss(
    model: nn.Module,
    x: Tensor,
    *,
    sde: SDE,
    form: str = "sliced",
    predicts: str = "score",
    times: str = "importance",
    t_min: float | None = None,
    truncation: SoftTruncation | None = None,
    time_weight: Callable[[Tensor], Tensor] | None = None,
    lam: float = 0.0,
    decoder: bool = True,
    cond: Cond = None,
    t: Tensor | None = None,
    noise: Tensor | None = None,
    v: Tensor | None = None,
    n_projections: int | None = None,
    projection: str = "rademacher",
    variance_reduced: bool = True,
    kind: str = "auto",
    weight: Tensor | None = None,
    reduction: str = "mean",
    generator: torch.Generator | None = None,
    backend: str = "auto",
    precision: str = "full",
    return_terms: Literal[False] = False,
) -> Tensor: ...


@overload
def elbo_loss(
    model: nn.Module, x: Tensor, *, sde: SDE, return_terms: Literal[True], **options: object
) -> tuple[Tensor, ElboTerms]: ...


def elbo_loss(  # type: ignore[misc]  # the second overload leaves its options open
    model: nn.Module,
    x: Tensor,
    *,
    sde: SDE,
    form: str = "sliced",
    predicts: str = "score",
    times: str = "importance",
    t_min: float | None = None,
    truncation: SoftTruncation | None = None,
    time_weight: Callable[[Tensor], Tensor] | None = None,
    lam: float = 0.0,
    decoder: bool = True,
    cond: Cond = None,
    t: Tensor | None = None,
    noise: Tensor | None = None,
    v: Tensor | None = None,
    n_projections: int | None = None,
    projection: str = "rademacher",
    variance_reduced: bool = True,
    kind: str = "auto",
    weight: Tensor | None = None,
    reduction: str = "mean",
    generator: torch.Generator | None = None,
    backend: str = "auto",
    precision: str = "full",
    return_terms: bool = False,
) -> Tensor | tuple[Tensor, ElboTerms]:
    """Train a diffusion model by maximum likelihood: score matching, weighed to bound `-log p(x)` in nats.

    With `x_t = mean(t) x + std(t) z`, `q` the density of t, and the score `s = s(x_t, t)`, one sample's loss is

        loss_b = g(t)^2 / q(t) (v^T J v + |s|^2 / 2)  -  prior  -  decoder,
        prior = E log N(x_T; 0, prior_std^2 I) + D log mean(T),
        decoder = (|z|^2 - |z + std s|^2) / 2  at t_min, nothing where std(t_min) = 0,

    whose mean over t, z and v is at least `-log p(x)`, with equality for the true score and prior. The denoising form
    has `s . z / std + |s|^2 / 2` in the bracket: the same mean, given x, without a Jacobian.

    In Huang's notation `a = g s`: the divergence of `g a - f` is that of the network, which the engine computes, and
    that of the drift, whose integral is `D log mean(T)`.

    Args:
        model: a score net or an energy of x at time t, called as `model(x, *cond, t)` with t `[B]`:
            `fastssm.nn.MLP(D, widths, D, fourier_time=True)`, or with `cond_dim=1`, or any module. `ReciprocalVE`
            tells it the logarithm of the deviation instead of t.
        x: data `[B, ...]`.
        sde: `VP()`, `VE()`, `SubVP()` or `ReciprocalVE()`.
        form: "sliced", "exact" (the full trace) or "denoising".
        predicts: what the model returns: "score", or "noise" for `-std(t) s`.
        times: "importance" for `q ~ g^2 / std^2` (flat below `T / 1000` where it starts at `std = 0`), or "uniform".
        t_min: the earliest time; the SDE's own start if None. `predicts="noise"` with VP or SubVP needs one.
        truncation: draws the earliest time anew for each batch, in place of `t_min`.
        time_weight: multiplies the path's term by a function of t; the result is then no bound.
        lam: member of the family of generative processes with noise `sqrt(1 - lam) g dw`, from 0 (the reverse-time
            SDE) to below 1: the path's term is multiplied by `1 + lam^2 / (4 (1 - lam))`, which bounds the likelihood
            of that process up to a constant in the model.
        decoder: whether to add the decoder's term. Without it the loss bounds the likelihood of `x_{t_min}`, up to
            a constant.
        cond: further arguments, before the time: `model(x, *cond, t)`.
        t: times `[B]`, instead of random ones; weighed as if drawn from q.
        noise: z, like x, instead of random noise.
        v: directions `[M, B, ...]` or `[B, ...]` with `E[v v^T] = I`, instead of random ones.
        n_projections: M, the number of directions per sample; 1 if None.
        projection: rademacher, gaussian, sphere, hadamard or basis.
        variance_reduced: use `|s|^2` in place of `(v . s)^2`, in the sliced form.
        kind: "energy", "score", or "auto" by the shape of the output (ambiguous for D = 1).
        weight: weight of each sample, `[B]`; "mean" still divides by B.
        reduction: "mean", "sum" or "none" (`[B]`).
        generator: source of randomness, torch's default one if None.
        backend: "auto", or the name of the one that must run.
        precision: "full" or "bf16", as for `fastssm.sliced_loss`.
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
    linear = check_linear(sde)
    for name, value, choices in (("form", form, FORMS), ("times", times, TIMES)):
        checks.check_choice(name, value, choices)
    first = _check_first(linear, t_min, truncation)
    net = score_model(
        model, x, sde=linear, cond=cond, kind=kind, predicts=predicts, first=first, backend=backend, precision=precision
    )
    weight = check_reduction(x, weight, reduction)
    _check_lam(lam)
    check_noise(noise, x)
    given, x = check_t(t, x), net.request.x
    directions = _directions(form, x, v, n_projections, projection, generator)
    if truncation is not None:
        first = truncation.draw(dtype=checks.widened(x).dtype, device=x.device, generator=generator)
    density = time_density(linear, times, first)
    t = density.quantile(uniform(checks.widened(x), generator)) if given is None else given
    z = normal_like(x, generator) if noise is None else checks.outside_inference(noise).to(checks.widened(x).dtype)
    time_weights = (1.0 + lam**2 / (4.0 * (1.0 - lam))) * _time_weights(density, t, time_weight)

    if directions is None:
        each = time_weights * _denoising(net, linear, x, t, z)
        path: Tensor = reduced(each, weight, reduction)
    else:
        path, each = _sliced(net, linear, x, t, z, directions, time_weights, weight, reduction,
                             variance_reduced and form == "sliced", return_terms)  # fmt: skip
    prior = _prior(linear, x)
    decoded = _decoder(net, linear, x, z, first) if decoder else torch.zeros_like(prior)
    loss = path - reduced(prior + decoded, weight, reduction)
    return (loss, ElboTerms(prior.detach(), each.detach(), decoded.detach())) if return_terms else loss


def elbo(
    model: nn.Module,
    x: Tensor,
    *,
    sde: SDE,
    form: str = "exact",
    n_times: int = 16,
    unit: str = "nats",
    predicts: str = "score",
    times: str = "importance",
    t_min: float | None = None,
    cond: Cond = None,
    n_projections: int | None = None,
    projection: str = "rademacher",
    kind: str = "auto",
    generator: torch.Generator | None = None,
    backend: str = "auto",
    precision: str = "full",
) -> Tensor:
    """Evaluate a lower bound of the log likelihood of every sample, without bias.

    `elbo_b = prior + decoder - mean_j g(t_j)^2 / q(t_j) (tr J + |s|^2 / 2)`, the terms of `elbo_loss`, with the times
    `t_j` of one sample stratified: one in each `1 / n_times` of the mass of q.

    Args:
        model: a model as for `elbo_loss`.
        x: data `[B, ...]`.
        sde: `VP()`, `VE()`, `SubVP()` or `ReciprocalVE()`.
        form: "exact" (the full trace), "sliced" (Hutchinson's estimate) or "denoising".
        n_times: times per sample.
        unit: "nats", the bound itself; or "bits", minus the bound in bits per dimension. For pixels scaled by `c`, add
            `log2 c`.
        predicts: "score" or "noise".
        times: "importance" or "uniform".
        t_min: the earliest time; the SDE's own start if None.
        cond: further arguments, before the time.
        n_projections: M, for the sliced form.
        projection: of the directions of the sliced form.
        kind: "energy", "score" or "auto".
        generator: source of randomness, torch's default one if None.
        backend: "auto", or the name of the one that must run.
        precision: "full" or "bf16", as for `fastssm.sliced_loss`.

    Returns:
        The bound `[B]`, without gradients. Its mean over samples has the standard error `std / sqrt(B)`.

    Raises:
        TypeError: as `elbo_loss` does.
        ValueError: likewise.
        UnsupportedError: likewise.

    Example:
        >>> import fastssm.nn
        >>> from fastssm.diffusion import VP
        >>> net = fastssm.nn.MLP(2, [64, 64], 2, "silu", fourier_time=True)
        >>> elbo(net, torch.randn(5, 2), sde=VP(), unit="bits").shape
        torch.Size([5])

    Source: Huang, Lim and Courville 2021, theorem 3; stratified times: Kingma et al. 2021, appendix I.
    """
    checks.check_choice("unit", unit, UNITS)
    checks.check_choice("times", times, TIMES)
    checks.check_count("n_times", n_times)
    checks.check_data(x)
    linear = check_linear(sde)
    density = time_density(linear, times, check_first(linear, t_min))
    total = torch.zeros_like(checks.widened(x).flatten(1)[:, 0])
    with torch.no_grad():
        for stratum in range(n_times):
            u = (stratum + uniform(checks.widened(x), generator)) / n_times
            total -= elbo_loss(
                model, x, sde=sde, form=form, predicts=predicts, times=times, t_min=t_min, cond=cond,
                t=density.quantile(u), n_projections=n_projections, projection=projection, kind=kind,
                reduction="none", generator=generator, backend=backend, precision=precision,
            )  # fmt: skip
    nats = total / n_times
    return nats if unit == "nats" else -nats / (math.log(2.0) * math.prod(x.shape[1:]))


def _check_first(sde: LinearSDE, t_min: float | None, truncation: object) -> float | Tensor:
    """Return the earliest time, of soft truncation the earliest that it may draw."""
    if truncation is None:
        return check_first(sde, t_min)
    if not isinstance(truncation, SoftTruncation):
        raise TypeError(
            f"truncation must be a SoftTruncation, got {type(truncation).__name__}; for a fixed time use t_min."
        )
    if t_min is not None:
        raise ValueError("truncation draws the earliest time that t_min fixes; leave one of them out.")
    if truncation.end != sde.end or truncation.eps < sde.start:
        raise ValueError(
            f"truncation must lie in the times of {sde}, [{sde.start:g}, {sde.end:g}], and reach its end, got "
            f"{truncation}."
        )
    return truncation.eps


def _check_lam(lam: object) -> None:
    if isinstance(lam, bool) or not isinstance(lam, int | float):
        raise TypeError(f"lam must be a number, got {type(lam).__name__}.")
    if not 0.0 <= lam < 1.0:
        raise ValueError(f"lam must satisfy 0 <= lam < 1, got {lam}; at 1 the process is an ODE, see flow_log_prob.")


def _directions(
    form: str, x: Tensor, v: object, n_projections: int | None, projection: str, generator: torch.Generator | None
) -> Directions | None:
    """Return the directions of the sliced form, the basis for the exact one, None for denoising."""
    chosen = choose_directions(x, v, n_projections, projection, generator) if form == "sliced" else None
    if form != "sliced" and (v is not None or n_projections is not None):
        raise ValueError(f'v and n_projections are for form="sliced", got form="{form}"; leave them out.')
    checks.check_generator(generator)
    return Directions(math.prod(x.shape[1:])) if form == "exact" else chosen


def _time_weights(density: TimeDensity, t: Tensor, time_weight: Callable[[Tensor], Tensor] | None) -> Tensor:
    """Return `1 / q(t)`, times the caller's weight, `[B]`."""
    weights = density.inverse(t)
    if time_weight is None:
        return weights
    given = time_weight(t)
    if given.shape != t.shape:
        raise ValueError(f"time_weight(t) must have the shape of t, {tuple(t.shape)}, got {tuple(given.shape)}.")
    return weights * given


def _denoising(net: ScoreModel, sde: LinearSDE, x: Tensor, t: Tensor, z: Tensor) -> Tensor:
    """`g^2 (s . z / std + |s|^2 / 2)`, in terms of `std s`, which neither vanishes nor explodes."""
    scaled = sde.std(t)[:, None] * net.score(sde.perturb(x, t, z), t)
    return sde.noise_ratio_rate(t) * (0.5 * scaled.square() + scaled * z.flatten(1)).sum(1)


def _sliced(
    net: ScoreModel,
    sde: LinearSDE,
    x: Tensor,
    t: Tensor,
    z: Tensor,
    directions: Directions,
    time_weights: Tensor,
    weight: Tensor | None,
    reduction: str,
    variance_reduced: bool,
    return_terms: bool,
) -> tuple[Tensor, Tensor]:
    """Return `g^2 (v^T J v + |s|^2 / 2)` times a weight, reduced, and of every sample where that is asked for."""
    state, scaled_weights = sde.perturb(x, t, z), time_weights * sde.diffusion(t).square()
    if net.predicts == "score":
        both = scaled_weights if weight is None else scaled_weights * weight.to(scaled_weights.dtype)
        found = sliced_of(net.backend, net.at(state, t), directions, variance_reduced, both, reduction, return_terms)
        if isinstance(found, tuple):
            return found[0], scaled_weights * (found[1].projected_jacobian + found[1].square)
        return found, found
    terms = net.terms(state, t, directions)
    square = terms.score.square().sum(1) if variance_reduced else terms.projected_score.square().mean(0)
    each = scaled_weights * (terms.projected_jacobian + 0.5 * square)
    return reduced(each, weight, reduction), each


def _prior(sde: LinearSDE, x: Tensor) -> Tensor:
    """`E log N(x_T; 0, prior_std^2 I) + D log mean(T)`, `[B]`: the noise is integrated out."""
    wide = checks.widened(x).flatten(1)
    end = torch.full_like(wide[:, 0], sde.end)
    mean, std = sde.mean(end), sde.std(end) / sde.prior_std
    constant = mean.log() - 0.5 * std.square() - 0.5 * math.log(2.0 * math.pi) - math.log(sde.prior_std)
    return constant * wide.shape[1] - 0.5 * (mean / sde.prior_std).square() * wide.square().sum(1)


def _decoder(net: ScoreModel, sde: LinearSDE, x: Tensor, z: Tensor, first: float | Tensor) -> Tensor:
    """`(|z|^2 - |z + std s|^2) / 2` at the earliest time: Gaussian decoding by one step of denoising."""
    if starts_in_data(sde, first):
        return torch.zeros_like(z.flatten(1)[:, 0])
    t = torch.zeros_like(z.flatten(1)[:, 0]) + first
    scaled, z = sde.std(t)[:, None] * net.score(sde.perturb(x, t, z), t), z.flatten(1)
    return -(scaled * z + 0.5 * scaled.square()).sum(1)
