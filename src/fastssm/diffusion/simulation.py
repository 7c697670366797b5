"""What the bound needs of a diffusion whose kernel is not known: simulated paths, and the divergence of its drift."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn

from fastssm import checks
from fastssm.backends import reference
from fastssm.diffusion.sde import SDE, CustomSDE, LinearSDE, normal_like, per_sample
from fastssm.directions import Directions
from fastssm.noise import check_noise


class Path(NamedTuple):
    """What is kept of a simulated path.

    Attributes:
        state: at each sample's own time, like x.
        end: at the last time, like x.
    """

    state: Tensor
    end: Tensor


def simulated(sde: CustomSDE, x: Tensor, t: Tensor, noise: Tensor | None, generator: Generator | None) -> Path:
    """Simulate every sample from time 0 to the last time, with a stop at its own time t.

    The steps are the `sde.steps` equal ones of the whole time, one of which t cuts in two; so the noise, if given, is
    `[steps + 1, *x.shape]`.
    """
    state = end = checks.widened(x)
    grid = torch.linspace(0.0, sde.end, sde.steps + 1, dtype=end.dtype, device=x.device)
    stops = torch.cat([grid.expand(len(x), -1), t[:, None]], 1).sort(1).values
    for step in range(sde.steps + 1):
        now, following = stops[:, step], stops[:, step + 1]
        z = normal_like(x, generator) if noise is None else checks.outside_inference(noise[step])
        end = sde.advance(end, now, following - now, z)
        state = torch.where(per_sample(following <= t, x), end, state)
    return Path(state, end)


def check_simulation(steps: int, noise: object, x: Tensor) -> None:
    """Raise unless the noise of a simulation is None or has one entry like x for each step."""
    if noise is None:
        return
    if not isinstance(noise, Tensor) or noise.ndim != x.ndim + 1 or len(noise) != steps:
        came = tuple(noise.shape) if isinstance(noise, Tensor) else type(noise).__name__
        raise ValueError(f"noise must be a tensor ({steps}, {', '.join(map(str, x.shape))}), like x for every step "
                         f"of the simulation, got {came}.")  # fmt: skip
    check_noise(noise[0], x)


class _Drift(nn.Module):
    """A custom drift as the module that plain autograd takes the divergence of."""

    def __init__(self, sde: SDE) -> None:
        super().__init__()
        self.sde = sde

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        found = self.sde.drift(x, t)
        if not torch.compiler.is_compiling() and not found.requires_grad:
            raise ValueError(
                "f(x, t) must depend on x through autograd, which finds its divergence, but its result does not "
                "require grad; write 0 * x for no drift, and remove torch.no_grad(), .detach() and .data from f."
            )
        return found


def drift_and_divergence(sde: SDE, x: Tensor, t: Tensor, directions: Directions) -> tuple[Tensor, Tensor]:
    """Return the drift, like x, and its divergence `[B]`, in closed form where that is known."""
    if isinstance(sde, LinearSDE):
        rate = sde.rate(t)
        return per_sample(rate, x) * x, rate * math.prod(x.shape[1:])
    found = reference.terms(_Drift(sde), x, ((t,), {}), "score", directions)
    return found.score, found.projected_jacobian
