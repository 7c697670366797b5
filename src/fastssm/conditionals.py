"""Autoregressive models with one-dimensional conditionals: densities by quadrature, samples by inverse CDF."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastssm import checks
from fastssm.options import NETWORK_KINDS, Model, NetworkKind

ROWS = 1 << 16  # maximum number of grid points per call of the head


def pairs(context_net: Model, x: Tensor, kind: NetworkKind) -> tuple[Tensor, Tensor]:
    """Check inputs and return all coordinates `[B D, 1]` with their contexts `[B D, C]`."""
    checks.check_model(context_net)
    checks.check_data(x)
    checks.check_choice("kind", kind, NETWORK_KINDS)
    contexts = context_net(x)
    dim = x[0].numel() if len(x) else x.flatten(1).shape[1]
    if not isinstance(contexts, Tensor) or contexts.ndim != 3 or contexts.shape[:2] != (len(x), dim):
        got = tuple(contexts.shape) if isinstance(contexts, Tensor) else type(contexts).__name__
        raise ValueError(
            f"a context net must return one context per coordinate, [B, D, C] = ({len(x)}, {dim}, C), got {got}; see "
            "fastssm.nn.MADEContext."
        )
    return x.reshape(-1, 1), contexts.flatten(0, 1)


class Grid:
    """Log-densities of conditionals on equidistant points, normalised with the trapezoid rule in float64.

    Args:
        head: the conditional energy or score.
        contexts: `[N, C]`.
        low: left end.
        high: right end.
        points: number of points.
        kind: "energy" or "score".
    """

    def __init__(self, head: Model, contexts: Tensor, low: float, high: float, points: int, kind: NetworkKind) -> None:
        self.head, self.contexts, self.kind = head, contexts, kind
        self.at = torch.linspace(low, high, points, dtype=torch.float64, device=contexts.device)
        self.step = (high - low) / (points - 1)
        size = max(1, ROWS // points)
        self.raw = torch.cat([self._raw(part) for part in torch.split(contexts, size)])
        self.log_z = torch.logsumexp(self._cells(self.raw), 1)

    def _evaluate(self, points: Tensor, contexts: Tensor) -> Tensor:
        """Return `-E` or `s` of points and contexts, in float64."""
        out: Tensor = self.head(points.to(contexts.dtype)[:, None], contexts).double().reshape(len(points))
        return -out if self.kind == "energy" else out

    def _raw(self, contexts: Tensor) -> Tensor:
        """Return `log p` on the grid up to a constant per context: `-E`, or the integral of `s`."""
        count = len(self.at)
        value = self._evaluate(self.at.repeat(len(contexts)), contexts.repeat_interleave(count, 0)).view(-1, count)
        if self.kind == "energy":
            return value
        return nn.functional.pad(((value[:, 1:] + value[:, :-1]) * (self.step / 2)).cumsum(1), (1, 0))

    def _cells(self, raw: Tensor) -> Tensor:
        """Return the logarithm of the mass between adjacent points, by the trapezoid rule."""
        return torch.logaddexp(raw[:, 1:], raw[:, :-1]) + torch.log(torch.tensor(self.step / 2, dtype=raw.dtype))

    def log_prob(self, points: Tensor) -> Tensor:
        """Return the log-density at one point `[N]` per context."""
        points = points.double()
        value = self._evaluate(points, self.contexts)
        if self.kind == "energy":
            return value - self.log_z
        cell = ((points - self.at[0]) / self.step).long().clamp(0, len(self.at) - 2)[:, None]
        ahead = points - self.at[cell[:, 0]]
        left = self._evaluate(self.at[cell[:, 0]], self.contexts)
        return self.raw.gather(1, cell)[:, 0] + ahead * (left + value) / 2 - self.log_z

    def sample(self, uniform: Tensor) -> Tensor:
        """Return the inverse CDF of each context at numbers `[N]` in `[0, 1)`."""
        mass = (self._cells(self.raw) - self.log_z[:, None]).exp()
        reached = mass.cumsum(1)
        target = uniform.double()[:, None] * reached[:, -1:]
        cell = torch.searchsorted(reached, target, right=True).clamp(max=mass.shape[1] - 1)
        remainder = (target - reached.gather(1, cell) + mass.gather(1, cell)) / self.step
        left, right = ((self.raw.gather(1, cell + i) - self.log_z[:, None]).exp() for i in (0, 1))
        slope = (right - left) / self.step  # the density is linear within a cell, so its integral is quadratic
        root = (left.square() + 2 * slope * remainder * self.step).clamp(min=0).sqrt()
        ahead = 2 * remainder * self.step / (left + root).clamp(min=torch.finfo(left.dtype).tiny)
        return (self.at[cell] + ahead.clamp(0, self.step))[:, 0]


@torch.no_grad()
def composite_log_prob(
    context_net: Model,
    head: Model,
    x: Tensor,
    bounds: Tensor,
    *,
    points: int = 512,
    kind: NetworkKind = "energy",
) -> Tensor:
    """Return the log-density of an autoregressive model, with conditionals normalised by quadrature.

    `log p(x) = sum_d ( -E(x_d, c_d) - log int exp(-E(y, c_d)) dy )`, with the integrals by the trapezoid rule.

    Args:
        context_net: context net, as for `composite_loss`.
        head: the conditional energy or score.
        x: data `[B, ...]`.
        bounds: `[2, D]`, lower and upper ends of each coordinate; mass outside is ignored.
        points: number of grid points per coordinate.
        kind: "energy" or "score".

    Returns:
        `[B]` in float64, without a graph.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if shapes do not match, or x lies outside the bounds.

    Example:
        >>> context, head = fastssm.nn.MADEContext(2, 8, [32]), fastssm.nn.MLP(1, [32], cond_dim=8)
        >>> bounds = torch.tensor([[-9.0, -9.0], [9.0, 9.0]])
        >>> composite_log_prob(context, head, torch.randn(5, 2), bounds).shape
        torch.Size([5])

    Source: Meng et al. 2020 (the model).
    """
    coordinates, contexts = pairs(context_net, x, kind)
    coordinates, contexts = coordinates.view(len(x), -1), contexts.view(len(x), -1, contexts.shape[1])
    low, high = _checked_bounds(bounds, coordinates.shape[1], points)
    outside = (coordinates.double() < low) | (coordinates.double() > high)
    if outside.any():
        raise ValueError(
            f"x must lie between the bounds, got {int(outside.any(1).sum())} of {len(x)} outside; widen the bounds."
        )
    total = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    for d in range(coordinates.shape[1]):
        grid = Grid(head, contexts[:, d], float(low[d]), float(high[d]), points, kind)
        total += grid.log_prob(coordinates[:, d])
    return total


@torch.no_grad()
def composite_sample(
    context_net: Model,
    head: Model,
    count: int,
    bounds: Tensor,
    *,
    points: int = 512,
    kind: NetworkKind = "energy",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw samples of an autoregressive model, coordinate by coordinate, by the inverse CDF.

    `x_d = F_d^{-1}(u_d | c_d(x_{<d}))`, with the density linear between grid points.

    Args:
        context_net: context net, as for `composite_loss`; its optional attribute `order` is the order of coordinates.
        head: the conditional energy or score.
        count: number of samples.
        bounds: `[2, D]`, lower and upper ends of each coordinate; samples have its dtype and device.
        points: number of grid points per coordinate.
        kind: "energy" or "score".
        generator: source of randomness; the default generator of torch if None.

    Returns:
        Samples `[count, D]`.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if shapes do not match.

    Example:
        >>> context, head = fastssm.nn.MADEContext(2, 8, [32]), fastssm.nn.MLP(1, [32], cond_dim=8)
        >>> composite_sample(context, head, 7, torch.tensor([[-9.0, -9.0], [9.0, 9.0]])).shape
        torch.Size([7, 2])

    Source: Meng et al. 2020, section 3.
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
    """Check the bounds and the number of points, and return the bounds in float64."""
    checks.check_count("points", points)
    if points < 2:
        raise ValueError(f"points must be at least 2, got {points}.")
    if not isinstance(bounds, Tensor) or not bounds.is_floating_point():
        got = bounds.dtype if isinstance(bounds, Tensor) else type(bounds).__name__
        raise TypeError(f"bounds must be a floating-point tensor [2, D], got {got}; use torch.stack((low, high)).")
    if bounds.ndim != 2 or bounds.shape[0] != 2 or dim not in (None, bounds.shape[1]):
        expected = "[2, D]" if dim is None else f"(2, {dim})"
        raise ValueError(f"bounds must have shape {expected}, lower ends and upper ends, got {tuple(bounds.shape)}.")
    if not (bounds[0] < bounds[1]).all():
        raise ValueError(f"lower bounds must be below upper bounds, got {bounds.tolist()}.")
    return bounds.double()
