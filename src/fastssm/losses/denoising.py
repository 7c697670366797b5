"""Denoising score matching, at one noise level and at several."""

from __future__ import annotations

from torch import Tensor, nn
from typing_extensions import Required, Unpack

from fastssm import backends, checks
from fastssm.losses.levels import LevelOptions, LevelTensors, check_levels
from fastssm.losses.module import ScoreLoss
from fastssm.losses.reduction import Reducer, check_reduction, one_number, reduce
from fastssm.noise import Noisy, add_noise, check_noise, check_sigma
from fastssm.options import LossOptions, LossTensors, Model, NoiseTensors, RandomOptions, What, takes


class DenoisingOptions(LossOptions, RandomOptions, total=False):
    """Options of `denoising_loss`.

    Attributes:
        sigma: standard deviation of the noise, in the units of x; a number, or a tensor with one per sample, `[B]`.
    """

    sigma: Required[float | Tensor]


class DenoisingTensors(LossTensors, NoiseTensors, total=False):
    """The tensors of a batch that `denoising_loss` takes besides x."""


class DenoisingArguments(DenoisingTensors, DenoisingOptions, total=False):
    """Keyword arguments of `denoising_loss`."""


class AnnealedDenoisingOptions(LevelOptions, LossOptions, RandomOptions, total=False):
    """Options of `annealed_denoising_loss`."""


class AnnealedDenoisingArguments(LevelTensors, AnnealedDenoisingOptions, total=False):
    """Keyword arguments of `annealed_denoising_loss`."""


@takes(DenoisingArguments)
def denoising_loss(model: Model, x: Tensor, **options: Unpack[DenoisingArguments]) -> Tensor:
    """Denoising score matching: learn the score of the data blurred by Gaussian noise, without any Jacobian.

    `loss_b = |s(x_b + sigma z_b) + z_b / sigma|^2 / 2`, `z ~ N(0, I)`: no weight. Its mean is the Fisher divergence
    from the density of `x + sigma z`, plus a constant.

    Other packages weight it: NCSN by `sigma^2` (pass `weight=sigma**2 * torch.ones(len(x))`), ermongroup's `dsm` by
    `sigma^4`.

    Args:
        model: an energy `E` (`[B]` or `[B, 1]`, `log p = -E + const`) or a score (like x), of any kind of module.
        x: clean data `[B, ...]`.
        options: keyword arguments of `DenoisingArguments`.

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
    request = backends.make_request(model, x, options["cond"], options["kind"], options["precision"])
    reduced = check_reduction(x, options["weight"], options["reduction"])
    deviation, generator = check_sigma(options["sigma"], x), options["generator"]
    check_noise(options["noise"], x)
    checks.check_generator(generator)
    chosen = backends.select(request, _wanted(reduced), options["backend"])
    noisy = add_noise(request.x, deviation, options["noise"], generator)
    return _denoised(chosen, request._replace(x=noisy.x), noisy, reduced)


@takes(AnnealedDenoisingArguments, anneal_power=2.0, condition="sigma")
def annealed_denoising_loss(model: Model, x: Tensor, **options: Unpack[AnnealedDenoisingArguments]) -> Tensor:
    """Denoising score matching of a noise-conditional model, each sample at a random one of several noise levels.

    `loss_b = sigma_b^anneal_power |s(x_b + sigma_b z_b; sigma_b) + z_b / sigma_b|^2 / 2`, `sigma_b` uniform among
    `sigmas`: the weight is `sigma^anneal_power`.

    Args:
        model: an energy or a score, called as `model(x, *cond, sigma)` with `sigma` `[B]`: `fastssm.nn.MLP(D, widths,
            cond_dim=1)`, or with `fourier_time=True`, or any module.
        x: clean data `[B, ...]`.
        options: keyword arguments of `AnnealedDenoisingArguments`.

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
    levels = check_levels(model, x, options)
    chosen = backends.select(levels.request, _wanted(levels.reduced), options["backend"])
    request, noisy, reduced = levels.draw()
    return _denoised(chosen, request, noisy, reduced)


def _wanted(reduced: Reducer) -> What:
    """Return what a backend is asked for: the whole loss, or the score."""
    return "denoising" if one_number(reduced) else "score"


def _denoised(chosen: backends.Backend, request: backends.Request, noisy: Noisy, reduced: Reducer) -> Tensor:
    """Return `|s + z / sigma|^2 / 2`, reduced; of one number a backend that can computes the gradients too."""
    target = -noisy.noise / noisy.sigma
    if isinstance(chosen, backends.Denoiser) and one_number(reduced) and not target.requires_grad:
        return chosen.denoising(request, target, reduced.weight, reduced.reduction == "mean")
    return reduce(0.5 * (chosen.score(request) - target).square().sum(1), reduced)


class DenoisingLoss(ScoreLoss, loss=denoising_loss, tensors=DenoisingTensors):
    """`fastssm.denoising_loss` as a module that owns the network.

    `DenoisingLoss(net, sigma=0.1)(x)` is `denoising_loss(net, x, sigma=0.1)`.

    Example:
        >>> loss = DenoisingLoss(nn.Sequential(nn.Linear(2, 8), nn.Softplus(), nn.Linear(8, 1)), sigma=0.1)
        >>> loss(torch.randn(16, 2)).backward()

    Source: Vincent 2011.
    """

    def __init__(self, model: nn.Module, **options: Unpack[DenoisingOptions]) -> None:
        super().__init__(model, **options)


class AnnealedDenoisingLoss(ScoreLoss, loss=annealed_denoising_loss, tensors=LevelTensors):
    """`fastssm.annealed_denoising_loss` as a module that owns the network.

    `AnnealedDenoisingLoss(net, sigmas=sigmas)(x)` is `annealed_denoising_loss(net, x, sigmas=sigmas)`.

    Example:
        >>> import fastssm.nn
        >>> loss = AnnealedDenoisingLoss(fastssm.nn.MLP(2, [64], 2, "silu", cond_dim=1), sigmas=[1.0, 0.1])
        >>> loss(torch.randn(128, 2)).backward()

    Source: Song and Ermon 2019.
    """

    def __init__(self, model: nn.Module, **options: Unpack[AnnealedDenoisingOptions]) -> None:
        super().__init__(model, **options)
