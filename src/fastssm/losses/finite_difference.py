"""Score matching by finite differences: forward passes of the module only, at the price of an error."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn
from typing_extensions import Required, Unpack

from fastssm import backends, checks
from fastssm.directions import Directions
from fastssm.errors import FastSSMWarning
from fastssm.losses.module import LossAndTerms, Out, ScoreLoss
from fastssm.losses.reduction import check_reduction, finish, reduce
from fastssm.noise import add_noise, check_noise, check_sigma
from fastssm.operators import directions_of
from fastssm.options import (
    DirectionOptions,
    DirectionTensors,
    Kind,
    LossTensors,
    Model,
    NoiseTensors,
    ReductionOptions,
    SlicedTensors,
    takes,
)

STEPS = {torch.float32: 0.03, torch.float64: 1e-4}


class StepOptions(DirectionOptions, ReductionOptions, total=False):
    """Options of losses by finite differences.

    Attributes:
        step: length of the differences in units of v, so that points move by `step sqrt(D)`; 0.03 for float32 and 1e-4
            for float64 if None.
    """

    step: float | None


class FiniteDifferenceOptions(StepOptions, total=False):
    """Options of `finite_difference_loss`.

    Attributes:
        kind: "energy", "score", or "auto" by the shape of the output (ambiguous for D = 1).
        variance_reduced: use `|s|^2` in place of `(v . s)^2`; None for yes with a score and no with an energy, whose
            differences do not tell `|s|`.
    """

    kind: Kind
    variance_reduced: bool | None


class FiniteDifferenceArguments(SlicedTensors, FiniteDifferenceOptions, total=False):
    """Keyword arguments of `finite_difference_loss`."""


class FiniteDifferenceDenoisingOptions(StepOptions, total=False):
    """Options of `finite_difference_denoising_loss`.

    Attributes:
        sigma: standard deviation of the noise, in the units of x; a number, or a tensor with one per sample, `[B]`.
    """

    sigma: Required[float | Tensor]


class FiniteDifferenceDenoisingTensors(LossTensors, NoiseTensors, DirectionTensors, total=False):
    """The tensors of a batch that `finite_difference_denoising_loss` takes besides x."""


class FiniteDifferenceDenoisingArguments(
    FiniteDifferenceDenoisingTensors, FiniteDifferenceDenoisingOptions, total=False
):
    """Keyword arguments of `finite_difference_denoising_loss`."""


@overload
def finite_difference_loss(
    model: Model, x: Tensor, *, return_terms: Literal[False] = False, **options: Unpack[FiniteDifferenceArguments]
) -> Tensor: ...


@overload
def finite_difference_loss(
    model: Model, x: Tensor, *, return_terms: Literal[True], **options: Unpack[FiniteDifferenceArguments]
) -> LossAndTerms: ...


@overload
def finite_difference_loss(
    model: Model, x: Tensor, *, return_terms: bool, **options: Unpack[FiniteDifferenceArguments]
) -> Tensor | LossAndTerms: ...


@takes(FiniteDifferenceArguments, variance_reduced=None)
def finite_difference_loss(
    model: Model, x: Tensor, *, return_terms: bool = False, **options: Unpack[FiniteDifferenceArguments]
) -> Tensor | LossAndTerms:
    """Sliced score matching by central differences: forward passes only, with an error of order `step^2`.

    With `e` the step, `x+ = x + e v` and `x- = x - e v`, for an energy (FD-SSM)

        loss_b = mean_m( (2 E(x) - E(x+) - E(x-)) / e^2 + ((E(x-) - E(x+)) / (2 e))^2 / 2 )

    and for a score net (FD-SSM-VR; without variance reduction the square is that of `v` times the mean score)

        loss_b = mean_m( v . (s(x+) - s(x-)) / (2 e) + |(s(x+) + s(x-)) / 2|^2 / 2 ).

    `fastssm.sliced_loss` is exact, takes no more products for an energy at M = 1 and fewer for M > 1: prefer it where
    second derivatives exist. The points of all directions go through the model in one concatenated forward pass.

    Args:
        model: an energy or a score, any module; no backend is chosen, as nothing but its forward pass runs.
        x: data `[B, ...]`.
        options: keyword arguments of `FiniteDifferenceArguments`.
        v: directions `[M, B, ...]` or `[B, ...]` with `E[v v^T] = I`, instead of random ones. The authors' code has
            directions of norm one, and D in front of the loss: the same value, their `eps` being `step sqrt(D)`.
        return_terms: return `(loss, LossTerms)`.

    Returns:
        The loss; with `return_terms` a pair.

    Raises:
        TypeError: if an argument has the wrong type, or the data or autocast are of half precision.
        ValueError: if shapes, devices or names do not fit, or variance reduction is asked of an energy.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 64), nn.Softplus(), nn.Linear(64, 1))
        >>> finite_difference_loss(net, torch.randn(128, 2)).backward()

    Source: Pang et al. 2020, "Efficient learning of generative models via finite-difference score matching", section 4,
    with `v = e u` there; FD-SSM-VR as in the authors' code.
    """
    request = backends.make_request(model, x, options["cond"], options["kind"])
    reduced = check_reduction(x, options["weight"], options["reduction"])
    size, variance_reduced = _check_step(options["step"], x), options["variance_reduced"]
    directions = directions_of(x, options)
    _warn_of_mixing(model)
    along = _along(directions, request.x)
    moved = _moved(request.x, size, along, centre=request.kind != "score")
    output, kind = _evaluate(request, moved)
    if kind == "energy" and variance_reduced:
        raise ValueError(
            "variance_reduced=True needs |s|, which differences of an energy along a few directions do not give; leave "
            "it out, or use fastssm.sliced_loss."
        )
    find = _of_energy if kind == "energy" else _of_score
    jacobian, square = find(output, along, size, variance_reduced is not False)
    return finish(jacobian, square, reduced, return_terms)


@takes(FiniteDifferenceDenoisingArguments)
def finite_difference_denoising_loss(
    model: Model, x: Tensor, **options: Unpack[FiniteDifferenceDenoisingArguments]
) -> Tensor:
    """Denoising score matching of an energy by central differences along random directions.

    With `e` the step and `y = x + sigma z`, `z ~ N(0, I)`,

        loss_b = mean_m( ((E(y - e v_m) - E(y + e v_m)) / (2 e) + v_m . z / sigma)^2 / 2 ),

    whose mean over directions is `fastssm.denoising_loss`, `|s(y) + z / sigma|^2 / 2`, up to an error of order
    `step^2`. The authors' loss is `sigma^4` times this one; pass `weight` for theirs.

    Args:
        model: an energy `E` (`[B]` or `[B, 1]`), any module. A score net has nothing to difference: use
            `fastssm.denoising_loss`.
        x: clean data `[B, ...]`.
        options: keyword arguments of `FiniteDifferenceDenoisingArguments`.

    Returns:
        The loss.

    Raises:
        TypeError: if an argument has the wrong type, or the data or autocast are of half precision.
        ValueError: if shapes, devices or names do not fit, the model is not an energy, or a deviation is not positive.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 64), nn.Softplus(), nn.Linear(64, 1))
        >>> finite_difference_denoising_loss(net, torch.randn(128, 2), sigma=0.3).backward()

    Source: Pang et al. 2020, "Efficient learning of generative models via finite-difference score matching", section 4;
    the constants as in the authors' code.
    """
    request = backends.make_request(model, x, options["cond"], "energy")
    reduced = check_reduction(x, options["weight"], options["reduction"])
    size, deviation = _check_step(options["step"], x), check_sigma(options["sigma"], x)
    check_noise(options["noise"], x)
    directions = directions_of(x, options)
    _warn_of_mixing(model)
    noisy = add_noise(request.x, deviation, options["noise"], options["generator"])
    along = _along(directions, request.x)
    energy, _ = _evaluate(request, _moved(noisy.x, size, along, centre=False))
    ahead, behind = energy.reshape(2, *along.shape[:2])
    mismatch = (behind - ahead) / (2 * size) + (along * (noisy.noise / noisy.sigma)).sum(2)
    return reduce(0.5 * mismatch.square().mean(0), reduced)


def _of_energy(output: Tensor, along: Tensor, step: float, variance_reduced: bool) -> tuple[Tensor, Tensor]:
    """`mean_m v^T J v` and `mean_m (v . s)^2 / 2` from energies ahead, behind and at the centre."""
    count, batch = along.shape[:2]
    ahead, behind, centre = torch.split(output.reshape(2 * count + 1, batch), [count, count, 1])
    return ((2 * centre - ahead - behind) / step**2).mean(0), ((behind - ahead) / step).square().mean(0) / 8


def _of_score(output: Tensor, along: Tensor, step: float, variance_reduced: bool) -> tuple[Tensor, Tensor]:
    """`mean_m v^T J v` and `mean_m |s|^2 / 2` or `mean_m (v . s)^2 / 2` from scores ahead and behind."""
    count, batch, dim = along.shape
    ahead, behind = output[: 2 * count * batch].reshape(2, count, batch, dim)
    mean = (ahead + behind) / 2
    square = mean.square().sum(2) if variance_reduced else (along * mean).sum(2).square()
    return (along * (ahead - behind)).sum(2).mean(0) / (2 * step), square.mean(0) / 2


def _along(directions: Directions, x: Tensor) -> Tensor:
    """Return the directions `[M, B, D]`."""
    return directions.tile(slice(0, x.shape[0]), slice(0, directions.count), x.flatten(1))


def _moved(x: Tensor, step: float, along: Tensor, *, centre: bool) -> Tensor:
    """Return `x + step v_m` for every m, `x - step v_m` for every m, and x itself, as one batch."""
    offset = (step * along).reshape(along.shape[0], *x.shape)
    points = [x + offset, x - offset, *([x[None]] if centre else [])]
    return torch.cat(points).flatten(0, 1)


def _evaluate(request: backends.Request, points: Tensor) -> tuple[Tensor, str]:
    """Return the model's output on several batches at once, and its kind; each gets the conditioning of x."""
    batch = request.x.shape[0]
    copies = points.shape[0] // batch if batch else 1
    output = request.at(points, lambda c: c.repeat(copies, *[1] * (c.ndim - 1))).output()
    checks.check_output(output)
    return output, checks.kind_of_output(output.shape, points.shape, request.kind)


def _check_step(step: object, x: Tensor) -> float:
    if x.dtype not in STEPS or checks.autocasting(x):
        came = f"data of {x.dtype}" if x.dtype not in STEPS else "a call under autocast"
        raise TypeError(
            f"finite differences need float32 or float64, got {came}: in half precision a difference is rounding, and "
            "its sign may be wrong; use x.float() outside autocast, or the exact fastssm.sliced_loss."
        )
    if step is None:
        return STEPS[x.dtype]
    if isinstance(step, bool) or not isinstance(step, int | float):
        raise TypeError(f"step must be a positive number, got {type(step).__name__}.")
    if not 0 < step < float("inf"):
        raise ValueError(f"step must be positive and finite, got {step}.")
    return float(step)


_MIXING: Sequence[tuple[type[nn.Module], str]] = (
    (
        nn.modules.batchnorm._BatchNorm,
        "mixes the samples, and the points around them, in its batch statistics, so that differences are not those of "
        "one function",
    ),
    (nn.modules.dropout._DropoutNd, "draws another mask for every point, so that differences are mostly noise"),
)


def _warn_of_mixing(model: Model) -> None:
    """Warn of layers under which `E(x + e v)` and `E(x - e v)` are not values of one function."""
    if torch.compiler.is_compiling():
        return
    for module in checks.modules_of(model):
        for kind, effect in _MIXING:
            if isinstance(module, kind) and module.training and getattr(module, "p", 1.0) > 0:
                warnings.warn(
                    f"{type(module).__name__} in train mode {effect}; call model.eval() first, or use another layer.",
                    FastSSMWarning,
                    stacklevel=4,  # the caller of the public function
                )
                return


class FiniteDifferenceLoss(ScoreLoss[Out], loss=finite_difference_loss, tensors=SlicedTensors):
    """`fastssm.finite_difference_loss` as a module that owns the network.

    `FiniteDifferenceLoss(net)(x)` is `finite_difference_loss(net, x)`.

    Example:
        >>> loss = FiniteDifferenceLoss(nn.Sequential(nn.Linear(2, 8), nn.Softplus(), nn.Linear(8, 1)))
        >>> loss(torch.randn(16, 2)).backward()

    Source: Pang et al. 2020.
    """

    @overload
    def __init__(
        self: FiniteDifferenceLoss[Tensor],
        model: nn.Module,
        *,
        return_terms: Literal[False] = False,
        **options: Unpack[FiniteDifferenceOptions],
    ) -> None: ...

    @overload
    def __init__(
        self: FiniteDifferenceLoss[LossAndTerms],
        model: nn.Module,
        *,
        return_terms: Literal[True],
        **options: Unpack[FiniteDifferenceOptions],
    ) -> None: ...

    @overload
    def __init__(
        self: FiniteDifferenceLoss[Tensor | LossAndTerms],
        model: nn.Module,
        *,
        return_terms: bool,
        **options: Unpack[FiniteDifferenceOptions],
    ) -> None: ...

    def __init__(self, model: nn.Module, **options: Any) -> None:
        super().__init__(model, **options)


class FiniteDifferenceDenoisingLoss(
    ScoreLoss, loss=finite_difference_denoising_loss, tensors=FiniteDifferenceDenoisingTensors
):
    """`fastssm.finite_difference_denoising_loss` as a module that owns the network.

    `FiniteDifferenceDenoisingLoss(net, sigma=0.3)(x)` is `finite_difference_denoising_loss(net, x, sigma=0.3)`.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 8), nn.Softplus(), nn.Linear(8, 1))
        >>> FiniteDifferenceDenoisingLoss(net, sigma=0.3)(torch.randn(16, 2)).backward()

    Source: Pang et al. 2020.
    """

    def __init__(self, model: nn.Module, **options: Unpack[FiniteDifferenceDenoisingOptions]) -> None:
        super().__init__(model, **options)
