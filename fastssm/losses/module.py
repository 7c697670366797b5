"""Losses as modules that own their network: what data-parallel wrappers, Lightning and torch.compile wrap."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from fastssm import checks
from fastssm.losses.sliced import Cond, LossTerms, sliced_loss


class SlicedScoreLoss(nn.Module):
    """`fastssm.sliced_loss` as a module that owns the network.

    `loss = SlicedScoreLoss(net)(x)` is `sliced_loss(net, x)`. Data-parallel wrappers average the gradients of what they
    wrap when its `forward` has run, so wrap this, not the network: `DDP(SlicedScoreLoss(net))`.

    Args:
        model: the network, as for `sliced_loss`; kept as the attribute `model`.
        options: keyword arguments of `sliced_loss`, except `cond`, `v` and `weight`, which `forward` takes.

    Raises:
        TypeError: for an option that `sliced_loss` does not have, or a model that is no module.
        ValueError: for a model that is itself a data-parallel wrapper.

    Example:
        >>> import torch
        >>> loss = SlicedScoreLoss(nn.Sequential(nn.Linear(2, 8), nn.Softplus(), nn.Linear(8, 1)))
        >>> loss(torch.randn(16, 2)).backward()

    Source: Song et al. 2019.
    """

    OPTIONS = (
        "n_projections",
        "projection",
        "variance_reduced",
        "control_variate",
        "kind",
        "reduction",
        "generator",
        "backend",
        "precision",
        "return_terms",
    )

    def __init__(self, model: nn.Module, **options: Any) -> None:
        super().__init__()
        unknown = sorted(set(options) - set(self.OPTIONS))
        if unknown:
            raise TypeError(
                f"SlicedScoreLoss takes {', '.join(self.OPTIONS)}, got {', '.join(unknown)}; cond, weight and v are "
                "arguments of its forward."
            )
        checks.check_model(model)
        checks.check_not_wrapped([model])
        self.model = model
        self.options = options

    def forward(
        self, x: Tensor, cond: Cond = None, weight: Tensor | None = None, v: Tensor | None = None
    ) -> Tensor | tuple[Tensor, LossTerms]:
        """Return the loss of the batch."""
        out: Tensor | tuple[Tensor, LossTerms]
        out = sliced_loss(self.model, x, cond=cond, weight=weight, v=v, **self.options)
        return out

    def extra_repr(self) -> str:
        """Show the options."""
        return ", ".join(f"{key}={value!r}" for key, value in self.options.items())
