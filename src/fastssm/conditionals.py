"""Autoregressive models of one-dimensional conditionals: their density by quadrature, samples by inverse CDF."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastssm import checks

KINDS = ("energy", "score")
ROWS = 1 << 16  # of a grid that the head sees at once


def pairs(context_net: nn.Module, x: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """Return every coordinate of every sample `[B D, 1]` with its context `[B D, C]`, and check both."""
    checks.check_model(context_net)
    checks.check_data(x)
    checks.check_choice("kind", kind, KINDS)
    contexts = context_net(x)
    dim = x[0].numel() if len(x) else x.flatten(1).shape[1]
    if not isinstance(contexts, Tensor) or contexts.ndim != 3 or contexts.shape[:2] != (len(x), dim):
        came = tuple(contexts.shape) if isinstance(contexts, Tensor) else type(contexts).__name__
        raise ValueError(
            f"a context net returns one context for each coordinate, [B, D, C] = ({len(x)}, {dim}, C), got {came}; "
            "fastssm.nn.MADEContext is one."
        )
    return x.reshape(-1, 1), contexts.flatten(0, 1)


class Grid:
    """Log-densities of conditionals on equidistant points, normalised by the trapezoid rule in float64.

    Args:
        head: the conditional energy or score.
        contexts: `[N, C]`.
        low: left end.
        high: right end.
        points: how many.
        kind: "energy" or "score".
    """

    def __init__(self, head: nn.Module, contexts: Tensor, low: float, high: float, points: int, kind: str) -> None:
        self.head, self.contexts, self.kind = head, contexts, kind
        self.at = torch.linspace(low, high, points, dtype=torch.float64, device=contexts.device)
        self.step = (high - low) / (points - 1)
        size = max(1, ROWS // points)
        self.raw = torch.cat([self._raw(part) for part in torch.split(contexts, size)])
        self.log_z = torch.logsumexp(self._cells(self.raw), 1)

    def _evaluate(self, points: Tensor, contexts: Tensor) -> Tensor:
        """Return `-E` or `s` of pairs, in float64."""
        out: Tensor = self.head(points.to(contexts.dtype)[:, None], contexts).double().reshape(len(points))
        return -out if self.kind == "energy" else out

    def _raw(self, contexts: Tensor) -> Tensor:
        """Return `log p` up to a constant of each context on the grid: `-E`, or the integral of `s`."""
        count = len(self.at)
        value = self._evaluate(self.at.repeat(len(contexts)), contexts.repeat_interleave(count, 0)).view(-1, count)
        if self.kind == "energy":
            return value
        return nn.functional.pad(((value[:, 1:] + value[:, :-1]) * (self.step / 2)).cumsum(1), (1, 0))

    def _cells(self, raw: Tensor) -> Tensor:
        """Return the logarithm of the mass between neighbouring points, by the trapezoid rule."""
        return torch.logaddexp(raw[:, 1:], raw[:, :-1]) + torch.log(torch.tensor(self.step / 2, dtype=raw.dtype))

    def log_prob(self, points: Tensor) -> Tensor:
        """Return the log-density at one point `[N]` of each context."""
        points = points.double()
        value = self._evaluate(points, self.contexts)
        if self.kind == "energy":
            return value - self.log_z
        cell = ((points - self.at[0]) / self.step).long().clamp(0, len(self.at) - 2)[:, None]
        ahead = points - self.at[cell[:, 0]]
        left = self._evaluate(self.at[cell[:, 0]], self.contexts)
        return self.raw.gather(1, cell)[:, 0] + ahead * (left + value) / 2 - self.log_z

    def sample(self, uniform: Tensor) -> Tensor:
        """Return for each context the point `[N]` where the distribution function reaches a number of `[0, 1)`."""
        mass = (self._cells(self.raw) - self.log_z[:, None]).exp()
        reached = mass.cumsum(1)
        wanted = uniform.double()[:, None] * reached[:, -1:]
        cell = torch.searchsorted(reached, wanted, right=True).clamp(max=mass.shape[1] - 1)
        rest = (wanted - reached.gather(1, cell) + mass.gather(1, cell)) / self.step
        left, right = ((self.raw.gather(1, cell + i) - self.log_z[:, None]).exp() for i in (0, 1))
        slope = (right - left) / self.step  # the density is linear inside a cell, so its integral quadratic
        root = (left.square() + 2 * slope * rest * self.step).clamp(min=0).sqrt()
        ahead = 2 * rest * self.step / (left + root).clamp(min=torch.finfo(left.dtype).tiny)
        return (self.at[cell] + ahead.clamp(0, self.step))[:, 0]


@torch.no_grad()
def composite_log_prob(
    context_net: nn.Module, head: nn.Module, x: Tensor, bounds: Tensor, *, points: int = 512, kind: str = "energy"
) -> Tensor:
    """Return the log-density of an autoregressive model: each conditional is normalised by quadrature.

    `log p(x) = sum_d ( -E(x_d, c_d) - log int exp(-E(y, c_d)) dy )`, the integrals by the trapezoid rule.

    Args:
        context_net: as for `composite_loss`.
        head: the conditional energy, or score (whose integral is the log-density).
        x: data `[B, ...]`.
        bounds: `[2, D]`, the ends between which each coordinate's density lies; what lies outside is not counted.
        points: number of points of the grids.
        kind: "energy" or "score".

    Returns:
        `[B]` in float64, without a graph.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if shapes do not fit, or x leaves the bounds.

    Example:
        >>> context, head = fastssm.nn.MADEContext(2, 8, [32]), fastssm.nn.MLP(1, [32], cond_dim=8)
        >>> bounds = torch.tensor([[-9.0, -9.0], [9.0, 9.0]])
        >>> composite_log_prob(context, head, torch.randn(5, 2), bounds).shape
        torch.Size([5])

    Source: Meng et al. 2020 (the model); trapezoid rule.
    """
    coordinates, contexts = pairs(context_net, x, kind)
    coordinates, contexts = coordinates.view(len(x), -1), contexts.view(len(x), -1, contexts.shape[1])
    low, high = _checked_bounds(bounds, coordinates.shape[1], points)
    outside = (coordinates.double() < low) | (coordinates.double() > high)
    if outside.any():
        raise ValueError(
            f"x must lie between the bounds, {int(outside.any(1).sum())} of {len(x)} samples do not; widen the bounds."
        )
    total = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    for d in range(coordinates.shape[1]):
        grid = Grid(head, contexts[:, d], float(low[d]), float(high[d]), points, kind)
        total += grid.log_prob(coordinates[:, d])
    return total


@torch.no_grad()
def composite_sample(
    context_net: nn.Module,
    head: nn.Module,
    count: int,
    bounds: Tensor,
    *,
    points: int = 512,
    kind: str = "energy",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw samples of an autoregressive model, coordinate by coordinate, by the inverse distribution function.

    `x_d = F_d^{-1}(u_d | c_d(x_{<d}))`, with the density linear between the points of the grid.

    Args:
        context_net: as for `composite_loss`; its attribute `order`, if it has one, says which coordinate comes first.
        head: the conditional energy or score.
        count: how many samples.
        bounds: `[2, D]`, the ends between which each coordinate lies; samples have its dtype and device.
        points: number of points of the grids.
        kind: "energy" or "score".
        generator: source of randomness, torch's default one if None.

    Returns:
        Samples `[count, D]`.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if shapes do not fit.

    Example:
        >>> context, head = fastssm.nn.MADEContext(2, 8, [32]), fastssm.nn.MLP(1, [32], cond_dim=8)
        >>> composite_sample(context, head, 7, torch.tensor([[-9.0, -9.0], [9.0, 9.0]])).shape
        torch.Size([7, 2])

    Source: Meng et al. 2020, section 3 (samples coordinate by coordinate).
    """
    checks.check_count("count", count)
    checks.check_generator(generator)
    low, high = _checked_bounds(bounds, None, points)
    x = torch.zeros(count, bounds.shape[1], dtype=bounds.dtype, device=bounds.device)
    for d in getattr(context_net, "order", range(bounds.shape[1])):
        contexts = pairs(context_net, x, kind)[1].view(count, x.shape[1], -1)[:, d]
        device = x.device if generator is None else generator.device
        uniform = torch.rand(count, dtype=torch.float64, device=device, generator=generator).to(x.device)
        x[:, d] = Grid(head, contexts, float(low[d]), float(high[d]), points, kind).sample(uniform).to(x.dtype)
    return x


def _checked_bounds(bounds: object, dim: int | None, points: int) -> Tensor:
    """Return the bounds in float64; raise unless there are two ordered ends for each coordinate, and points between."""
    checks.check_count("points", points)
    if points < 2:
        raise ValueError(f"points must be at least 2, the ends of a grid, got {points}.")
    if not isinstance(bounds, Tensor) or not bounds.is_floating_point():
        came = bounds.dtype if isinstance(bounds, Tensor) else type(bounds).__name__
        raise TypeError(f"bounds must be a floating-point tensor [2, D], got {came}; torch.stack((low, high)) is one.")
    if bounds.ndim != 2 or bounds.shape[0] != 2 or dim not in (None, bounds.shape[1]):
        wanted = "[2, D]" if dim is None else f"(2, {dim})"
        raise ValueError(f"bounds must have shape {wanted}, lower ends and upper ends, got {tuple(bounds.shape)}.")
    if not (bounds[0] < bounds[1]).all():
        raise ValueError(f"the lower bounds must lie below the upper ones, got {bounds.tolist()}.")
    return bounds.double()
