"""Losses as modules that own their network: what data-parallel wrappers, Lightning and torch.compile wrap."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor, nn

from fastssm import checks
from fastssm.losses.reduction import LossTerms
from fastssm.losses.sliced import exact_loss, sliced_loss

_PER_CALL = ("cond", "weight", "v")  # the tensors of a batch: arguments of forward, not options


class ScoreLoss(nn.Module):
    """A loss that owns the network: `Twin(net, **options)(x, **tensors)` is `loss(net, x, **tensors, **options)`.

    A twin names its function in `loss`, and `PER_CALL` where a batch brings other tensors than `cond`, `weight`, `v`;
    its `forward` names them and calls `evaluate`.

    Args:
        model: the network; kept as the attribute `model`.
        options: keyword arguments of the function, except those that `forward` takes.

    Raises:
        TypeError: for an option that the function does not have, a missing one, or a model that is no module.
        ValueError: for a model that is itself a data-parallel wrapper.
    """

    loss: ClassVar[Callable[..., Any]]
    PER_CALL: ClassVar[tuple[str, ...]] = _PER_CALL

    def __init__(self, model: nn.Module, **options: Any) -> None:
        super().__init__()
        allowed = self.option_names()
        unknown = sorted(set(options) - set(allowed))
        if unknown:
            raise TypeError(
                f"{type(self).__name__} takes {', '.join(allowed)}, got {', '.join(unknown)}; "
                f"{', '.join(self._tensor_names())} are arguments of its forward."
            )
        missing = [p.name for p in self._keywords() if p.default is p.empty and p.name in set(allowed) - set(options)]
        if missing:
            raise TypeError(f"{type(self).__name__} needs {', '.join(missing)}.")
        checks.check_model(model)
        checks.check_not_wrapped([model])
        self.model = model
        self.options = options

    @classmethod
    def _keywords(cls) -> list[inspect.Parameter]:
        parameters = inspect.signature(cls.loss).parameters.values()
        return [p for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]

    @classmethod
    def _tensor_names(cls) -> list[str]:
        return [p.name for p in cls._keywords() if p.name in cls.PER_CALL]

    @classmethod
    def option_names(cls) -> list[str]:
        """Return the keyword arguments that the constructor takes."""
        return [p.name for p in cls._keywords() if p.name not in cls.PER_CALL]

    def evaluate(self, x: Tensor, **tensors: Any) -> Tensor | tuple[Tensor, LossTerms]:
        """Return the loss of the batch, for `forward`, which names the tensors that come with x."""
        out: Tensor | tuple[Tensor, LossTerms] = type(self).loss(self.model, x, **tensors, **self.options)
        return out

    def extra_repr(self) -> str:
        """Show the options."""
        return ", ".join(f"{key}={value!r}" for key, value in self.options.items())


class SlicedScoreLoss(ScoreLoss):
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

    loss = staticmethod(sliced_loss)

    def forward(
        self, x: Tensor, cond: Any = None, weight: Tensor | None = None, v: Tensor | None = None
    ) -> Tensor | tuple[Tensor, LossTerms]:
        """Return the loss of the batch."""
        return self.evaluate(x, cond=cond, weight=weight, v=v)


class ExactScoreLoss(ScoreLoss):
    """`fastssm.exact_loss` as a module that owns the network: `ExactScoreLoss(net)(x)` is `exact_loss(net, x)`.

    Args:
        model: the network, as for `exact_loss`; kept as the attribute `model`.
        options: keyword arguments of `exact_loss`, except `cond` and `weight`, which `forward` takes.

    Raises:
        TypeError: for an option that `exact_loss` does not have, or a model that is no module.
        ValueError: for a model that is itself a data-parallel wrapper.

    Example:
        >>> import torch
        >>> loss = ExactScoreLoss(nn.Sequential(nn.Linear(2, 8), nn.Softplus(), nn.Linear(8, 1)))
        >>> loss(torch.randn(16, 2)).backward()

    Source: Hyvarinen 2005.
    """

    loss = staticmethod(exact_loss)

    def forward(self, x: Tensor, cond: Any = None, weight: Tensor | None = None) -> Tensor | tuple[Tensor, LossTerms]:
        """Return the loss of the batch."""
        return self.evaluate(x, cond=cond, weight=weight)
