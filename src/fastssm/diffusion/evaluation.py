"""The evidence bound of a diffusion model, evaluated on held-out data."""

from __future__ import annotations

import math
from typing import cast, get_args, get_type_hints

import torch
from torch import Tensor
from typing_extensions import Unpack

from fastssm import checks
from fastssm.diffusion.likelihood import Form, check_lam, elbo_loss, family_factor
from fastssm.diffusion.model import ScoreModelArguments, Unit, check_bounded
from fastssm.diffusion.sde import SDE, CustomSDE, LinearSDE
from fastssm.diffusion.times import TimeSampling, check_times, starts_in_data, time_density, uniform
from fastssm.diffusion.truncation import SoftTruncation
from fastssm.options import DirectionOptions, Model, Precision, takes


class ElboPath(ScoreModelArguments, DirectionOptions, total=False):
    """What `elbo` hands on to `elbo_loss`.

    Attributes:
        times: how times are drawn; `TimeSampling()` if None. The bound needs a fixed `t_min` and no weight.
        lam: member of the family of generative processes with noise `sqrt(1 - lam) g dw`, as for `elbo_loss`.
        precision: "full" or "bf16", as for `fastssm.sliced_loss`.
    """

    form: Form
    times: TimeSampling | None
    lam: float
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


@takes(ElboEvaluation, form="exact", n_times=16, unit="nats", predicts="score", lam=0.0)
def elbo(model: Model, x: Tensor, **options: Unpack[ElboEvaluation]) -> Tensor:
    """Evaluate a lower bound of the log likelihood of every sample, without bias.

    `elbo_b = prior + decoder - mean_j g(t_j)^2 / q(t_j) (tr J + |s|^2 / 2)`, the terms of `elbo_loss`, with the times
    `t_j` of one sample stratified: one in each `1 / n_times` of the mass of q. Of a `CustomSDE` every time has its own
    path, and the bound is that of the simulation.

    For the process with less noise, `lam > 0`, the mean over j has the factor `c = 1 + lam^2 / (4 (1 - lam))`, and the
    bound is lower by the Fisher information of the kernel, `(c - 1) D / 2 log(ratio(T) / ratio(t_min))` with `ratio =
    std^2 / mean^2`. It needs a start with noise, and is not tight for the true score.

    Args:
        model: a model as for `elbo_loss`.
        x: data `[B, ...]`.
        options: keyword arguments of `ElboEvaluation`.

    Returns:
        The bound `[B]`, without gradients. Its mean over samples has the standard error `std / sqrt(B)`.

    Raises:
        TypeError: as `elbo_loss` does.
        ValueError: as `elbo_loss` does, for times that are drawn anew or weighted, for a `CustomSDE` that does not
            start at time 0, or for `lam > 0` without a kernel or without noise at the start.
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
    sde = check_bounded(options["sde"])
    times = _check_fixed(check_times(options["times"]) or TimeSampling(), sde)
    first, dim = times.earliest(sde), math.prod(x.shape[1:])
    density, price = time_density(sde, times.density, first), _family_price(sde, options["lam"], first) * dim
    call = cast("ElboPath", {name: options[name] for name in get_type_hints(ElboPath)})  # type: ignore[literal-required]
    total = torch.zeros_like(checks.widened(x).flatten(1)[:, 0])
    with torch.no_grad():
        for stratum in range(n_times):
            u = (stratum + uniform(checks.widened(x), generator)) / n_times
            total -= elbo_loss(model, x, t=density.quantile(u), reduction="none", **call)
    nats = total / n_times - price
    return nats if unit == "nats" else -nats / (math.log(2.0) * dim)


def _check_fixed(times: TimeSampling, sde: SDE) -> TimeSampling:
    """Return the sampling of times, and raise ValueError unless it gives a bound."""
    if isinstance(times.t_min, SoftTruncation) or times.weight is not None:
        raise ValueError(f"elbo evaluates a bound, which needs a fixed t_min and no weight, got {times}.")
    if isinstance(sde, CustomSDE) and times.earliest(sde) > sde.start:
        raise ValueError(
            f"elbo bounds the likelihood of data, at which a CustomSDE starts, got t_min={times.t_min}; leave it out."
        )
    return times


def _family_price(sde: SDE, lam: float, first: float) -> float:
    """Return by how much the bound of a member of the family is lower, per coordinate."""
    check_lam(lam)
    if lam == 0.0:
        return 0.0
    if not isinstance(sde, LinearSDE) or starts_in_data(sde, first):
        raise ValueError(
            f"elbo with lam > 0 needs a kernel in closed form that has noise at the earliest time, got lam={lam} and "
            f"{sde} from {first:g} on; pass times=TimeSampling(t_min=1e-3) with VP or SubVP, use VE or ReciprocalVE, "
            "or lam=0."
        )
    low, high = (sde.log_noise_ratio(torch.tensor(t, dtype=torch.float64)) for t in (first, sde.end))
    return 0.5 * (family_factor(lam) - 1.0) * float(high - low)
