"""Every row of the table: torch's own value, the derivatives of autograd, and mpmath's where autograd fails."""

from __future__ import annotations

import math
from typing import Any

import mpmath
import pytest
import torch
from torch import Tensor, nn

from fastssm.activations import BY_NAME, TABLE, Activation
from fastssm.nn import Sin, make_activation, module_class
from fastssm.sweeps.jets import TensorFunctions

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
}
KINKED = (nn.ReLU, nn.LeakyReLU, nn.ELU, nn.CELU, nn.Softsign)  # at zero any derivative is as good as another


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
    found = [module(z)]
    for _ in range(3):
        found.append(torch.autograd.grad(found[-1].sum() + 0.0 * z.sum(), z, create_graph=True)[0])
    return [t.detach() for t in found]


@pytest.mark.parametrize("module", CASES.values(), ids=CASES)
def test_derivatives_are_those_of_autograd(module: nn.Module) -> None:
    z = 0.0061 * torch.arange(-1000, 1001, dtype=torch.float64)
    z = z[z != 0] if isinstance(module, KINKED) else z
    frequency = getattr(module, "omega", getattr(module, "beta", 1.0))
    for order, (found, expected) in enumerate(zip(derivatives(module, z), by_autograd(module, z), strict=True)):
        assert found.shape == z.shape
        worst = float((found - expected).abs().max())
        assert worst <= 2e-13 * max(1.0, frequency) ** order, f"derivative {order}: off by {worst:.1e}"


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
        "sin": lambda: mpmath.sin(z),
    }


@pytest.mark.parametrize("name", [row.name for row in TABLE if row.curved])
def test_derivatives_keep_their_digits_far_out(name: str) -> None:
    """Where autograd's own formulas (1 - t^2, 1 - p) have lost every digit, a relative bound still holds."""
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
@pytest.mark.parametrize("module", CASES.values(), ids=CASES)
def test_nothing_overflows(module: nn.Module, dtype: torch.dtype) -> None:
    z = torch.tensor([-1e4, -300.0, -89.0, 89.0, 300.0, 1e4], dtype=dtype)
    for order, (found, value) in enumerate(zip(derivatives(module, z), [module(z)] + [None] * 3, strict=True)):
        assert found.isfinite().all(), f"derivative {order}: {found.tolist()}"
        if value is not None:
            assert torch.allclose(found, value, rtol=1e-5 if dtype == torch.float32 else 1e-12, atol=1e-35)


@pytest.mark.parametrize("module", CASES.values(), ids=CASES)
def test_nan_stays_nan(module: nn.Module) -> None:
    value, *higher = derivatives(module, torch.tensor([math.nan, 1.0]))
    assert value.isnan().tolist() == [True, False]
    if row_of(module).curved:
        assert [t.isnan().tolist() for t in higher] == [[True, False]] * 3


def test_names_are_unique_and_say_whether_they_bend() -> None:
    assert len(BY_NAME) == len(TABLE) == 15
    assert {row.name for row in TABLE if not row.curved} == {"identity", "relu", "leaky_relu"}
    z = torch.linspace(-3, 3, 100, dtype=torch.float64)
    for row in TABLE:
        assert bool((derivatives(make_activation(row.name), z)[2] != 0).any()) == row.curved
