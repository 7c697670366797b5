"""Elementwise functions: `f`, `f' t` and `f' k + f'' sum_m t_m^2`, from rules like those of the activation table.

A rule yields `f, f', f'', f'''` as those of the table do. The third is for the gradient: where plain autograd
differentiates, one function each for value and tangents and for the curvature computes fewer arrays than autograd
would keep; torch.compile and torch.func differentiate the formula instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from fastssm import activations
from fastssm.jets import smooth
from fastssm.jets.jet import Jet, NoRule, formula_only
from fastssm.jets.lifting import dot
from fastssm.jets.rules import rule
from fastssm.jets.smooth import Derivatives
from fastssm.sweeps.pointwise import TensorFunctions


class ValueAndTangents(Function):
    """`f(z)`, `f'(z) t_m`, and `sum_m t_m^2` where the curvature follows."""

    @staticmethod
    def forward(
        ctx: Any, z: Tensor, tangents: Tensor, f: Sequence[Tensor], curved: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Compute them from the derivatives of f."""
        ctx.save_for_backward(tangents, *f[1:3])
        ctx.set_materialize_grads(False)
        return f[0], f[1] * tangents, dot(tangents, tangents) if curved else None

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, on_value: Tensor | None, on_tangents: Tensor | None, on_square: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        """From a, b_m and c: `f' a + f'' sum_m t_m b_m` and `f' b_m + 2 c t_m`."""
        tangents, d1, d2 = ctx.saved_tensors
        to_z = to_tangents = None
        if on_tangents is not None:
            to_z = dot(on_tangents, tangents).mul_(d2)
            to_tangents = on_tangents * d1 if ctx.needs_input_grad[1] else None
        if on_value is not None:
            to_z = on_value * d1 if to_z is None else to_z.addcmul_(on_value, d1)
        if on_square is not None and ctx.needs_input_grad[1]:
            twice = 2.0 * on_square
            to_tangents = tangents * twice if to_tangents is None else to_tangents.addcmul_(tangents, twice)
        return to_z, to_tangents, None, None


class Curvature(Function):
    """`f'(z) k + f''(z) sum_m t_m^2`; k may be None."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, k: Tensor | None, square: Tensor, f: Sequence[Tensor]) -> Tensor:
        """Compute it from the derivatives of f."""
        ctx.save_for_backward(k, square, *f[1:])
        out = (f[2] * square)[None]
        return out if k is None else out.addcmul_(f[1], k)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, on_k: Tensor) -> tuple[Tensor | None, ...]:
        """`(f'' k + f''' sum_m t_m^2) g`, `f' g` and `f'' g`."""
        k, square, d1, d2, d3 = ctx.saved_tensors
        bend, g = d2 * on_k[0], on_k[0]
        to_z = (d3 * square).mul_(g)
        if k is not None:
            to_z.addcmul_(bend, k[0])
        return to_z, d1 * on_k if k is not None else None, bend, None


def elementwise(x: Jet, derivatives: Derivatives, *, curved: bool = True, formula: bool = False) -> Jet:
    """Return an elementwise function of a jet.

    Args:
        x: the jet.
        derivatives: yields the function and its first three derivatives, as many as are asked for.
        curved: whether the second derivative is other than zero almost everywhere.
        formula: whether the function has parameters, which autograd differentiates by.
    """
    z, t, tape = x.value, x.tangents, x.tape
    direct = formula or formula_only() or tape.twice or z.is_complex()
    if not curved or (not tape.curved and direct):
        f, d1 = islice(derivatives(z), 2)
        return tape.jet(f, d1 * t, (x,), lambda k: None if k is None else d1 * k)
    if direct or tape.each:
        f, d1, d2 = islice(derivatives(z), 3)

        def curve(k: Tensor | None) -> Tensor:
            bent = d2 * tape.total(t * t)
            return bent if k is None else torch.addcmul(bent, d1, k)

        return tape.jet(f, d1 * t, (x,), curve)
    with torch.no_grad():
        found = list(islice(derivatives(z), 4 if tape.curved else 3))
    found[1:] = [d.detach() for d in found[1:]]  # f may be one of its derivatives, and becomes differentiable
    value, tangents, square = ValueAndTangents.apply(z, t, found, tape.curved)  # type: ignore[no-untyped-call]
    slopes = (None, *found[1:])
    return tape.jet(value, tangents, (x,), lambda k: Curvature.apply(z, k, square, slopes))  # type: ignore[no-untyped-call]


# --- the activation table ---

_FUNCTIONS = {  # rows of the table by the functions of torch, with the arguments of each and their defaults
    "relu": ("relu", ()),
    "leaky_relu": ("leaky_relu", (("negative_slope", 0.01),)),
    "softplus": ("softplus", (("beta", 1.0), ("threshold", 20.0))),
    "logsigmoid": ("log_sigmoid", ()),
    "sigmoid": ("sigmoid", ()),
    "expit": ("sigmoid", ()),
    "tanh": ("tanh", ()),
    "silu": ("silu", ()),
    "mish": ("mish", ()),
    "elu": ("elu", (("alpha", 1.0),)),
    "celu": ("celu", (("alpha", 1.0),)),
    "softsign": ("softsign", ()),
    "selu": ("selu", ()),
    "tanhshrink": ("tanhshrink", ()),
    "hardswish": ("hardswish", ()),
    "hardsigmoid": ("hardsigmoid", ()),
    "hardtanh": ("hardtanh", (("min_val", -1.0), ("max_val", 1.0))),
    "softshrink": ("softshrink", (("lambd", 0.5),)),
    "hardshrink": ("hardshrink", (("lambd", 0.5),)),
}


def _of_table(row: activations.Activation, parameters: tuple[tuple[str, float], ...]) -> Callable[..., Jet]:
    names = [name for name, _ in parameters]

    def apply(input: Jet, *args: Any, **kwargs: Any) -> Jet:
        given = dict(parameters) | dict(zip([*names, "inplace"], args, strict=False)) | kwargs
        constants = tuple(float(given[name]) for name in names)
        out = elementwise(input, lambda z: row.rule(TensorFunctions, z, *constants), curved=row.curved)
        return input.become(out) if given.get("inplace") else out

    return apply


for _name, (_row, _parameters) in _FUNCTIONS.items():
    rule(_name)(_of_table(activations.BY_NAME[_row], _parameters))


@rule("gelu")
def gelu(input: Jet, approximate: str = "none") -> Jet:
    """GELU in both of its forms."""
    row = activations.BY_NAME["gelu" if approximate == "none" else "gelu_tanh"]
    return elementwise(input, lambda z: row.rule(TensorFunctions, z))


# --- other functions ---

for _name, _derivatives in smooth.SMOOTH.items():
    rule(_name)(lambda input, derivatives=_derivatives: elementwise(input, derivatives))


@rule("clamp", "clip")
def clamp(input: Jet, min: Any = None, max: Any = None) -> Jet:
    """`z` between two bounds, each a number or a tensor without derivatives along the data."""
    if isinstance(min, Jet) or isinstance(max, Jet):
        raise NoRule("jets have no rule for clamp between bounds that depend on x; use torch.maximum and torch.minimum")

    def derivatives(z: Tensor) -> Iterator[Tensor]:
        yield torch.clamp(z, min, max)
        inside = torch.ones_like(z)
        inside = inside if min is None else inside * (z >= min)
        yield inside if max is None else inside * (z <= max)

    if any(isinstance(bound, Tensor) and bound.requires_grad for bound in (min, max)):
        raise NoRule("jets have no rule for clamp between bounds that are trained; use torch.maximum and torch.minimum")
    return elementwise(input, derivatives, curved=False)


@rule("clamp_min")
def clamp_min(input: Jet, min: Any) -> Jet:
    """`max(z, bound)`."""
    return clamp(input, min)


@rule("clamp_max")
def clamp_max(input: Jet, max: Any) -> Jet:
    """`min(z, bound)`."""
    return clamp(input, None, max)


@rule("relu6")
def relu6(input: Jet, inplace: bool = False) -> Jet:
    """`z` between 0 and 6."""
    out = _of_table(activations.BY_NAME["relu6"], (("min_val", 0.0), ("max_val", 6.0)))(input)
    return input.become(out) if inplace else out
