"""Drop-in losses for torchebm: subclasses with the same constructors, calls, random numbers and values.

`SlicedScoreMatching`, `ScoreMatching` and `DenoisingScoreMatching` are created on first access, because they derive
from classes of torchebm. They override `compute_loss` and inherit dtype and device handling, autocast, regularisation
and schedules.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from fastssm.losses import denoising_loss, exact_loss, sliced_loss

if TYPE_CHECKING:
    SlicedScoreMatching: type[nn.Module]
    ScoreMatching: type[nn.Module]
    DenoisingScoreMatching: type[nn.Module]

__all__ = ["DenoisingScoreMatching", "ScoreMatching", "SlicedScoreMatching"]


def __getattr__(name: str) -> type[nn.Module]:
    """Return one of the losses."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _classes()[name]


@cache
def _classes() -> dict[str, type[nn.Module]]:
    """Return the losses by name.

    Raises:
        ImportError: if torchebm is not installed.
    """
    try:
        from torchebm import losses
    except ImportError:
        raise ImportError(
            "fastssm.integrations.torchebm needs the package torchebm, which is not installed; pip install torchebm, "
            "or call fastssm.sliced_loss(model, x)."
        ) from None
    found = {"SlicedScoreMatching": _sliced(losses), "ScoreMatching": _exact(losses),
             "DenoisingScoreMatching": _denoising(losses)}  # fmt: skip
    for name, loss in found.items():
        loss.__module__, loss.__qualname__, loss.__name__ = __name__, name, name  # so that it can be pickled
    return found


def _sliced(losses: Any) -> type[nn.Module]:
    class SlicedScoreMatching(losses.SlicedScoreMatching):  # type: ignore[misc]
        """`torchebm.losses.SlicedScoreMatching` by fastssm, with the same directions."""

        def compute_loss(
            self, x: Tensor, *args: Any, model_kwargs: Any = None, generator: Any = None, **kwargs: Any
        ) -> Any:
            """Return the sliced loss of the batch, `fastssm.sliced_loss` without variance reduction."""
            if self._resolve_model_kwargs(model_kwargs, kwargs) or not self.use_autograd:
                return super().compute_loss(x, *args, model_kwargs=model_kwargs, generator=generator, **kwargs)
            stacked = x.detach().unsqueeze(0).expand(self.n_projections, *x.shape).flatten(0, 1)
            v = self._get_random_projections(stacked, generator=generator).reshape(self.n_projections, *x.shape)
            return sliced_loss(self.model, x.detach(), v=v, variance_reduced=False, kind="energy")

    return SlicedScoreMatching


def _exact(losses: Any) -> type[nn.Module]:
    class ScoreMatching(losses.ScoreMatching):  # type: ignore[misc]
        """`torchebm.losses.ScoreMatching` by fastssm, with the exact trace for every `hessian_method`."""

        def compute_loss(
            self, x: Tensor, *args: Any, model_kwargs: Any = None, generator: Any = None, **kwargs: Any
        ) -> Any:
            """Return the exact loss of the batch, `fastssm.exact_loss`."""
            if self._resolve_model_kwargs(model_kwargs, kwargs) or not self.use_autograd:
                return super().compute_loss(x, *args, model_kwargs=model_kwargs, generator=generator, **kwargs)
            return exact_loss(self.model, x.detach(), kind="energy")

    return ScoreMatching


def _denoising(losses: Any) -> type[nn.Module]:
    class DenoisingScoreMatching(losses.DenoisingScoreMatching):  # type: ignore[misc]
        """`torchebm.losses.DenoisingScoreMatching` by fastssm, with the same noise."""

        def compute_loss(
            self, x: Tensor, *args: Any, model_kwargs: Any = None, generator: Any = None, **kwargs: Any
        ) -> Any:
            """Return the denoising loss of the batch, `fastssm.denoising_loss`."""
            if self._resolve_model_kwargs(model_kwargs, kwargs) or not self.use_autograd:
                return super().compute_loss(x, *args, model_kwargs=model_kwargs, generator=generator, **kwargs)
            _, noise = self.perturb_data(x.detach(), generator=generator)
            sigma = self.noise_scale
            return denoising_loss(self.model, x.detach(), sigma=sigma, noise=noise / sigma, kind="energy")

    return DenoisingScoreMatching
