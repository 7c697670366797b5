"""Every row of the table: torch's own value, the derivatives of autograd, and mpmath's where autograd fails.

The compiled engine is held to 4 ulp. An ulp of a result is eps times the sum of the magnitudes of its terms, that is,
eps times the same expression with every minus turned into a plus: where terms cancel, as at the zeros of the second and
third derivatives, no arithmetic has more. A parameter times z is rounded once before the function sees it, as in torch,
and a sigmoid or the like below the smallest normal number counts as that number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import mpmath
import pytest
import torch
from torch import Tensor, nn

from fastssm.activations import BY_NAME, INDEX, TABLE, Activation
from fastssm.native import extension
from fastssm.nn import Sin, make_activation, module_class
from fastssm.sweeps.pointwise import TensorFunctions
from tests import oracle

COMPILED: Any = extension.module()
CASES: dict[str, nn.Module] = {
    **{row.name: make_activation(row.name) for row in TABLE},
    "softplus-sharp": nn.Softplus(3.0),
    "softplus-soft": nn.Softplus(0.25),
    "softplus-line": nn.Softplus(2.0, 1.5),
    "leaky_relu-steep": nn.LeakyReLU(0.5),
    "elu-2": nn.ELU(2.0),
    "celu-half": nn.CELU(0.5),
    "celu-3": nn.CELU(1.5),  # a binary fraction: torch's own derivative of CELU rounds alpha to float32
    "sin-30": Sin(30.0),
    "sin-slow": Sin(0.7),
    "hardtanh-wide": nn.Hardtanh(-2.5, 0.75),
    "softshrink-wide": nn.Softshrink(1.25),
    "hardshrink-wide": nn.Hardshrink(1.25),
}
KINKED = (
    nn.ReLU,
    nn.LeakyReLU,
    nn.ELU,
    nn.CELU,
    nn.Softsign,
    nn.SELU,
    nn.ReLU6,
)  # at zero any derivative is as good as another


def row_of(module: nn.Module) -> Activation:
    return next(
        row
        for row in TABLE
        if type(module) is module_class(row.module) and all(getattr(module, k) == a for k, a in row.matches)
    )


def derivatives(module: nn.Module, z: Tensor) -> list[Tensor]:
    row = row_of(module)
    return list(row.rule(TensorFunctions, z, *(float(getattr(module, name)) for name in row.parameters)))


def by_autograd(module: nn.Module, z: Tensor) -> list[Tensor]:
    z = z.clone().requires_grad_()
    with oracle.written_out():
        found = [module(z)]
    for _ in range(3):
        found.append(torch.autograd.grad(found[-1].sum() + 0.0 * z.sum(), z, create_graph=True)[0])
    return [t.detach() for t in found]


def test_derivatives_are_those_of_autograd() -> None:
    for name, module in CASES.items():
        z = 0.0061 * torch.arange(-1000, 1001, dtype=torch.float64)
        z = z[z != 0] if isinstance(module, KINKED) else z
        frequency = getattr(module, "omega", getattr(module, "beta", 1.0))
        for order, (found, expected) in enumerate(zip(derivatives(module, z), by_autograd(module, z), strict=True)):
            assert found.shape == z.shape
            worst = float((found - expected).abs().max())
            assert worst <= 2e-13 * max(1.0, frequency) ** order, f"{name}, derivative {order}: off by {worst:.1e}"


def smooth(z: Any) -> dict[str, Any]:
    """Return the textbook formula of every curved row at a number of arbitrary precision."""
    one, sigmoid = mpmath.mpf(1), lambda t: 1 / (1 + mpmath.exp(-t))
    cubic = mpmath.sqrt(2 / mpmath.pi) * (z + mpmath.mpf(0.044715) * z**3)
    return {
        "softplus": lambda: mpmath.log(1 + mpmath.exp(z)) if z <= 20 else z,
        "log_sigmoid": lambda: mpmath.log(sigmoid(z)),
        "sigmoid": lambda: sigmoid(z),
        "tanh": lambda: mpmath.tanh(z),
        "silu": lambda: z * sigmoid(z),
        "gelu": lambda: z * mpmath.erfc(-z / mpmath.sqrt(2)) / 2,
        "gelu_tanh": lambda: z * (1 + mpmath.tanh(cubic)) / 2,
        "mish": lambda: z * mpmath.tanh(mpmath.log(1 + mpmath.exp(z))),
        "elu": lambda: z if z > 0 else mpmath.exp(z) - 1,
        "celu": lambda: z if z > 0 else mpmath.exp(z) - 1,
        "softsign": lambda: z / (one + abs(z)),
        "selu": lambda: (
            mpmath.mpf("1.0507009873554804934193349852946")
            * (z if z > 0 else mpmath.mpf("1.6732632423543772848170429916717") * (mpmath.exp(z) - 1))
        ),
        "tanhshrink": lambda: z - mpmath.tanh(z),
        "hardswish": lambda: z * min(max(z + 3, mpmath.mpf(0)), mpmath.mpf(6)) / 6,
        "sin": lambda: mpmath.sin(z),
    }


def test_derivatives_keep_their_digits_far_out(subtests: pytest.Subtests) -> None:
    """Where autograd's own formulas (1 - t^2, 1 - p) have lost every digit, a relative bound still holds."""
    for row in TABLE:
        if row.curved:
            with subtests.test(row.name):
                check_digits_far_out(row.name)


def check_digits_far_out(name: str) -> None:
    assert name in smooth(mpmath.mpf(1)), f"smooth() has no reference for {name}: add its formula"
    points = [sign * (magnitude + 0.21) for magnitude in (4, 9, 19, 30) for sign in (-1, 1)]
    found = derivatives(make_activation(name), torch.tensor(points, dtype=torch.float64))
    with mpmath.workdps(300):  # e^-z^2/2 at 30 is 1e-196, beside one
        for index, point in enumerate(points):
            series = mpmath.taylor(lambda t: smooth(t)[name](), mpmath.mpf(point), 3)
            for order in range(4):
                expected = float(series[order] * math.factorial(order))
                value = float(found[order][index])
                assert abs(value - expected) <= 1e-11 * abs(expected) + 1e-300, (
                    f"f^({order})({point}): {value} {expected}"
                )


def test_softplus_is_a_line_past_its_threshold_as_in_torch() -> None:
    z = torch.tensor([0.7499, 0.7501, 5.0, 1e4], dtype=torch.float64)
    module = nn.Softplus(2.0, 1.5)
    found = derivatives(module, z)
    assert torch.equal(found[0][1:], z[1:])
    assert torch.equal(found[0], module(z))
    assert [t[1:].tolist() for t in found[1:]] == [[1.0] * 3, [0.0] * 3, [0.0] * 3]
    assert found[2][0] > 0.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nothing_overflows(dtype: torch.dtype) -> None:
    z = torch.tensor([-1e4, -300.0, -89.0, 89.0, 300.0, 1e4], dtype=dtype)
    for name, module in CASES.items():
        for order, (found, value) in enumerate(zip(derivatives(module, z), [module(z)] + [None] * 3, strict=True)):
            assert found.isfinite().all(), f"{name}, derivative {order}: {found.tolist()}"
            if value is not None:
                rtol = 1e-5 if dtype == torch.float32 else 1e-12
                assert torch.allclose(found, value, rtol=rtol, atol=1e-35), name


def test_nan_stays_nan() -> None:
    for name, module in CASES.items():
        value, *higher = derivatives(module, torch.tensor([math.nan, 1.0]))
        assert value.isnan().tolist() == [True, False], name
        if row_of(module).curved:
            assert [t.isnan().tolist() for t in higher] == [[True, False]] * 3, name


@pytest.mark.parametrize(
    ("module", "points"),
    [
        (nn.Hardswish(), (-3.0, 3.0)),
        (nn.Hardsigmoid(), (-3.0, 3.0)),
        (nn.Hardtanh(-2.0, 0.5), (-2.0, 0.5)),
        (nn.ReLU6(), (0.0, 6.0)),
        (nn.Softshrink(0.75), (-0.75, 0.75)),
        (nn.Hardshrink(0.75), (-0.75, 0.75)),
        (nn.SELU(), (0.0,)),
        (nn.Tanhshrink(), (0.0,)),
    ],
)
def test_kinks_and_infinities_are_those_of_torch(module: nn.Module, points: tuple[float, ...]) -> None:
    z = torch.tensor([*points, math.inf, -math.inf], dtype=torch.float64)
    for order, (found, expected) in enumerate(zip(derivatives(module, z), by_autograd(module, z), strict=True)):
        assert torch.equal(found.nan_to_num(nan=7.0), expected.nan_to_num(nan=7.0)), (order, found, expected)


def test_names_are_unique_and_say_whether_they_bend() -> None:
    assert len(BY_NAME) == len(TABLE)  # tests/test_scaffold.py compares them with the documentation
    assert {row.name for row in TABLE if not row.curved} == {"identity", "relu", "leaky_relu"} | {
        "hardsigmoid", "hardtanh", "relu6", "softshrink", "hardshrink"
    }  # fmt: skip
    z = torch.linspace(-3, 3, 100, dtype=torch.float64)
    for row in TABLE:
        assert bool((derivatives(make_activation(row.name), z)[2] != 0).any()) == row.curved


# ---- the compiled engine, against the rules in exact arithmetic ----

ULPS = 4.0


@dataclass(frozen=True, eq=False)
class Number:
    """A number of arbitrary precision, and the sum of the magnitudes of the terms that make it."""

    value: Any
    terms: Any

    @staticmethod
    def of(value: Any) -> Number:
        return value if isinstance(value, Number) else Number(mpmath.mpf(value), abs(mpmath.mpf(value)))

    def __add__(self, other: Any) -> Number:
        other = Number.of(other)
        return Number(self.value + other.value, self.terms + other.terms)

    def __mul__(self, other: Any) -> Number:
        other = Number.of(other)
        return Number(self.value * other.value, self.terms * other.terms)

    def __truediv__(self, other: Any) -> Number:
        other = Number.of(other)
        return Number(self.value / other.value, self.terms * other.terms / other.value**2)

    __radd__, __rmul__ = __add__, __mul__

    def __neg__(self) -> Number:
        return Number(-self.value, self.terms)

    def __sub__(self, other: Any) -> Number:
        return self + -Number.of(other)

    def __rsub__(self, other: Any) -> Number:
        return -self + other

    def __rtruediv__(self, other: Any) -> Number:
        return Number.of(other) / self

    def __pow__(self, exponent: int) -> Number:
        return self if exponent == 1 else self ** (exponent - 1) * self

    def __gt__(self, other: Any) -> bool:
        return bool(self.value > Number.of(other).value)

    def __lt__(self, other: Any) -> bool:
        return bool(self.value < Number.of(other).value)


class Exact:
    """The vocabulary of the rules in exact arithmetic, on arguments rounded to a dtype."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype, self.least = dtype, mpmath.mpf(torch.finfo(dtype).tiny)

    def _round(self, z: Number) -> Any:
        return mpmath.mpf(torch.tensor(float(z.value), dtype=torch.float64).to(self.dtype).item())

    def _results(self, *values: Any) -> list[Number]:
        return [Number(value, max(abs(value), self.least)) for value in values]

    def _sigmoids(self, t: Any) -> list[Number]:
        e = mpmath.exp(-abs(t))
        larger, smaller = 1 / (1 + e), e / (1 + e)
        return self._results(smaller, larger) if t < 0 else self._results(larger, smaller)

    def abs(self, z: Number) -> Number:
        return Number(abs(z.value), z.terms)

    def sign(self, z: Number) -> Number:
        return Number.of(mpmath.sign(z.value))

    def exponentials(self, z: Number) -> list[Number]:
        return self._results(mpmath.exp(self._round(z)), mpmath.expm1(self._round(z)))

    def sigmoids(self, z: Number) -> list[Number]:
        return self._sigmoids(z.value)

    def sigmoids_of_cubic(self, z: Number, a: float, b: float) -> list[Number]:
        return self._sigmoids(a * z.value + b * z.value**3)

    def softplus_sigmoids(self, z: Number, beta: Any = 1.0, threshold: Any = math.inf) -> list[Number]:
        beta = Number.of(beta)
        t = self._round(beta * z)
        if t > Number.of(threshold).value:
            return [z, Number.of(1), Number.of(0)]
        value = (mpmath.log1p(mpmath.exp(-abs(t))) + max(t, 0)) / beta.value
        return self._results(value) + self._sigmoids(t)

    def tanh_slope(self, z: Number) -> list[Number]:
        return self._results(mpmath.tanh(z.value), mpmath.sech(z.value) ** 2)

    def gaussian(self, z: Number) -> list[Number]:
        return self._results(mpmath.erfc(-z.value / mpmath.sqrt(2)) / 2, mpmath.npdf(z.value))

    def sin_cos(self, z: Number) -> list[Number]:
        return self._results(mpmath.sin(self._round(z)), mpmath.cos(self._round(z)))

    def minimum(self, z: Number, bound: float) -> Number:
        return Number.of(bound) if z > bound else z

    def where(self, condition: bool, a: Any, b: Any) -> Number:
        return Number.of(a if condition else b)

    def full_like(self, z: Number, value: float) -> Number:
        return Number.of(value)


@cache
def points(dtype: torch.dtype) -> Tensor:
    """Return numbers up to 1e4 in size: where exponentials fade out, around zero, and down to subnormal ones."""
    info = torch.finfo(dtype)
    fading = math.log(info.tiny) + math.log(info.eps)
    wide = torch.linspace(1.03 * fading, -1.03 * fading, 121, dtype=torch.float64) + 0.0137
    near = torch.linspace(-9, 9, 161, dtype=torch.float64) + 0.00123
    decades = 10.0 ** torch.linspace(math.log10(info.tiny * info.eps * 2), 4, 41, dtype=torch.float64)
    ends = torch.tensor([info.tiny, -info.tiny, 1e4, -1e4, 0.0], dtype=torch.float64)
    random = 4 * torch.randn(400, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return torch.cat([wide, near, decades, -decades, ends, random]).to(dtype)


class Case(NamedTuple):
    row: Activation
    constants: list[float]
    expected: list[list[Number]]


@cache
def case(name: str, dtype: torch.dtype) -> Case:
    row = row_of(CASES[name])
    constants = [float(getattr(CASES[name], parameter)) for parameter in row.parameters]
    rounded = [Number.of(c) for c in torch.tensor(constants, dtype=dtype).tolist()]
    with mpmath.workprec(200):
        expected = [list(row.rule(Exact(dtype), Number.of(z), *rounded)) for z in points(dtype).tolist()]
    return Case(row, constants, expected)


def test_exact_rules_are_the_textbook_formulas() -> None:
    for name in (row.name for row in TABLE if row.curved):
        defaults = [Number.of(float(getattr(CASES[name], p))) for p in BY_NAME[name].parameters]
        for point in (-7.3, -1.1, 0.4, 6.9):
            with mpmath.workdps(40):
                series = mpmath.taylor(lambda t, name=name: smooth(t)[name](), mpmath.mpf(point), 3)
                found = BY_NAME[name].rule(Exact(torch.float64), Number.of(point), *defaults)
                for order, number in enumerate(found):
                    assert abs(number.value - series[order] * math.factorial(order)) <= 1e-14 * number.terms


@pytest.mark.skipif(COMPILED is None, reason=extension.status())
@pytest.mark.parametrize("dtype", [pytest.param(torch.float32, marks=pytest.mark.slow), torch.float64])
def test_compiled_derivatives_are_exact_to_a_few_ulp(dtype: torch.dtype, subtests: pytest.Subtests) -> None:
    for name in CASES:
        with subtests.test(name):
            check_compiled_derivatives(name, dtype)


def check_compiled_derivatives(name: str, dtype: torch.dtype) -> None:
    row, constants, expected = case(name, dtype)
    z, info = points(dtype), torch.finfo(dtype)
    exact = [[(float(n.value), info.eps * float(max(n.terms, info.tiny))) for n in numbers] for numbers in expected]
    rounded, units = torch.tensor(exact, dtype=torch.float64).unbind(2)
    for level in COMPILED.capability()["levels"]:
        found = torch.stack(COMPILED.activation(INDEX[row.name], z, constants, 3, level), 1)
        near = (found - rounded).abs() <= 0.5 * ULPS * units  # and so within ULPS of what is not rounded
        for i, order in (~near).nonzero().tolist():
            number, value = expected[i][order], found[i, order].item()
            off = abs(value - number.value) / (info.eps * max(number.terms, info.tiny))
            assert off <= ULPS, f"{level}: f^({order})({z[i]}) = {value} is off by {float(off):.2f} ulp"


@pytest.mark.skipif(COMPILED is None, reason=extension.status())
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_compiled_limits_are_those_of_torch(dtype: torch.dtype) -> None:
    most = torch.finfo(dtype).max
    z = torch.tensor([math.inf, -math.inf, math.nan, most, -most, 1e20, -1e20, 1e15, -1e15], dtype=dtype)
    for name, module in CASES.items():
        row = row_of(module)
        constants = [float(getattr(module, parameter)) for parameter in row.parameters]
        for level in COMPILED.capability()["levels"]:
            found = COMPILED.activation(INDEX[row.name], z, constants, 3, level)
            for order, (ours, torchs) in enumerate(zip(found, derivatives(module, z), strict=True)):
                close = torch.allclose(ours, torchs, rtol=1e-5, atol=0.0, equal_nan=True)
                assert close, f"{name} on {level}: f^({order}) = {ours.tolist()}, not {torchs.tolist()}"
