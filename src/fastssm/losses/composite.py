"""Composite score matching: an autoregressive model trained through its one-dimensional conditional scores."""

from __future__ import annotations

from typing import Any, Literal, overload

import torch
from torch import Tensor, nn

from fastssm import checks, conditionals
from fastssm.losses.denoising import denoising_loss
from fastssm.losses.module import ScoreLoss
from fastssm.losses.reduction import LossTerms, check_reduction, finish, reduced
from fastssm.losses.sliced import exact_loss
from fastssm.noise import check_noise, check_sigma


@overload
def composite_loss(
    context_net: nn.Module, head: nn.Module, x: Tensor, *, return_terms: Literal[True], **options: Any
) -> tuple[Tensor, LossTerms]: ...


@overload
def composite_loss(
    context_net: nn.Module,
    head: nn.Module,
    x: Tensor,
    *,
    sigma: float | Tensor | None = None,
    noise: Tensor | None = None,
    kind: str = "energy",
    weight: Tensor | None = None,
    reduction: str = "mean",
    generator: torch.Generator | None = None,
    backend: str = "auto",
    precision: str = "full",
    return_terms: Literal[False] = False,
) -> Tensor: ...


def composite_loss(  # type: ignore[misc]  # the first overload leaves its options open
    context_net: nn.Module,
    head: nn.Module,
    x: Tensor,
    *,
    sigma: float | Tensor | None = None,
    noise: Tensor | None = None,
    kind: str = "energy",
    weight: Tensor | None = None,
    reduction: str = "mean",
    generator: torch.Generator | None = None,
    backend: str = "auto",
    precision: str = "full",
    return_terms: bool = False,
) -> Tensor | tuple[Tensor, LossTerms]:
    """Composite score matching of an autoregressive model: exact, with one direction per coordinate and no projections.

    `loss_b = sum_d( ds_d/dx_d + s_d^2 / 2 )` with the conditional scores `s_d = d log p(x_d | x_{<d}) / dx_d`, which
    `head` computes from `x_d` and the context `c_d(x_{<d})`. With `sigma`, denoising: `x~_d = x_d + sigma z_d` and
    `loss_b = sum_d (s_d(c_d, x~_d) + z_d / sigma)^2 / 2`, the context being that of the clean data.

    The B D pairs of a sample and a coordinate are one batch of one-dimensional data, of which the contexts are the
    conditioning columns: the engine runs them in 3 rows whatever D, and gives the contexts their gradients.

    Args:
        context_net: from x to contexts `[B, D, C]`, that of `d` a function of the coordinates before `d`, such as a
            `fastssm.nn.MADEContext`.
        head: a one-dimensional energy or score of `(x_d [N, 1], c_d [N, C])`, such as
            `fastssm.nn.MLP(1, widths, cond_dim=C)`, shared by all coordinates.
        x: data `[B, ...]`, flattened to `[B, D]`.
        sigma: standard deviation of the noise of the denoising form, a number or one per sample `[B]`; None for the
            exact form.
        noise: z, like x, instead of random noise; needs `sigma`.
        kind: "energy" (`s_d = -dE/dx_d`) or "score"; the shape of a one-dimensional output cannot tell.
        weight: weight of each sample, `[B]`; "mean" still divides by B.
        reduction: "mean", "sum" or "none" (`[B]`).
        generator: source of the noise, torch's default one if None.
        backend: "auto", or the name of the one that must run.
        precision: "full", "bf16" or "tf32", as for `fastssm.sliced_loss`.
        return_terms: return `(loss, LossTerms)`; in the denoising form the Jacobian's term is zero.

    Returns:
        The loss; with `return_terms` a pair. It can be differentiated once, in both nets' parameters and in x.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if shapes, devices or names do not fit, or sigma is not positive.
        UnsupportedError: if the named backend cannot run the head, or none can.

    Example:
        >>> context = fastssm.nn.MADEContext(2, 8, [32])
        >>> head = fastssm.nn.MLP(1, [32, 32], cond_dim=8)
        >>> composite_loss(context, head, torch.randn(64, 2)).backward()

    Source: Meng, Yu, Song, Song, Ermon 2020, "Autoregressive score matching", equations 5 and 7.
    """
    points, contexts = conditionals.pairs(context_net, x, kind)
    weight = check_reduction(x, weight, reduction)
    shape = len(x), x.shape[1:].numel()
    options: dict[str, Any] = {"cond": contexts, "kind": kind, "backend": backend, "precision": precision}
    if sigma is not None:
        check_noise(noise, x)
        options["sigma"] = check_sigma(sigma, x).expand(len(x)).repeat_interleave(shape[1])
        options["noise"] = None if noise is None else noise.reshape(-1, 1)
        options |= {"generator": generator, "reduction": "none"}
        square = denoising_loss(head, points, **options).view(shape).sum(1)
        return finish(torch.zeros_like(square), square, weight, reduction, return_terms)
    if noise is not None:
        raise ValueError("noise belongs to the denoising form; pass sigma too, or leave noise out.")
    if reduction == "none":
        each, parts = exact_loss(head, points, reduction="none", return_terms=True, **options)
        loss = reduced(each.view(shape).sum(1), weight, reduction)
    else:
        shared = None if weight is None else weight.repeat_interleave(shape[1])
        loss, parts = exact_loss(head, points, weight=shared, reduction="sum", return_terms=True, **options)
        loss = loss / len(x) if reduction == "mean" else loss
    return (loss, LossTerms(*(part.view(shape).sum(1) for part in parts))) if return_terms else loss


class CompositeLoss(ScoreLoss):
    """`fastssm.composite_loss` as a module that owns both nets: `CompositeLoss(context_net, head)(x)`.

    Args:
        context_net: the context net; kept as the attribute `context_net`.
        head: the conditional energy or score; kept as the attribute `model`.
        options: keyword arguments of `composite_loss`, except `weight` and `noise`, which `forward` takes.

    Raises:
        TypeError: for an option that `composite_loss` does not have, or a net that is no module.
        ValueError: for a net that is itself a data-parallel wrapper.

    Example:
        >>> import torch
        >>> from fastssm.nn import MLP, MADEContext
        >>> loss = CompositeLoss(MADEContext(2, 8, [32]), MLP(1, [32, 32], cond_dim=8))
        >>> loss(torch.randn(64, 2)).backward()

    Source: Meng et al. 2020.
    """

    loss = staticmethod(composite_loss)
    PER_CALL = ("weight", "noise")

    def __init__(self, context_net: nn.Module, head: nn.Module, **options: Any) -> None:
        super().__init__(head, **options)
        checks.check_model(context_net)
        checks.check_not_wrapped([context_net])
        self.context_net = context_net

    def evaluate(self, x: Tensor, **tensors: Any) -> Tensor | tuple[Tensor, LossTerms]:
        """Return the loss of the batch."""
        out: Tensor | tuple[Tensor, LossTerms] = composite_loss(
            self.context_net, self.model, x, **tensors, **self.options
        )
        return out

    def forward(
        self, x: Tensor, weight: Tensor | None = None, noise: Tensor | None = None
    ) -> Tensor | tuple[Tensor, LossTerms]:
        """Return the loss of the batch."""
        return self.evaluate(x, weight=weight, noise=noise)
