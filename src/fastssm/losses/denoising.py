"""Denoising score matching, at one noise level and at several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastssm import backends, checks
from fastssm.losses.levels import check_levels
from fastssm.losses.module import ScoreLoss
from fastssm.losses.reduction import Cond, LossTerms, check_reduction, reduced
from fastssm.noise import Noisy, add_noise, check_noise, check_sigma


def denoising_loss(
    model: nn.Module,
    x: Tensor,
    *,
    sigma: float | Tensor,
    cond: Cond = None,
    noise: Tensor | None = None,
    kind: str = "auto",
    weight: Tensor | None = None,
    reduction: str = "mean",
    generator: torch.Generator | None = None,
    backend: str = "auto",
    precision: str = "full",
) -> Tensor:
    """Denoising score matching: learn the score of the data blurred by Gaussian noise, without any Jacobian.

    `loss_b = |s(x_b + sigma z_b) + z_b / sigma|^2 / 2`, `z ~ N(0, I)`: no weight. Its mean is the Fisher divergence
    from the density of `x + sigma z`, plus a constant.

    Others weigh it: NCSN by `sigma^2` (pass `weight=sigma**2 * torch.ones(len(x))`), ermongroup's `dsm` by `sigma^4`.

    Args:
        model: an energy `E` (`[B]` or `[B, 1]`, `log p = -E + const`) or a score (like x), of any kind of module.
        x: clean data `[B, ...]`.
        sigma: deviation of the noise, in the units of x; a number, or a tensor with one per sample, `[B]`.
        cond: further arguments, passed as `model(x, *cond)`.
        noise: z, like x, instead of random noise.
        kind: "energy", "score", or "auto" by the shape of the output.
        weight: weight of each sample, `[B]`; "mean" still divides by B.
        reduction: "mean", "sum" or "none" (`[B]`).
        generator: source of randomness, torch's default one if None.
        backend: "auto", or the name of the one that must run, as for `fastssm.score`.
        precision: "full" or "bf16", as for `fastssm.sliced_loss`.

    Returns:
        The loss, float32 for half-precision data, otherwise in the dtype of x.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if shapes, devices or names do not fit, or a deviation is not positive.
        UnsupportedError: if the named backend cannot run the call, or none can.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 64), nn.Softplus(), nn.Linear(64, 1))
        >>> denoising_loss(net, torch.randn(128, 2), sigma=0.1).backward()

    Source: Vincent 2011, "A connection between score matching and denoising autoencoders", section 4.
    """
    request = backends.make_request(model, x, cond, kind, precision)
    weight = check_reduction(x, weight, reduction)
    deviation = check_sigma(sigma, x)
    check_noise(noise, x)
    checks.check_generator(generator)
    chosen = backends.select_for_score(request, backend)
    noisy = add_noise(request.x, deviation, noise, generator)
    return reduced(_mismatch(chosen.score(request._replace(x=noisy.x)), noisy), weight, reduction)


def annealed_denoising_loss(
    model: nn.Module,
    x: Tensor,
    *,
    sigmas: Sequence[float] | Tensor,
    anneal_power: float = 2.0,
    condition: str = "sigma",
    cond: Cond = None,
    level: Tensor | None = None,
    noise: Tensor | None = None,
    kind: str = "auto",
    weight: Tensor | None = None,
    reduction: str = "mean",
    generator: torch.Generator | None = None,
    backend: str = "auto",
    precision: str = "full",
) -> Tensor:
    """Denoising score matching of a noise-conditional model, each sample at a random one of several noise levels.

    `loss_b = sigma_b^anneal_power |s(x_b + sigma_b z_b; sigma_b) + z_b / sigma_b|^2 / 2`, `sigma_b` uniform among
    `sigmas`: the weight is `sigma^anneal_power`.

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
        kind: "energy", "score", or "auto" by the shape of the output.
        weight: further weight of each sample, `[B]`; "mean" still divides by B.
        reduction: "mean", "sum" or "none" (`[B]`).
        generator: source of randomness, torch's default one if None.
        backend: "auto", or the name of the one that must run, as for `fastssm.score`.
        precision: "full" or "bf16", as for `fastssm.sliced_loss`.

    Returns:
        The loss, float32 for half-precision data, otherwise in the dtype of x.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if shapes, devices or names do not fit, or a deviation is not positive.
        UnsupportedError: if the named backend cannot run the call, or none can.

    Example:
        >>> import fastssm.nn
        >>> net = fastssm.nn.MLP(2, [64, 64], 2, "silu", cond_dim=1)
        >>> annealed_denoising_loss(net, torch.randn(128, 2), sigmas=[1.0, 0.3, 0.1]).backward()

    Source: Song and Ermon 2019, "Generative modeling by estimating gradients of the data distribution", equations 5
    and 6.
    """
    levels = check_levels(
        model, x, sigmas=sigmas, anneal_power=anneal_power, condition=condition, cond=cond, level=level, noise=noise,
        kind=kind, weight=weight, reduction=reduction, generator=generator, precision=precision,
    )  # fmt: skip
    chosen = backends.select_for_score(levels.request, backend)
    request, noisy, weight = levels.draw()
    return reduced(_mismatch(chosen.score(request), noisy), weight, reduction)


def _mismatch(score: Tensor, noisy: Noisy) -> Tensor:
    """`|s + z / sigma|^2 / 2` of every sample, `[B]`."""
    return 0.5 * (score + noisy.noise / noisy.sigma).square().sum(1)


class DenoisingLoss(ScoreLoss):
    """`fastssm.denoising_loss` as a module that owns the network.

    `DenoisingLoss(net, sigma=0.1)(x)` is `denoising_loss(net, x, sigma=0.1)`.

    Args:
        model: the network, as for `denoising_loss`; kept as the attribute `model`.
        options: keyword arguments of `denoising_loss`, except the tensors that `forward` takes.

    Raises:
        TypeError: for an option that the function does not have, a missing `sigma`, or a model that is no module.
        ValueError: for a model that is itself a data-parallel wrapper.

    Example:
        >>> loss = DenoisingLoss(nn.Sequential(nn.Linear(2, 8), nn.Softplus(), nn.Linear(8, 1)), sigma=0.1)
        >>> loss(torch.randn(16, 2)).backward()

    Source: Vincent 2011.
    """

    loss = staticmethod(denoising_loss)
    PER_CALL = ("cond", "noise", "weight")

    def forward(
        self, x: Tensor, cond: Any = None, weight: Tensor | None = None, noise: Tensor | None = None
    ) -> Tensor | tuple[Tensor, LossTerms]:
        """Return the loss of the batch."""
        return self.evaluate(x, cond=cond, weight=weight, noise=noise)


class AnnealedDenoisingLoss(ScoreLoss):
    """`fastssm.annealed_denoising_loss` as a module that owns the network.

    `AnnealedDenoisingLoss(net, sigmas=sigmas)(x)` is `annealed_denoising_loss(net, x, sigmas=sigmas)`.

    Args:
        model: the noise-conditional network, as for `annealed_denoising_loss`; kept as the attribute `model`.
        options: keyword arguments of `annealed_denoising_loss`, except the tensors that `forward` takes.

    Raises:
        TypeError: for an option that the function does not have, a missing `sigmas`, or a model that is no module.
        ValueError: for a model that is itself a data-parallel wrapper.

    Example:
        >>> import fastssm.nn
        >>> loss = AnnealedDenoisingLoss(fastssm.nn.MLP(2, [64], 2, "silu", cond_dim=1), sigmas=[1.0, 0.1])
        >>> loss(torch.randn(128, 2)).backward()

    Source: Song and Ermon 2019.
    """

    loss = staticmethod(annealed_denoising_loss)
    PER_CALL = ("cond", "level", "noise", "weight")

    def forward(
        self,
        x: Tensor,
        cond: Any = None,
        weight: Tensor | None = None,
        level: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, LossTerms]:
        """Return the loss of the batch."""
        return self.evaluate(x, cond=cond, weight=weight, level=level, noise=noise)
