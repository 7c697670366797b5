"""Errors of a model: Fisher divergence, sliced against exact loss, and loss per noise level."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from fastssm import checks
from fastssm.diagnostics.estimate import Estimate, check_samples, estimate
from fastssm.directions import gaussian
from fastssm.losses import annealed_denoising_loss, annealed_sliced_loss, exact_loss, sliced_loss
from fastssm.noise import check_sigmas
from fastssm.operators import score
from fastssm.options import BackendName, Cond, Kind, Model
from fastssm.text import table

LEVEL_LOSSES: dict[str, Callable[..., Any]] = {"denoising": annealed_denoising_loss, "sliced": annealed_sliced_loss}


@torch.no_grad()
def fisher_divergence(
    model: Model,
    x: Tensor,
    true_score: Tensor | Callable[[Tensor], Tensor],
    *,
    cond: Cond = None,
    kind: Kind = "auto",
    backend: BackendName = "auto",
) -> Estimate:
    """Return the Fisher divergence between a model and a known score.

    `E |s(x) - s_true(x)|^2 / 2` over the samples. Score matching minimises it up to a constant.

    Args:
        model: an energy or a score, as for `fastssm.sliced_loss`.
        x: samples `[B, ...]` of the data, at least two.
        true_score: the score of the data at x, with the shape of x, or a function of x that returns it.
        cond: further arguments, passed as `model(x, *cond)`.
        kind: "energy", "score" or "auto".
        backend: "auto" or the name of a backend.

    Returns:
        The mean and its standard error.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if shapes, devices or names do not match.
        UnsupportedError: if the backend, or every backend with "auto", cannot run the call.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 8), nn.Softplus(), nn.Linear(8, 1))
        >>> x = torch.randn(64, 2)
        >>> fisher_divergence(net, x, -x).value > 0  # the score of a standard normal is -x
        True

    Source: Hyvarinen 2005, equation 2.
    """
    found = score(model, x, cond=cond, kind=kind, backend=backend)
    check_samples(x, 2)
    known = true_score if isinstance(true_score, Tensor) else true_score(x)
    if known.shape != x.shape:
        raise ValueError(f"true_score must have the shape of x, {tuple(x.shape)}, got {tuple(known.shape)}.")
    return estimate(0.5 * (found - known).flatten(1).square().sum(1))


@dataclass(frozen=True)
class Gap:
    """The exact loss of a model and its sliced estimate on the same samples.

    Attributes:
        exact: the exact loss, with its error over samples.
        sliced: the mean of repeated sliced losses, with its error over directions.
        gap: `sliced - exact`, with the error over directions; expected within a few errors of zero.
        deviation: standard deviation of one sliced loss over directions.
    """

    exact: Estimate
    sliced: Estimate
    gap: Estimate
    deviation: float

    def __str__(self) -> str:
        """Return one line per value."""
        return table(
            [
                ("exact loss (error over samples)", str(self.exact)),
                ("sliced loss (error over directions)", str(self.sliced)),
                ("gap", str(self.gap)),
                ("std of one sliced loss", f"{self.deviation:.4g}"),
            ]
        )


@torch.no_grad()
def sliced_gap(
    model: Model, x: Tensor, *, repeats: int = 32, generator: Generator | None = None, **options: Any
) -> Gap:
    """Compare the exact loss with repeated sliced losses on the same samples.

    Args:
        model: an energy or a score, as for `fastssm.sliced_loss`.
        x: samples `[B, ...]`, at least two.
        repeats: number of draws of directions, at least two.
        generator: source of the directions.
        options: options of `fastssm.sliced_loss`, such as `n_projections`, `variance_reduced`, `cond`, `kind`.

    Returns:
        A `Gap`, which prints as a table.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if shapes, devices or names do not match, or there are too few samples or repeats.
        UnsupportedError: if the backend, or every backend with "auto", cannot run the call.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 8), nn.Softplus(), nn.Linear(8, 1))
        >>> gap = sliced_gap(net, torch.randn(64, 2)).gap
        >>> abs(gap.value) < 6 * gap.error
        True

    Source: Song et al. 2019, "Sliced score matching", equations 7 and 8.
    """
    checks.check_count("repeats", repeats)
    if repeats < 2:
        raise ValueError(f"repeats must be at least 2 to estimate an error, got {repeats}.")
    shared = {key: options[key] for key in ("cond", "kind", "backend", "precision") if key in options}
    each: Tensor = exact_loss(model, x, reduction="none", **shared)
    check_samples(x, 2)
    values = torch.stack([sliced_loss(model, x, generator=generator, **options) for _ in range(repeats)]).double()
    exact, sliced = estimate(each), estimate(values)
    gap = Estimate(sliced.value - exact.value, sliced.error)
    return Gap(exact, sliced, gap, values.std().item())


class LevelRow(NamedTuple):
    """The loss of a noise-conditional model at one level."""

    sigma: float
    loss: Estimate


@dataclass(frozen=True)
class LevelStudy:
    """The loss of a noise-conditional model, level by level.

    Attributes:
        name: name of the loss.
        rows: one per level, in the given order.
    """

    name: str
    rows: tuple[LevelRow, ...]

    def __str__(self) -> str:
        """Return the table as text."""
        return table([("sigma", f"{self.name} loss"), *((f"{sigma:.4g}", str(loss)) for sigma, loss in self.rows)])


@torch.no_grad()
def loss_per_level(
    model: Model,
    x: Tensor,
    *,
    sigmas: Sequence[float] | Tensor,
    loss: str = "denoising",
    generator: Generator | None = None,
    **options: Any,
) -> LevelStudy:
    """Return the loss of a noise-conditional model at each noise level.

    With "denoising" and the weight `sigma^2`, the trivial model `s = 0` has the loss `D / 2` at every level.

    Args:
        model: an energy or a score, called as `model(x, *cond, sigma)`, as in training.
        x: samples `[B, ...]` without noise, at least two.
        sigmas: noise levels; numbers or a tensor `[L]`.
        loss: "denoising" or "sliced".
        generator: source of noise and directions; all levels share the same noise.
        options: options of `fastssm.annealed_denoising_loss` or `fastssm.annealed_sliced_loss`, such as `condition`.

    Returns:
        A `LevelStudy`, which prints as a table.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if shapes, devices or names do not match.
        UnsupportedError: if the backend, or every backend with "auto", cannot run the call.

    Example:
        >>> import fastssm.nn
        >>> net = fastssm.nn.MLP(2, [8], 2, "silu", cond_dim=1)
        >>> len(loss_per_level(net, torch.randn(64, 2), sigmas=[1.0, 0.5]).rows)
        2

    Source: Song and Ermon 2019, "Generative modeling by estimating gradients of the data distribution", equation 5.
    """
    checks.check_data(x)
    checks.check_choice("loss", loss, tuple(LEVEL_LOSSES))
    check_samples(x, 2)
    levels = check_sigmas(sigmas, x)
    wide = checks.widened(x.flatten(1))
    noise = gaussian((1, *wide.shape), wide, generator)[0].reshape(x.shape)
    rows = []
    for index, sigma in enumerate(levels.tolist()):
        level = torch.full((len(x),), index, dtype=torch.int64, device=x.device)
        each = LEVEL_LOSSES[loss](
            model, x, sigmas=levels, level=level, noise=noise, reduction="none", generator=generator, **options
        )
        rows.append(LevelRow(sigma, estimate(each)))
    return LevelStudy(loss, tuple(rows))
