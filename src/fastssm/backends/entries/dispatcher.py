"""The engine as operators, `torch.ops.fastssm.*`: where native engines plug in by registering kernels for a device.

Schemas, plain-PyTorch kernels, fake kernels, autograd and autocast are declared here, once.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NoReturn

import torch
from torch import Tensor

from fastssm.backends.entries import flat
from fastssm.backends.entries.first_order import SECOND_BACKWARD, scaled
from fastssm.backends.entries.flat import Form, Inputs, Static, needs_of, spread
from fastssm.checks import HALF
from fastssm.sweeps import Needs, Structure, Terms

_NETWORK = "Tensor x, Tensor? columns, Tensor? v, Tensor? seed, Tensor[] tensors"
_STATIC = "str kind, int[] activations, float[] constants, int[] flags, SymInt n_projections, str precision"
_NEEDS = "bool needs_inputs, bool needs_tensors"
_SCHEMAS = {
    "objective": f"({_NETWORK}, Tensor? weight, {_STATIC}, bool variance_reduced, bool mean, {_NEEDS})"
    " -> (Tensor, Tensor, Tensor, Tensor[])",
    "denoising": f"({_NETWORK}, Tensor target, Tensor? weight, {_STATIC}, bool mean, {_NEEDS})"
    " -> (Tensor, Tensor, Tensor, Tensor[])",
    "terms": f"({_NETWORK}, {_STATIC}) -> (Tensor, Tensor, Tensor)",
    "terms_each": f"({_NETWORK}, {_STATIC}) -> (Tensor, Tensor, Tensor)",
    "terms_backward": f"(Tensor on_projected, Tensor on_jacobian, Tensor on_score, {_NETWORK}, {_STATIC}, {_NEEDS})"
    " -> Tensor[]",
    "scale": "(Tensor[] gradients, Tensor factor) -> Tensor[]",
}
_SCHEMAS["terms_each_backward"] = _SCHEMAS["terms_backward"]
_SCHEMAS["objective_packed"] = _SCHEMAS["objective"]  # on a GPU its gradients share buffers, which no tracer may see
_LIBRARY: Any = torch.library.Library("fastssm", "DEF")  # type: ignore[no-untyped-call]
for _name, _schema in _SCHEMAS.items():
    _LIBRARY.define(_name + _schema, tags=(torch.Tag.pt2_compliant_tag,))


def _static(kind: str, activations: Any, constants: Any, flags: Any, n_projections: int, precision: str) -> Static:
    return Static(Structure(kind, activations, constants, flags), n_projections, precision)


def _objective(*a: Any) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    x, columns, v, seed, tensors, weight, *static, variance_reduced, mean, of_inputs, of_tensors = a
    form, needs = Form(variance_reduced, mean), Needs(of_inputs, of_tensors)
    return flat.run_objective(Inputs(x, columns, v, seed), weight, tensors, _static(*static), form, needs)


def _denoising(*a: Any) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    x, columns, v, seed, tensors, target, weight, *static, mean, of_inputs, of_tensors = a
    form, needs = Form(True, mean), Needs(of_inputs, of_tensors)
    return flat.run_objective(Inputs(x, columns, v, seed), weight, tensors, _static(*static), form, needs, target)


def _terms(*a: Any) -> tuple[Tensor, Tensor, Tensor]:
    x, columns, v, seed, tensors, *static = a
    return flat.run_terms(Inputs(x, columns, v, seed), tensors, _static(*static))


def _terms_each(*a: Any) -> tuple[Tensor, Tensor, Tensor]:
    x, columns, v, seed, tensors, *static = a
    return flat.run_terms(Inputs(x, columns, v, seed), tensors, _static(*static)._replace(each=True))


def _terms_backward(*a: Any) -> list[Tensor]:
    given, (x, columns, v, seed, tensors, *static), needs = a[:3], a[3:-2], Needs(*a[-2:])
    return flat.run_terms_backward(Terms(*given), Inputs(x, columns, v, seed), tensors, _static(*static), needs)


def _scale(gradients: Sequence[Tensor], factor: Tensor) -> list[Tensor]:
    return [g * factor for g in gradients]


def _fake_scale(gradients: Sequence[Tensor], factor: Tensor) -> list[Tensor]:
    return [torch.empty_like(g) for g in gradients]


def _wide(x: Tensor) -> torch.dtype:
    return torch.float32 if x.dtype in HALF else x.dtype


def _like(needs: Needs, x: Tensor, columns: Tensor | None, tensors: Sequence[Tensor]) -> list[Tensor]:
    inputs = [x] if columns is None else [x, columns]
    return [torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in (inputs if needs.inputs else [])] + [
        torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in (tensors if needs.tensors else [])
    ]


def _fake_objective(*a: Any) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    x, columns, tensors = a[0], a[1], a[4]
    rows = [x.new_empty(x.shape[0], dtype=_wide(x)) for _ in range(2)]
    return x.new_empty((), dtype=_wide(x)), rows[0], rows[1], _like(Needs(*a[-2:]), x, columns, tensors)


def _fake_terms(*a: Any) -> tuple[Tensor, Tensor, Tensor]:
    x, count = a[0], a[9]
    wide = _wide(x)
    batch = x.shape[0]
    return x.new_empty((count, batch), dtype=wide), x.new_empty(batch, dtype=wide), x.new_empty(x.shape, dtype=wide)


def _fake_terms_each(*a: Any) -> tuple[Tensor, Tensor, Tensor]:
    projected, _, score = _fake_terms(*a)
    return projected, torch.empty_like(projected), score


def _fake_terms_backward(*a: Any) -> list[Tensor]:
    return _like(Needs(*a[-2:]), a[3], a[4], a[7])


def _objective_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, columns, _, _, tensors = inputs[:5]
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*output[3], *([x] if columns is None else [x, columns]), *tensors)
    ctx.has_columns, ctx.grads, ctx.count = columns is not None, len(output[3]), len(tensors)
    ctx.needs, ctx.others = Needs(*inputs[-2:]), len(inputs) - 5


def _objective_backward(ctx: Any, factor: Tensor | None, *_: Any) -> tuple[Any, ...]:
    if factor is None:
        return None, None, None, None, [None] * ctx.count, *[None] * ctx.others
    saved = ctx.saved_tensors
    grads = scaled(factor, saved[: ctx.grads], saved[ctx.grads :])
    x, columns, tensors = spread(grads, ctx.has_columns, ctx.count, ctx.needs)
    return x, columns, None, None, tensors, *[None] * ctx.others


def _terms_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, columns, v, seed, tensors, *ctx.static = inputs
    ctx.save_for_backward(x, columns, v, seed, *tensors)


def _terms_gradient(backward: str, ctx: Any, *given: Tensor) -> tuple[Any, ...]:
    x, columns, v, seed, *tensors = ctx.saved_tensors
    needs = Needs(any(ctx.needs_input_grad[:2]), any(t.requires_grad for t in tensors))
    operator = getattr(torch.ops.fastssm, backward)
    grads = operator(*given, x, columns, v, seed, tensors, *ctx.static, *needs)
    of_x, of_columns, of_tensors = spread(grads, columns is not None, len(tensors), needs)
    return of_x, of_columns, None, None, of_tensors, *[None] * len(ctx.static)


def _refuse(ctx: Any, *_: Any) -> NoReturn:
    raise RuntimeError(SECOND_BACKWARD)


for _name, _kernel, _fake in (
    ("objective", _objective, _fake_objective),
    ("objective_packed", _objective, _fake_objective),
    ("denoising", _denoising, _fake_objective),
    ("terms", _terms, _fake_terms),
    ("terms_each", _terms_each, _fake_terms_each),
    ("terms_backward", _terms_backward, _fake_terms_backward),
    ("terms_each_backward", _terms_backward, _fake_terms_backward),
    ("scale", _scale, _fake_scale),
):
    _LIBRARY.impl(_name, _kernel, "CompositeExplicitAutograd")
    torch.library.register_fake(f"fastssm::{_name}", _fake, lib=_LIBRARY)
    for _device in ("cpu", "cuda") if _name != "scale" else ():  # gradients keep their dtype
        torch.library.register_autocast(f"fastssm::{_name}", _device, torch.float32, lib=_LIBRARY)
for _name in ("objective", "denoising"):
    torch.library.register_autograd(
        f"fastssm::{_name}", _objective_backward, setup_context=_objective_context, lib=_LIBRARY
    )
for _name in ("terms", "terms_each"):
    _gradient = partial(_terms_gradient, f"{_name}_backward")
    torch.library.register_autograd(f"fastssm::{_name}", _gradient, setup_context=_terms_context, lib=_LIBRARY)
for _name in ("terms_backward", "terms_each_backward", "objective_packed", "scale"):
    torch.library.register_autograd(f"fastssm::{_name}", _refuse, lib=_LIBRARY)


def run_objective(
    inputs: Inputs,
    weight: Tensor | None,
    tensors: Sequence[Tensor],
    static: Static,
    form: Form,
    needs: Needs,
    packed: bool = False,
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """Call the operator of the loss, its two terms per sample, and its gradients, which may share buffers if packed."""
    operator = torch.ops.fastssm.objective_packed if packed else torch.ops.fastssm.objective
    out = operator(*inputs, tensors, weight, *_numbers(static), *form, *needs)
    return out[0], out[1], out[2], out[3]


def run_terms(inputs: Inputs, tensors: Sequence[Tensor], static: Static) -> Terms:
    """Call the operator of the terms of every sample and direction."""
    operator = torch.ops.fastssm.terms_each if static.each else torch.ops.fastssm.terms
    return Terms(*operator(*inputs, tensors, *_numbers(static)))


def run_terms_backward(
    given: Terms, inputs: Inputs, tensors: Sequence[Tensor], static: Static, needs: Needs
) -> list[Tensor]:
    """Call the operator of the gradients of a function of the terms."""
    operator = torch.ops.fastssm.terms_each_backward if static.each else torch.ops.fastssm.terms_backward
    grads: list[Tensor] = operator(*given, *inputs, tensors, *_numbers(static), *needs)
    return grads


def scale(gradients: Sequence[Tensor], factor: Tensor) -> list[Tensor]:
    """Call the operator that scales the gradients of an objective: on a GPU, all of a buffer at once."""
    found: list[Tensor] = torch.ops.fastssm.scale(gradients, factor)
    return found


def objective(
    inputs: Inputs, weight: Tensor | None, tensors: Sequence[Tensor], static: Static, form: Form
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the loss and its terms per sample through the dispatcher."""
    return run_objective(inputs, weight, tensors, static, form, needs_of(inputs, tensors))[:3]


def denoising(
    inputs: Inputs, target: Tensor, weight: Tensor | None, tensors: Sequence[Tensor], static: Static, mean: bool
) -> Tensor:
    """Return the denoising loss through the dispatcher."""
    needs = needs_of(inputs, tensors)
    out = torch.ops.fastssm.denoising(*inputs, tensors, target, weight, *_numbers(static), mean, *needs)
    loss: Tensor = out[0]
    return loss


def terms(inputs: Inputs, tensors: Sequence[Tensor], static: Static) -> Terms:
    """Return the terms of every sample and direction through the dispatcher."""
    return run_terms(inputs, tensors, static)


def _numbers(static: Static) -> tuple[Any, ...]:
    return *static.structure, static.n_projections, static.precision
