"""The one table of activations: each `f` with its first three derivatives, from stable forms.

A rule is a generator of `f(z), f'(z), f''(z), f'''(z)` in this order, so a caller that needs only two derivatives
never pays for the third. It is written against the small vocabulary of `Functions`, so the same text runs on tensors
(`fastssm.sweeps`) and can be traced into other languages. This module imports only the standard library.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

Value = Any  # a tensor, or the value type of a `Functions` implementation


class Functions(Protocol):
    """The primitives that the rules are written in; every one is safe against overflow.

    What can share an exponential is one primitive.
    """

    def abs(self, z: Value) -> Value:
        """Return `|z|`."""

    def sign(self, z: Value) -> Value:
        """Return -1, 0 or 1, NaN where z is NaN."""

    def exponentials(self, z: Value) -> tuple[Value, Value]:
        """Return `e^z` and, without cancellation, `e^z - 1`, for `z <= 0`."""

    def sigmoids(self, z: Value) -> tuple[Value, Value]:
        """Return `1 / (1 + e^-z)` and `1 / (1 + e^z)`, each to full relative accuracy."""

    def sigmoids_of_cubic(self, z: Value, a: float, b: float) -> tuple[Value, Value]:
        """Return the sigmoids of `a z + b z^3` for positive a and b."""

    def softplus_sigmoids(
        self, z: Value, beta: float = 1.0, threshold: float | None = None
    ) -> tuple[Value, Value, Value]:
        """Return `log(1 + e^(beta z)) / beta` and the sigmoids of `beta z`; past the threshold `z`, 1 and 0."""

    def tanh_slope(self, z: Value) -> tuple[Value, Value]:
        """Return `tanh z` and its slope `sech^2 z`, each to full relative accuracy."""

    def gaussian(self, z: Value) -> tuple[Value, Value]:
        """Return the Gaussian distribution function and density."""

    def sin_cos(self, z: Value) -> tuple[Value, Value]:
        """Return `sin z` and `cos z`."""

    def minimum(self, z: Value, bound: float) -> Value:
        """Return `min(z, bound)`, NaN where z is NaN."""

    def where(self, condition: Value, a: Value | float, b: Value | float) -> Value:
        """Return `a` where the condition holds, else `b`."""

    def full_like(self, z: Value, value: float) -> Value:
        """Return `value` in the shape of `z`."""


Rule = Callable[..., Iterator[Value]]


@dataclass(frozen=True, eq=False)
class Activation:
    """One row of the table.

    Attributes:
        name: the name used by `fastssm.nn.MLP` and the command line.
        module: the class of `torch.nn` (or `fastssm.nn`) that computes it.
        rule: yields `f, f', f'', f'''`.
        parameters: attribute names of the module that the rule takes after `z`, in order.
        curved: whether `f''` is more than zero almost everywhere; without it an energy has no curvature to learn.
        matches: attribute values that select this row among those of the same module.
    """

    name: str
    module: str
    rule: Rule
    parameters: tuple[str, ...] = ()
    curved: bool = True
    matches: tuple[tuple[str, Any], ...] = ()


def identity(m: Functions, z: Value) -> Iterator[Value]:
    """`z`."""
    yield z
    yield m.full_like(z, 1.0)
    yield (zero := m.full_like(z, 0.0))
    yield zero


def relu(m: Functions, z: Value) -> Iterator[Value]:
    """`max(z, 0)`."""
    yield -m.minimum(-z, 0.0)  # keeps a NaN
    yield m.where(z > 0, m.full_like(z, 1.0), 0.0)
    yield (zero := m.full_like(z, 0.0))
    yield zero


def leaky_relu(m: Functions, z: Value, slope: float) -> Iterator[Value]:
    """`z` above zero, `slope z` below."""
    step = m.where(z > 0, m.full_like(z, 1.0), slope)
    yield step * z
    yield step
    yield (zero := m.full_like(z, 0.0))
    yield zero


def softplus(m: Functions, z: Value, beta: float, threshold: float) -> Iterator[Value]:
    """`log(1 + e^(beta z)) / beta`, and the line `z` where `beta z > threshold`, as torch has it."""
    value, p, n = m.softplus_sigmoids(z, beta, threshold)
    yield value
    yield p
    pn = p * n if beta == 1.0 else p * n * beta
    yield pn
    tilt = n - p
    yield pn * tilt if beta == 1.0 else pn * tilt * beta


def log_sigmoid(m: Functions, z: Value) -> Iterator[Value]:
    """`-log(1 + e^-z)`."""
    value, n, p = m.softplus_sigmoids(-z)
    yield -value
    yield n
    yield (curvature := -p * n)
    yield curvature * (n - p)


def sigmoid(m: Functions, z: Value) -> Iterator[Value]:
    """`1 / (1 + e^-z)`."""
    p, n = m.sigmoids(z)
    yield p
    yield (pn := p * n)
    yield pn * (n - p)
    yield pn * (1.0 - 6.0 * pn)


def tanh(m: Functions, z: Value) -> Iterator[Value]:
    """`tanh z`, whose slope `sech^2 z` as `1 - t^2` would lose every digit for `|z| > 9`."""
    t, slope = m.tanh_slope(z)
    yield t
    yield slope
    yield -2.0 * t * slope
    yield slope * (4.0 * t * t - (slope + slope))


def silu(m: Functions, z: Value) -> Iterator[Value]:
    """`z sigmoid(z)`."""
    yield from _gated(z, sigmoid(m, z))


def gelu(m: Functions, z: Value) -> Iterator[Value]:
    """`z Phi(z)` with the Gaussian distribution function `Phi`."""
    yield from _gated(z, _gaussian_cdf(m, z))


def gelu_tanh(m: Functions, z: Value) -> Iterator[Value]:
    """`z (1 + tanh u) / 2` with `u = sqrt(2/pi) (z + 0.044715 z^3)`."""
    k = 2.0 * math.sqrt(2.0 / math.pi)
    c = 3.0 * 0.044715 * k
    p, n = m.sigmoids_of_cubic(z, k, c / 3.0)
    yield z * p
    square = z * z
    slope = k + c * square  # of the cubic 2 u
    z_slope = z * slope
    pn, tilt = p * n, n - p
    yield p + pn * z_slope
    yield pn * (2.0 * k + 4.0 * c * square + z_slope * slope * tilt)
    yield pn * (8.0 * c * z + slope * (3.0 * (k + 3.0 * c * square) * tilt + z_slope * slope * (1.0 - 6.0 * pn)))


def mish(m: Functions, z: Value) -> Iterator[Value]:
    """`z tanh(softplus(z))`."""
    w, _ = m.exponentials(-m.abs(z))  # in the form that rounds least on either side
    square = w * w
    above, below = 2.0 * (w + square), 2.0 * w + square
    whole = m.where(z > 0, 1.0 + above, 2.0 + below)
    t = m.where(z > 0, 1.0 - 2.0 * square / whole, below / whole)
    yield z * t
    q = m.where(z > 0, above, 2.0 * (1.0 + w)) / whole  # q^2 = 1 - t^2 could underflow
    p, n = m.where(z > 0, 1.0, w) / (1.0 + w), m.where(z > 0, w, 1.0) / (1.0 + w)
    yield t + q * (q * (z * p))
    bend = p * (n - 2.0 * t * p)
    yield q * (q * (2.0 * p + z * bend))
    twist = p * (n * (n - p) + p * (4.0 * t * t * p - 6.0 * t * n - 2.0 * q * q * p))
    yield q * (q * (3.0 * bend + z * twist))


def elu(m: Functions, z: Value, alpha: float) -> Iterator[Value]:
    """`z` above zero, `alpha (e^z - 1)` below."""
    below = m.minimum(z, 0.0)
    e, expm1 = m.exponentials(below)
    e = alpha * e
    yield m.where(z > 0, z, alpha * expm1)
    yield m.where(z > 0, 1.0, e)
    yield (curvature := m.where(z > 0, 0.0, e))
    yield curvature


def celu(m: Functions, z: Value, alpha: float) -> Iterator[Value]:
    """`z` above zero, `alpha (e^(z/alpha) - 1)` below."""
    below = m.minimum(z, 0.0) / alpha
    e, expm1 = m.exponentials(below)
    yield m.where(z > 0, z, alpha * expm1)
    yield m.where(z > 0, 1.0, e)
    yield (curvature := m.where(z > 0, 0.0, e / alpha))
    yield curvature / alpha


def selu(m: Functions, z: Value) -> Iterator[Value]:
    """`s z` above zero, `s a (e^z - 1)` below, with the constants `s` and `a` of self-normalising networks."""
    scale = 1.0507009873554804934193349852946
    k = 1.6732632423543772848170429916717 * scale
    below = m.minimum(z, 0.0)
    e, expm1 = m.exponentials(below)
    e = k * e
    yield m.where(z > 0, scale * z, k * expm1)
    yield m.where(z > 0, scale, e)
    yield (curvature := m.where(z < 0, e, below))
    yield curvature


def tanhshrink(m: Functions, z: Value) -> Iterator[Value]:
    """`z - tanh z`."""
    t, slope = m.tanh_slope(z)
    yield z - t
    yield (square := t * t)
    yield 2.0 * t * slope
    yield slope * (slope + slope - 4.0 * square)


def hardtanh(m: Functions, z: Value, low: float, high: float) -> Iterator[Value]:
    """`min(max(z, low), high)`."""
    yield -m.minimum(-m.minimum(z, high), -low)  # keeps a NaN
    yield m.where(z > low, m.where(z < high, m.full_like(z, 1.0), 0.0), 0.0)
    yield (zero := m.full_like(z, 0.0))
    yield zero


def hardsigmoid(m: Functions, z: Value) -> Iterator[Value]:
    """`min(max(z + 3, 0), 6) / 6`."""
    yield _ramp(m, z) / 6.0
    yield m.where(z > -3.0, m.where(z < 3.0, m.full_like(z, 1.0 / 6.0), 0.0), 0.0)
    yield (zero := m.full_like(z, 0.0))
    yield zero


def hardswish(m: Functions, z: Value) -> Iterator[Value]:
    """`z min(max(z + 3, 0), 6) / 6`."""
    ramp = _ramp(m, z)  # zero below -3, and keeps a NaN
    yield z * (ramp / 6.0)
    yield m.where(z > -3.0, m.where(z < 3.0, z / 3.0 + 0.5, 1.0), ramp)
    yield m.where(z > -3.0, m.where(z < 3.0, m.full_like(z, 1.0 / 3.0), 0.0), ramp)
    yield m.where(z > -3.0, 0.0, ramp)


def softshrink(m: Functions, z: Value, width: float) -> Iterator[Value]:
    """`z` moved by `width` towards zero, zero where it is nearer than that."""
    yield z + m.minimum(-m.minimum(z, width), width)  # keeps a NaN
    yield m.where(m.abs(z) > width, m.full_like(z, 1.0), 0.0)
    yield (zero := m.full_like(z, 0.0))
    yield zero


def hardshrink(m: Functions, z: Value, width: float) -> Iterator[Value]:
    """`z`, zero where `|z| <= width`."""
    outside = m.abs(z) > width
    yield m.where(outside, z, z - z)  # keeps a NaN
    yield m.where(outside, m.full_like(z, 1.0), 0.0)
    yield (zero := m.full_like(z, 0.0))
    yield zero


def softsign(m: Functions, z: Value) -> Iterator[Value]:
    """`z / (1 + |z|)`."""
    s = 1.0 + m.abs(z)
    yield z / s
    yield (slope := 1.0 / (s * s))
    yield -2.0 * m.sign(z) * slope / s
    yield 6.0 * slope * slope


def sin(m: Functions, z: Value, omega: float) -> Iterator[Value]:
    """`sin(omega z)`."""
    s, c = m.sin_cos(omega * z)
    yield s
    yield omega * c
    yield -(omega**2) * s
    yield -(omega**3) * c


def _ramp(m: Functions, z: Value) -> Value:
    """Return `min(max(z + 3, 0), 6)`, NaN where z is NaN."""
    return -m.minimum(-m.minimum(z + 3.0, 6.0), 0.0)


def _gated(z: Value, gate: Iterator[Value]) -> Iterator[Value]:
    """`z g(z)` from the derivatives of the gate: `(z g)^(k) = z g^(k) + k g^(k-1)`."""
    lower = next(gate)
    yield z * lower
    for order, g in enumerate(gate, start=1):
        yield order * lower + z * g
        lower = g


def _gaussian_cdf(m: Functions, z: Value) -> Iterator[Value]:
    cdf, density = m.gaussian(z)
    yield cdf
    yield density
    yield -z * density
    yield (z * z - 1.0) * density


TABLE: tuple[Activation, ...] = (
    Activation("identity", "Identity", identity, curved=False),
    Activation("relu", "ReLU", relu, curved=False),
    Activation("leaky_relu", "LeakyReLU", leaky_relu, ("negative_slope",), curved=False),
    Activation("softplus", "Softplus", softplus, ("beta", "threshold")),
    Activation("log_sigmoid", "LogSigmoid", log_sigmoid),
    Activation("sigmoid", "Sigmoid", sigmoid),
    Activation("tanh", "Tanh", tanh),
    Activation("silu", "SiLU", silu),
    Activation("gelu", "GELU", gelu, matches=(("approximate", "none"),)),
    Activation("gelu_tanh", "GELU", gelu_tanh, matches=(("approximate", "tanh"),)),
    Activation("mish", "Mish", mish),
    Activation("elu", "ELU", elu, ("alpha",)),
    Activation("celu", "CELU", celu, ("alpha",)),
    Activation("softsign", "Softsign", softsign),
    Activation("sin", "Sin", sin, ("omega",)),
    Activation("selu", "SELU", selu),
    Activation("tanhshrink", "Tanhshrink", tanhshrink),
    Activation("hardswish", "Hardswish", hardswish),
    Activation("hardsigmoid", "Hardsigmoid", hardsigmoid, curved=False),
    Activation("hardtanh", "Hardtanh", hardtanh, ("min_val", "max_val"), curved=False),
    Activation("relu6", "ReLU6", hardtanh, ("min_val", "max_val"), curved=False),
    Activation("softshrink", "Softshrink", softshrink, ("lambd",), curved=False),
    Activation("hardshrink", "Hardshrink", hardshrink, ("lambd",), curved=False),
)

BY_NAME: dict[str, Activation] = {row.name: row for row in TABLE}
INDEX: dict[str, int] = {row.name: index for index, row in enumerate(TABLE)}
IDENTITY = BY_NAME["identity"]
