"""The one table of activations: each `f` with its first three derivatives, from stable forms.

A rule is a generator: it yields `f(z), f'(z), f''(z), f'''(z)` in turn, so a caller that needs only two derivatives
never pays for the third. It is written against the small vocabulary of `Functions`, so the same text runs on tensors
(`fastssm.sweeps`) and can be traced into other languages. This module imports nothing but the standard library.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

Value = Any  # a tensor, or whatever a `Functions` implementation computes with


class Functions(Protocol):
    """The primitives that the rules are written in; every one is safe against overflow."""

    def abs(self, z: Value) -> Value:
        """Return `|z|`."""

    def sign(self, z: Value) -> Value:
        """Return -1, 0 or 1."""

    def exp(self, z: Value) -> Value:
        """Return `e^z`."""

    def expm1(self, z: Value) -> Value:
        """Return `e^z - 1` without cancellation."""

    def sigmoids(self, z: Value) -> tuple[Value, Value]:
        """Return `1 / (1 + e^-z)` and `1 / (1 + e^z)`, each to full relative accuracy."""

    def softplus(self, z: Value, beta: float = 1.0, threshold: float = 40.0) -> Value:
        """Return `log(1 + e^(beta z)) / beta`, and `z` where `beta z > threshold`."""

    def tanh(self, z: Value) -> Value:
        """Return `tanh z`."""

    def erfc(self, z: Value) -> Value:
        """Return the complementary error function."""

    def sin(self, z: Value) -> Value:
        """Return `sin z`."""

    def cos(self, z: Value) -> Value:
        """Return `cos z`."""

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
    yield m.softplus(z, beta, threshold)
    t = z if beta == 1.0 else beta * z
    t = m.where(t > threshold, math.inf, t)  # then every derivative below is exactly that of the line
    p, n = m.sigmoids(t)
    yield p
    pn = p * n if beta == 1.0 else p * n * beta
    yield pn
    tilt = n - p
    yield pn * tilt if beta == 1.0 else pn * tilt * beta


def log_sigmoid(m: Functions, z: Value) -> Iterator[Value]:
    """`-log(1 + e^-z)`."""
    p, n = m.sigmoids(z)
    yield -m.softplus(-z)
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
    """`tanh z`, its slope `sech^2 z` from exponentials: `1 - t^2` would lose every digit for `|z| > 9`."""
    t = m.tanh(z)
    yield t
    p, n = m.sigmoids(2.0 * z)
    slope = 4.0 * p * n
    yield slope
    yield -2.0 * t * slope
    yield slope * (4.0 * t * t - 2.0 * slope)


def silu(m: Functions, z: Value) -> Iterator[Value]:
    """`z sigmoid(z)`."""
    yield from _gated(z, sigmoid(m, z))


def gelu(m: Functions, z: Value) -> Iterator[Value]:
    """`z Phi(z)` with the Gaussian distribution function `Phi`."""
    yield from _gated(z, _gaussian_cdf(m, z))


def gelu_tanh(m: Functions, z: Value) -> Iterator[Value]:
    """`z (1 + tanh u) / 2` with `u = sqrt(2/pi) (z + 0.044715 z^3)`."""
    yield from _gated(z, _sigmoid_of_cubic(m, z))


def mish(m: Functions, z: Value) -> Iterator[Value]:
    """`z tanh(softplus(z))`."""
    yield from _gated(z, _tanh_of_softplus(m, z))


def elu(m: Functions, z: Value, alpha: float) -> Iterator[Value]:
    """`z` above zero, `alpha (e^z - 1)` below."""
    below = m.minimum(z, 0.0)
    e = alpha * m.exp(below)
    yield m.where(z > 0, z, alpha * m.expm1(below))
    yield m.where(z > 0, 1.0, e)
    yield (curvature := m.where(z > 0, 0.0, e))
    yield curvature


def celu(m: Functions, z: Value, alpha: float) -> Iterator[Value]:
    """`z` above zero, `alpha (e^(z/alpha) - 1)` below."""
    below = m.minimum(z, 0.0) / alpha
    e = m.exp(below)
    yield m.where(z > 0, z, alpha * m.expm1(below))
    yield m.where(z > 0, 1.0, e)
    yield (curvature := m.where(z > 0, 0.0, e / alpha))
    yield curvature / alpha


def softsign(m: Functions, z: Value) -> Iterator[Value]:
    """`z / (1 + |z|)`."""
    r = 1.0 / (1.0 + m.abs(z))
    yield z * r
    yield (slope := r * r)
    yield -2.0 * m.sign(z) * slope * r
    yield 6.0 * slope * slope


def sin(m: Functions, z: Value, omega: float) -> Iterator[Value]:
    """`sin(omega z)`."""
    t = omega * z
    s, c = m.sin(t), m.cos(t)
    yield s
    yield omega * c
    yield -(omega**2) * s
    yield -(omega**3) * c


def _gated(z: Value, gate: Iterator[Value]) -> Iterator[Value]:
    """`z g(z)` from the derivatives of the gate: `(z g)^(k) = z g^(k) + k g^(k-1)`."""
    lower = next(gate)
    yield z * lower
    for order, g in enumerate(gate, start=1):
        yield order * lower + z * g
        lower = g


def _gaussian_cdf(m: Functions, z: Value) -> Iterator[Value]:
    density = m.exp(-0.5 * z * z) * (1.0 / math.sqrt(2.0 * math.pi))
    yield 0.5 * m.erfc(z * -math.sqrt(0.5))
    yield density
    yield -z * density
    yield (z * z - 1.0) * density


def _sigmoid_of_cubic(m: Functions, z: Value) -> Iterator[Value]:
    k, a = 2.0 * math.sqrt(2.0 / math.pi), 0.044715
    t, t1, t2, t3 = k * (z + a * z * z * z), k * (1.0 + 3.0 * a * z * z), 6.0 * k * a * z, 6.0 * k * a
    p, n = m.sigmoids(t)
    yield p
    pn, tilt = p * n, n - p
    yield pn * t1
    yield pn * (t2 + t1 * t1 * tilt)
    yield pn * (t3 + 3.0 * t1 * t2 * tilt + t1 * t1 * t1 * (1.0 - 6.0 * pn))


def _tanh_of_softplus(m: Functions, z: Value) -> Iterator[Value]:
    s = m.softplus(z)
    t = m.tanh(s)
    yield t
    p, n = m.sigmoids(z)
    above, below = m.sigmoids(2.0 * s)
    w = 4.0 * above * below  # sech^2(s)
    yield w * p
    yield w * p * (n - 2.0 * t * p)
    yield w * p * (n * (n - p) + p * (4.0 * t * t * p - 6.0 * t * n - 2.0 * w * p))


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
)

BY_NAME: dict[str, Activation] = {row.name: row for row in TABLE}
INDEX: dict[str, int] = {row.name: index for index, row in enumerate(TABLE)}
IDENTITY = BY_NAME["identity"]
