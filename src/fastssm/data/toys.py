"""Six two-dimensional toy densities, each a function of `(n, generator)`.

The shapes are common in the density estimation literature (Grathwohl et al., FFJORD, 2019).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor


def _uniform(n: int, generator: Generator) -> Tensor:
    return torch.rand(n, generator=generator, dtype=torch.float64)


def _normal(n: int, generator: Generator, columns: int = 2) -> Tensor:
    return torch.randn(n, columns, generator=generator, dtype=torch.float64)


def _choice(n: int, options: int, generator: Generator) -> Tensor:
    return torch.randint(options, (n,), generator=generator)


def _polar(radius: Tensor, angle: Tensor) -> Tensor:
    return torch.stack([radius * angle.cos(), radius * angle.sin()], 1)


def moons(n: int, generator: Generator) -> Tensor:
    """Two interleaved half circles of radius 1, with noise of standard deviation 0.1."""
    angle, lower = math.pi * _uniform(n, generator), _choice(n, 2, generator)
    arc = _polar(torch.ones_like(angle), angle)
    flipped = torch.tensor([1.0, 0.5], dtype=arc.dtype) - arc
    return torch.where(lower[:, None] == 1, flipped, arc) + 0.1 * _normal(n, generator)


def eight_gaussians(n: int, generator: Generator) -> Tensor:
    """Eight isotropic Gaussians of standard deviation 0.35 on a circle of radius 2.8."""
    angle = _choice(n, 8, generator).double() * (math.pi / 4)
    return _polar(torch.full_like(angle, 2.8), angle) + 0.35 * _normal(n, generator)


def pinwheel(n: int, generator: Generator) -> Tensor:
    """Five Gaussian arms, rotated by an angle that grows with the radius."""
    arm = _choice(n, 5, generator).double()
    along, across = (_normal(n, generator) * torch.tensor([0.3, 0.1], dtype=torch.float64)).unbind(1)
    along = along + 1.0
    twist = arm * (2 * math.pi / 5) + 0.25 * along.exp()
    cos, sin = twist.cos(), twist.sin()
    return 2 * torch.stack([along * cos - across * sin, along * sin + across * cos], 1)


def rings(n: int, generator: Generator) -> Tensor:
    """Three concentric circles of radius 1, 2 and 3, with noise of standard deviation 0.1."""
    radius = 1.0 + _choice(n, 3, generator).double()
    return _polar(radius, 2 * math.pi * _uniform(n, generator)) + 0.1 * _normal(n, generator)


def checkerboard(n: int, generator: Generator) -> Tensor:
    """Uniform on the dark squares of a 4 x 4 board of side 8."""
    x, y = 4 * _uniform(n, generator) - 2, _uniform(n, generator)
    row = 2 * _choice(n, 2, generator) + x.floor().long().remainder(2) - 2
    return 2 * torch.stack([x, y + row], 1)


def swissroll(n: int, generator: Generator) -> Tensor:
    """A spiral of one and a half turns, with noise of standard deviation 0.2."""
    angle = 1.5 * math.pi * (1 + 2 * _uniform(n, generator))
    return _polar(angle, angle) / 2.5 + 0.2 * _normal(n, generator)


TOYS: dict[str, Callable[[int, Generator], Tensor]] = {
    "moons": moons,
    "8gaussians": eight_gaussians,
    "pinwheel": pinwheel,
    "rings": rings,
    "checkerboard": checkerboard,
    "swissroll": swissroll,
}
