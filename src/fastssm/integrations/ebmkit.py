"""Drop-in losses for ebmkit (imported as `ebm`) with the same constructors, calls, random numbers and values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fastssm import checks
from fastssm.losses import denoising_loss, exact_loss, sliced_loss

Energy = Callable[[Tensor], Tensor]


class _Function(nn.Module):
    """An energy function as a module."""

    def __init__(self, function: Energy) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def _package() -> Any:
    try:
        import ebm
    except ImportError:
        raise ImportError(
            "fastssm.integrations.ebmkit needs the package ebmkit, which is not installed; pip install ebmkit, or call "
            "fastssm.sliced_loss(energy, x)."
        ) from None
    return ebm


def network_of(energy: Energy) -> nn.Module:
    """Return the module to differentiate: the network inside an ebmkit wrapper, or a function as a module.

    `ebm.EnergyModel` and `ebm.nets.MLPEnergy` only flatten the output of their `net`, so the `net` itself is returned.

    Args:
        energy: a module or function from `[B, ...]` to energies `[B]`.

    Returns:
        A module with the same energies, `[B]` or `[B, 1]`, and the same parameters.

    Raises:
        ImportError: if ebmkit is not installed.

    Example:
        >>> network_of(lambda x: x.square().sum(1))  # doctest: +SKIP
        _Function()
    """
    package = _package()
    hooked = isinstance(energy, nn.Module) and (energy._forward_hooks or energy._forward_pre_hooks)
    if type(energy) in (package.EnergyModel, package.nets.MLPEnergy) and not hooked:
        net: nn.Module = energy.net  # type: ignore[attr-defined]
        return net
    return energy if isinstance(energy, nn.Module) else _Function(energy)


class _Loss(nn.Module):
    """Base class of the losses; returns values in ebmkit's container."""

    def __init__(self) -> None:
        super().__init__()
        _package()

    def _output(self, loss: Tensor) -> Any:
        return _package().LossOutput(loss=loss, metrics={"loss": loss.item()})


class SlicedScoreMatching(_Loss):
    """`ebm.SlicedScoreMatching` by fastssm: `loss_fn(energy, x) -> LossOutput`.

    `E_v[v^T J v] + |s|^2 / 2`, or `(v . s)^2 / 2` with `vr=False`: `fastssm.sliced_loss` with the directions that
    ebmkit draws, so that a run with the same seed has the same losses.

    Args:
        n_projections: number of directions per sample.
        vr: use variance reduction.

    Raises:
        ImportError: if ebmkit is not installed.
        ValueError: if `n_projections` is less than 1.

    Example:
        >>> from fastssm.integrations.ebmkit import SlicedScoreMatching
        >>> loss_fn = SlicedScoreMatching(n_projections=4)  # doctest: +SKIP
        >>> loss_fn(energy, x).loss.backward()  # doctest: +SKIP

    Source: Song et al. 2019, equations 7 and 8.
    """

    def __init__(self, n_projections: int = 1, vr: bool = True) -> None:
        super().__init__()
        checks.check_count("n_projections", n_projections)
        self.n_projections, self.vr = n_projections, vr

    def forward(self, energy: Energy, x: Tensor) -> Any:
        """Return the loss of the batch as an `ebm.LossOutput`."""
        v = torch.stack([torch.randn_like(x) for _ in range(self.n_projections)])
        return self._output(sliced_loss(network_of(energy), x.detach(), v=v, variance_reduced=self.vr, kind="energy"))


class ExactScoreMatching(_Loss):
    """`ebm.ExactScoreMatching` by fastssm: `loss_fn(energy, x) -> LossOutput`.

    `tr J + |s|^2 / 2`, in one sweep; ebmkit runs one backward pass per coordinate.

    Raises:
        ImportError: if ebmkit is not installed.

    Example:
        >>> from fastssm.integrations.ebmkit import ExactScoreMatching
        >>> ExactScoreMatching()(energy, x).loss.backward()  # doctest: +SKIP

    Source: Hyvarinen 2005.
    """

    def forward(self, energy: Energy, x: Tensor) -> Any:
        """Return the loss of the batch as an `ebm.LossOutput`."""
        return self._output(exact_loss(network_of(energy), x.detach(), kind="energy"))


class DenoisingScoreMatching(_Loss):
    """`ebm.DenoisingScoreMatching` by fastssm: `loss_fn(energy, x) -> LossOutput`.

    `|s(x + sigma z) + z / sigma|^2 / 2`, with the noise that ebmkit draws.

    Args:
        sigma: standard deviation of the noise, in units of x.

    Raises:
        ImportError: if ebmkit is not installed.
        ValueError: if sigma is not positive.

    Example:
        >>> from fastssm.integrations.ebmkit import DenoisingScoreMatching
        >>> DenoisingScoreMatching(sigma=0.2)(energy, x).loss.backward()  # doctest: +SKIP

    Source: Vincent 2011.
    """

    def __init__(self, sigma: float = 0.1) -> None:
        super().__init__()
        if not sigma > 0:
            raise ValueError(f"sigma must be positive, got {sigma}.")
        self.sigma = sigma

    def forward(self, energy: Energy, x: Tensor) -> Any:
        """Return the loss of the batch as an `ebm.LossOutput`."""
        noise = torch.randn_like(x)
        loss = denoising_loss(network_of(energy), x.detach(), sigma=self.sigma, noise=noise, kind="energy")
        return self._output(loss)
