"""Sliced score matching of noise-conditional models."""

from __future__ import annotations

from typing import Any, Literal, overload

from torch import Tensor, nn
from typing_extensions import Unpack

from fastssm import backends
from fastssm.losses.levels import LevelOptions, LevelTensors, check_levels
from fastssm.losses.module import LossAndTerms, Out, ScoreLoss
from fastssm.losses.sliced import sliced_of
from fastssm.operators import count_of, directions_of
from fastssm.options import DirectionTensors, Model, SlicedOptions, takes


class AnnealedSlicedOptions(LevelOptions, SlicedOptions, total=False):
    """Options of `annealed_sliced_loss`."""


class AnnealedSlicedTensors(LevelTensors, DirectionTensors, total=False):
    """The tensors of a batch that `annealed_sliced_loss` takes besides x."""


class AnnealedSlicedArguments(AnnealedSlicedTensors, AnnealedSlicedOptions, total=False):
    """Keyword arguments of `annealed_sliced_loss`."""


@overload
def annealed_sliced_loss(
    model: Model, x: Tensor, *, return_terms: Literal[False] = False, **options: Unpack[AnnealedSlicedArguments]
) -> Tensor: ...


@overload
def annealed_sliced_loss(
    model: Model, x: Tensor, *, return_terms: Literal[True], **options: Unpack[AnnealedSlicedArguments]
) -> LossAndTerms: ...


@overload
def annealed_sliced_loss(
    model: Model, x: Tensor, *, return_terms: bool, **options: Unpack[AnnealedSlicedArguments]
) -> Tensor | LossAndTerms: ...


@takes(AnnealedSlicedArguments, anneal_power=2.0, condition="sigma")
def annealed_sliced_loss(
    model: Model, x: Tensor, *, return_terms: bool = False, **options: Unpack[AnnealedSlicedArguments]
) -> Tensor | LossAndTerms:
    """Sliced score matching of a noise-conditional model, each sample at a random one of several noise levels.

    `loss_b = sigma_b^anneal_power l(x_b + sigma_b z_b; sigma_b)`, where `l` is the loss of `fastssm.sliced_loss`,
    `mean_m( v_m^T J v_m ) + |s|^2 / 2`, and `sigma_b` is uniform among `sigmas`: the weight is `sigma^anneal_power`.

    Its expectation is that of `fastssm.annealed_denoising_loss` minus a constant. It needs no closed form of the noise,
    and at small levels it has less of its own: no term grows like `1 / sigma`.

    Args:
        model: an energy or a score, called as `model(x, *cond, sigma)` with `sigma` `[B]`: `fastssm.nn.MLP(D, widths,
            cond_dim=1)`, or with `fourier_time=True`, or any module.
        x: clean data `[B, ...]`.
        options: keyword arguments of `AnnealedSlicedArguments`.
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
    levels = check_levels(model, x, options)
    chosen = backends.select(levels.request, "objective", options["backend"], count_of(x, options))
    directions = directions_of(x, options)
    request, _, reduced = levels.draw()
    return sliced_of(chosen, request, directions, options["variance_reduced"], reduced, return_terms)


class AnnealedSlicedLoss(ScoreLoss[Out], loss=annealed_sliced_loss, tensors=AnnealedSlicedTensors):
    """`fastssm.annealed_sliced_loss` as a module that owns the network.

    `AnnealedSlicedLoss(net, sigmas=sigmas)(x)` is `annealed_sliced_loss(net, x, sigmas=sigmas)`.

    Example:
        >>> import fastssm.nn
        >>> loss = AnnealedSlicedLoss(fastssm.nn.MLP(2, [64], cond_dim=1), sigmas=[1.0, 0.3, 0.1])
        >>> loss(torch.randn(128, 2)).backward()

    Source: Song and Ermon 2019.
    """

    @overload
    def __init__(
        self: AnnealedSlicedLoss[Tensor],
        model: nn.Module,
        *,
        return_terms: Literal[False] = False,
        **options: Unpack[AnnealedSlicedOptions],
    ) -> None: ...

    @overload
    def __init__(
        self: AnnealedSlicedLoss[LossAndTerms],
        model: nn.Module,
        *,
        return_terms: Literal[True],
        **options: Unpack[AnnealedSlicedOptions],
    ) -> None: ...

    @overload
    def __init__(
        self: AnnealedSlicedLoss[Tensor | LossAndTerms],
        model: nn.Module,
        *,
        return_terms: bool,
        **options: Unpack[AnnealedSlicedOptions],
    ) -> None: ...

    def __init__(self, model: nn.Module, **options: Any) -> None:
        super().__init__(model, **options)
