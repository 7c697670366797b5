"""The gradient of the entropy of a sampler whose density is unknown, from a model of its score."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import Unpack

from fastssm import backends, checks
from fastssm.losses.reduction import check_reduction, reduce
from fastssm.options import LossOptions, LossTensors, Model, takes


class EntropyArguments(LossTensors, LossOptions, total=False):
    """Keyword arguments of `entropy_gradient`."""


@takes(EntropyArguments)
def entropy_gradient(model: Model, z: Tensor, **options: Unpack[EntropyArguments]) -> Tensor:
    r"""Return a number whose gradient in the parameters of a sampler is the gradient of the sampler's entropy.

    For samples `z = g(noise; phi)` of a density q with the score `s = d log q / dz`, and the entropy
    `H = -E[ log q(z) ]`,

        dH/dphi = -E[ s(z) dz/dphi ],    so    value_b = -s(z_b) . z_b  with s held constant.

    Add it to what you maximise, subtract it from a loss. The model of the score gets no gradient; train it on
    `z.detach()`, with `fastssm.sliced_loss` for example.

    The value itself is no entropy: for the true score its mean is D (Stein's identity). A mean far from D says that
    the model is not the score of the samples.

    Args:
        model: the score of q, or an energy with `log q = -E + const`; called as `model(z, *cond)`.
        z: samples `[B, ...]`, differentiable in the parameters of what drew them; errors that compare them with the
            model or with other tensors call them x.
        options: keyword arguments of `EntropyArguments`.
        cond: what each sample was drawn given, for a conditional density `q(z | cond)`: further arguments of the
            model, as for `fastssm.sliced_loss`.

    Returns:
        The value, float32 for half-precision samples, otherwise in the dtype of z. Only its gradient in z and in the
        weights counts.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if shapes, devices or names do not fit, or z does not require grad.
        UnsupportedError: if the named backend cannot run the call, or none can.

    Example:
        >>> width = nn.Parameter(torch.tensor(2.0))
        >>> z = width * torch.randn(1000, 3)  # H = 3 log(width) + a constant
        >>> score = lambda z: -z / width**2
        >>> slope, = torch.autograd.grad(entropy_gradient(score, z), width)  # about 3 / width

    Source: Song, Garg, Shi, Ermon 2019, "Sliced score matching", section 6.2; Li and Turner 2018, "Gradient estimators
        for implicit models", section 2.
    """
    checks.check_data(z, "z")
    if not z.requires_grad:
        raise ValueError(
            "z must require grad, because its gradient in the parameters of the sampler is what is wanted, got "
            "samples without one; pass what the sampler returned, with grad mode on and not detached."
        )
    with torch.no_grad():
        request = backends.make_request(model, z.detach(), options["cond"], options["kind"], options["precision"])
        reduced = check_reduction(z, options["weight"], options["reduction"])
        score = backends.select(request, "score", options["backend"]).score(request)
    return reduce(-(score * z.flatten(1)).sum(1), reduced)
