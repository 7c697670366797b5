"""Sliced score matching of noise-conditional models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastssm import backends
from fastssm.losses.levels import check_levels
from fastssm.losses.module import ScoreLoss
from fastssm.losses.reduction import Cond, LossTerms
from fastssm.losses.sliced import sliced_of
from fastssm.operators import choose_directions


def annealed_sliced_loss(
    model: nn.Module,
    x: Tensor,
    *,
    sigmas: Sequence[float] | Tensor,
    anneal_power: float = 2.0,
    condition: str = "sigma",
    cond: Cond = None,
    level: Tensor | None = None,
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
) -> Tensor | tuple[Tensor, LossTerms]:
    """Sliced score matching of a noise-conditional model, each sample at a random one of several noise levels.

    `loss_b = sigma_b^anneal_power l(x_b + sigma_b z_b; sigma_b)`, where `l` is the loss of `fastssm.sliced_loss`,
    `mean_m( v_m^T J v_m ) + |s|^2 / 2`, and `sigma_b` is uniform among `sigmas`: the weight is `sigma^anneal_power`.

    Its expectation is that of `fastssm.annealed_denoising_loss` minus a constant. It needs no closed form of the noise,
    and at small levels it has less of its own: no term grows like `1 / sigma`.

    Args:
        model: an energy or a score, called as `model(x, *cond, sigma)` with `sigma` `[B]`: `fastssm.nn.MLP(D, widths,
            cond_dim=1)`, or with `fourier_time=True`, or any module.
        x: clean data `[B, ...]`.
        sigmas: the levels, deviations in the units of x; numbers or a tensor `[L]`, in any order.
        anneal_power: power of sigma in the weight; 2 makes all levels about equally loud.
        condition: what the model is told: "sigma", "log_sigma", or "level" (the index, int64, for embeddings).
        cond: further arguments, before the level: `model(x, *cond, sigma)`.
        level: index into `sigmas` of each sample, int64 `[B]`, instead of random ones.
        noise: z, like x, instead of random noise.
        v: directions `[M, B, ...]` or `[B, ...]` with `E[v v^T] = I`, instead of random ones.
        n_projections: M, the number of directions per sample; 1 if None.
        projection: rademacher, gaussian, sphere (radius `sqrt(D)`), hadamard or basis.
        variance_reduced: use `|s|^2` in place of `(v . s)^2`.
        kind: "energy", "score", or "auto" by the shape of the output.
        weight: further weight of each sample, `[B]`; "mean" still divides by B.
        reduction: "mean", "sum" or "none" (`[B]`).
        generator: source of randomness, torch's default one if None.
        backend: "auto", or the name of the one that must run.
        precision: "full" or "bf16", as for `fastssm.sliced_loss`.
        return_terms: return `(loss, LossTerms)`; the terms are those of `l`, without weight.

    Returns:
        The loss; with `return_terms` a pair.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if shapes, devices or names do not fit, or a deviation is not positive.
        UnsupportedError: if the named backend cannot run the call, or none can.

    Example:
        >>> import fastssm.nn
        >>> net = fastssm.nn.MLP(2, [64, 64], cond_dim=1)  # an energy E(x; sigma)
        >>> annealed_sliced_loss(net, torch.randn(128, 2), sigmas=[1.0, 0.3, 0.1]).backward()

    Source: Song and Ermon 2019, "Generative modeling by estimating gradients of the data distribution", section 4.2.
    """
    levels = check_levels(
        model, x, sigmas=sigmas, anneal_power=anneal_power, condition=condition, cond=cond, level=level, noise=noise,
        kind=kind, weight=weight, reduction=reduction, generator=generator, precision=precision,
    )  # fmt: skip
    chosen = backends.select(levels.request, backend)
    directions = choose_directions(x, v, n_projections, projection, generator)
    request, _, weight = levels.draw()
    return sliced_of(chosen, request, directions, variance_reduced, weight, reduction, return_terms)


class AnnealedSlicedLoss(ScoreLoss):
    """`fastssm.annealed_sliced_loss` as a module that owns the network.

    `AnnealedSlicedLoss(net, sigmas=sigmas)(x)` is `annealed_sliced_loss(net, x, sigmas=sigmas)`.

    Args:
        model: the noise-conditional network, as for `annealed_sliced_loss`; kept as the attribute `model`.
        options: keyword arguments of `annealed_sliced_loss`, except the tensors that `forward` takes.

    Raises:
        TypeError: for an option that the function does not have, a missing `sigmas`, or a model that is no module.
        ValueError: for a model that is itself a data-parallel wrapper.

    Example:
        >>> import fastssm.nn
        >>> loss = AnnealedSlicedLoss(fastssm.nn.MLP(2, [64], cond_dim=1), sigmas=[1.0, 0.3, 0.1])
        >>> loss(torch.randn(128, 2)).backward()

    Source: Song and Ermon 2019.
    """

    loss = staticmethod(annealed_sliced_loss)
    PER_CALL = ("cond", "level", "noise", "v", "weight")

    def forward(
        self,
        x: Tensor,
        cond: Any = None,
        weight: Tensor | None = None,
        level: Tensor | None = None,
        noise: Tensor | None = None,
        v: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, LossTerms]:
        """Return the loss of the batch."""
        return self.evaluate(x, cond=cond, weight=weight, level=level, noise=noise, v=v)
