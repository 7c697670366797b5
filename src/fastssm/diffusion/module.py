"""The losses of diffusion models as modules that own their network."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fastssm.diffusion.likelihood import elbo_loss
from fastssm.diffusion.matching import sliced_diffusion_loss
from fastssm.losses.module import ScoreLoss


class ElboLoss(ScoreLoss):
    """`fastssm.diffusion.elbo_loss` as a module that owns the network, for data-parallel wrappers.

    `ElboLoss(net, sde=sde)(x)` is `elbo_loss(net, x, sde=sde)`.

    Args:
        model: the network, as for `elbo_loss`; kept as the attribute `model`.
        options: keyword arguments of `elbo_loss`, except the tensors that `forward` takes.

    Raises:
        TypeError: for an option that `elbo_loss` does not have, a missing one, or a model that is no module.
        ValueError: for a model that is itself a data-parallel wrapper.

    Example:
        >>> import fastssm.nn
        >>> from fastssm.diffusion import VP
        >>> loss = ElboLoss(fastssm.nn.MLP(2, [8], 2, "silu", cond_dim=1), sde=VP())
        >>> loss(torch.randn(16, 2)).backward()

    Source: Huang, Lim and Courville 2021.
    """

    loss = staticmethod(elbo_loss)
    PER_CALL = ("cond", "weight", "v", "t", "noise")

    def forward(
        self,
        x: Tensor,
        cond: Any = None,
        weight: Tensor | None = None,
        v: Tensor | None = None,
        t: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> Any:
        """Return the loss of the batch."""
        return self.evaluate(x, cond=cond, weight=weight, v=v, t=t, noise=noise)


class SlicedDiffusionLoss(ScoreLoss):
    """`fastssm.diffusion.sliced_diffusion_loss` as a module that owns the network, for data-parallel wrappers.

    `SlicedDiffusionLoss(net, sde=sde)(x)` is `sliced_diffusion_loss(net, x, sde=sde)`.

    Args:
        model: the network, as for `sliced_diffusion_loss`; kept as the attribute `model`.
        options: keyword arguments of `sliced_diffusion_loss`, except the tensors that `forward` takes.

    Raises:
        TypeError: for an option that `sliced_diffusion_loss` does not have, a missing one, or a model that is no
            module.
        ValueError: for a model that is itself a data-parallel wrapper.

    Example:
        >>> import fastssm.nn
        >>> from fastssm.diffusion import VP
        >>> loss = SlicedDiffusionLoss(fastssm.nn.MLP(2, [8], 2, "silu", cond_dim=1), sde=VP())
        >>> loss(torch.randn(16, 2)).backward()

    Source: Song et al. 2021.
    """

    loss = staticmethod(sliced_diffusion_loss)
    PER_CALL = ("cond", "weight", "v", "t", "noise")

    def forward(
        self,
        x: Tensor,
        cond: Any = None,
        weight: Tensor | None = None,
        v: Tensor | None = None,
        t: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> Any:
        """Return the loss of the batch."""
        return self.evaluate(x, cond=cond, weight=weight, v=v, t=t, noise=noise)
