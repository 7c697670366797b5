"""Functions of torch of one number, with three derivatives each."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

Derivatives = Callable[[Tensor], Iterator[Tensor]]
"""Yields `f(z), f'(z), f''(z), f'''(z)`."""


def _exp(z: Tensor) -> Iterator[Tensor]:
    e = torch.exp(z)
    yield from (e, e, e, e)


def _expm1(z: Tensor) -> Iterator[Tensor]:
    yield torch.expm1(z)
    e = torch.exp(z)
    yield from (e, e, e)


def _exp2(z: Tensor) -> Iterator[Tensor]:
    e, base = torch.exp2(z), math.log(2.0)
    yield from (e, base * e, base**2 * e, base**3 * e)


def _log(z: Tensor) -> Iterator[Tensor]:
    yield torch.log(z)
    yield from reciprocal(z)


def _log1p(z: Tensor) -> Iterator[Tensor]:
    yield torch.log1p(z)
    yield from reciprocal(1.0 + z)


def _log_of_base(base: float) -> Derivatives:
    def derivatives(z: Tensor) -> Iterator[Tensor]:
        yield torch.log2(z) if base == 2.0 else torch.log10(z)
        for d in reciprocal(z):
            yield d / math.log(base)

    return derivatives


def reciprocal(z: Tensor) -> Iterator[Tensor]:
    """`1 / z`."""
    r = z.reciprocal()
    yield r
    yield -(square := r * r)
    yield 2.0 * square * r
    yield -6.0 * square * square


def _sqrt(z: Tensor) -> Iterator[Tensor]:
    root = torch.sqrt(z)
    yield root
    r = 0.5 / root
    yield r
    yield -0.5 * r / z
    yield 0.75 * r / (z * z)


def _rsqrt(z: Tensor) -> Iterator[Tensor]:
    r = torch.rsqrt(z)
    yield r
    yield -0.5 * r / z
    yield 0.75 * r / (z * z)
    yield -1.875 * r / (z * z * z)


def square(z: Tensor) -> Iterator[Tensor]:
    """`z^2`."""
    yield z * z
    yield 2.0 * z
    yield torch.full_like(z, 2.0)
    yield torch.zeros_like(z)


def _sin(z: Tensor) -> Iterator[Tensor]:
    s, c = torch.sin(z), torch.cos(z)
    yield from (s, c, -s, -c)


def _cos(z: Tensor) -> Iterator[Tensor]:
    s, c = torch.sin(z), torch.cos(z)
    yield from (c, -s, -c, s)


def _tan(z: Tensor) -> Iterator[Tensor]:
    t = torch.tan(z)
    slope = 1.0 + t * t
    yield from (t, slope, 2.0 * t * slope, slope * (2.0 + 6.0 * t * t))


def _sinh(z: Tensor) -> Iterator[Tensor]:
    s, c = torch.sinh(z), torch.cosh(z)
    yield from (s, c, s, c)


def _cosh(z: Tensor) -> Iterator[Tensor]:
    s, c = torch.sinh(z), torch.cosh(z)
    yield from (c, s, c, s)


def _asin(z: Tensor) -> Iterator[Tensor]:
    yield torch.asin(z)
    yield from _power_of_gap(z)


def _acos(z: Tensor) -> Iterator[Tensor]:
    yield torch.acos(z)
    for d in _power_of_gap(z):
        yield -d


def _power_of_gap(z: Tensor) -> Iterator[Tensor]:
    """`(1 - z^2)^(-1/2)` and its first two derivatives."""
    r = torch.rsqrt((1.0 - z) * (1.0 + z))
    yield r
    yield z * r**3
    yield r**3 + 3.0 * z * z * r**5


def _atan(z: Tensor) -> Iterator[Tensor]:
    yield torch.atan(z)
    d = 1.0 / (1.0 + z * z)
    yield d
    yield -2.0 * z * d * d
    yield (6.0 * z * z - 2.0) * d**3


def _erf(z: Tensor) -> Iterator[Tensor]:
    yield torch.erf(z)
    yield from _gaussian(z, 2.0 / math.sqrt(math.pi))


def _erfc(z: Tensor) -> Iterator[Tensor]:
    yield torch.erfc(z)
    yield from _gaussian(z, -2.0 / math.sqrt(math.pi))


def _gaussian(z: Tensor, factor: float) -> Iterator[Tensor]:
    d = factor * torch.exp(-z * z)
    yield d
    yield -2.0 * z * d
    yield (4.0 * z * z - 2.0) * d


def _lgamma(z: Tensor) -> Iterator[Tensor]:
    yield torch.lgamma(z)
    for order in range(3):
        yield torch.polygamma(order, z)


def _digamma(z: Tensor) -> Iterator[Tensor]:
    for order in range(4):
        yield torch.polygamma(order, z)


def absolute(z: Tensor) -> Iterator[Tensor]:
    """`|z|`, whose higher derivatives are zero."""
    yield z.abs()
    yield torch.sign(z)


def power(exponent: float | Tensor) -> Derivatives:
    """`z^p`."""

    def derivatives(z: Tensor) -> Iterator[Tensor]:
        factor: float | Tensor = 1.0
        for order in range(4):
            left = exponent - order
            yield torch.zeros_like(z) if isinstance(factor, float) and factor == 0.0 else factor * z**left
            factor = factor * left

    return derivatives


SMOOTH: dict[str, Derivatives] = {
    "exp": _exp,
    "expm1": _expm1,
    "exp2": _exp2,
    "log": _log,
    "log1p": _log1p,
    "log2": _log_of_base(2.0),
    "log10": _log_of_base(10.0),
    "reciprocal": reciprocal,
    "sqrt": _sqrt,
    "rsqrt": _rsqrt,
    "square": square,
    "sin": _sin,
    "cos": _cos,
    "tan": _tan,
    "sinh": _sinh,
    "cosh": _cosh,
    "asin": _asin,
    "arcsin": _asin,
    "acos": _acos,
    "arccos": _acos,
    "atan": _atan,
    "arctan": _atan,
    "erf": _erf,
    "erfc": _erfc,
    "lgamma": _lgamma,
    "digamma": _digamma,
}
