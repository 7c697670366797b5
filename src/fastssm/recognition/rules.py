"""One rule for each torch function that keeps a recorded forward a network of the engines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from fastssm.activations import TABLE, Activation
from fastssm.nn import module_class
from fastssm.recognition.forms import Algebra, Coefficient, Form, Point
from fastssm.recognition.program import Builder, references
from fastssm.recognition.recording import Recording
from fastssm.recognition.tape import DROPOUT, Node, Ref, Stop, tensors_in, words

ONE_AXIS = "{name} acts on the last axis of several alone; flatten the data first, x.flatten(1)"
NO_RULE = (
    "{name} is neither an affine map with coefficients that do not depend on x, nor a known activation, nor a skip "
    "h + f(W h + b)"
)
_STRUCTURAL = words(
    "view reshape flatten squeeze unsqueeze permute transpose t T mT movedim swapaxes __getitem__ select "
    "narrow index_select flip roll chunk split unbind expand unflatten contiguous clone ravel tile repeat "
    "_item view_as tensor_split hsplit alias requires_grad_ "
)
_SAME = words("to float double half bfloat16 type type_as ")
_POSITIONAL = {
    "softplus": ("beta", "threshold"),
    "leakyrelu": ("negative_slope", "inplace"),
    "elu": ("alpha", "inplace"),
    "celu": ("alpha", "inplace"),
    "hardtanh": ("min_val", "max_val", "inplace"),
    "softshrink": ("lambd",),
    "hardshrink": ("lambd",),
}
_BINARY = {
    "add": "add", "radd": "add", "iadd": "add", "sub": "sub", "subtract": "sub", "isub": "sub", "rsub": "rsub",
    "mul": "mul", "multiply": "mul", "rmul": "mul", "imul": "mul", "div": "div", "divide": "div", "truediv": "div",
    "true_divide": "div", "itruediv": "div", "idiv": "div",
}  # fmt: skip


def _rows_by_name() -> dict[str, list[Activation]]:
    found: dict[str, list[Activation]] = {}
    for row in TABLE:
        found.setdefault(row.module.lower(), []).append(row)
    return found


_ROWS = _rows_by_name()


def canonical(name: str) -> str:
    """Return the name of a function without the marks of operators and of work in place."""
    return name.strip("_") if name.startswith("__") else name.rstrip("_")


class Rules:
    """Finds the form of a node from the forms of its operands.

    Args:
        first: a recording.
        second: another, for another batch size.
    """

    def __init__(self, first: Recording, second: Recording) -> None:
        self.first, self.second = first, second
        self.builder = Builder(first, second)
        x = first.tape.nodes[0].value
        self.algebra = Algebra(self.builder, x)
        self.forms: dict[int, Any] = {0: Form(Point(x[0].numel()), tuple(x.shape[1:]))}

    def apply(self, node: Node) -> Any:
        """Choose the rule of a node."""
        name = canonical(node.name)
        if name in _STRUCTURAL or node.name in _STRUCTURAL:
            return self.structural(node)
        self.same_numbers(node)
        if name in _BINARY:
            return self.binary(_BINARY[name], node)
        if name.replace("_", "") in _ROWS or name == "expit":
            return self.activation("sigmoid" if name == "expit" else name.replace("_", ""), node)
        rule: Callable[[Node], Any] | None = getattr(self, f"rule_{name}", None)
        if rule is None and name in _SAME:
            rule = self.unchanged
        if rule is None:
            raise Stop(NO_RULE.format(name=node.name))
        return rule(node)

    def same_numbers(self, node: Node) -> None:
        """Refuse a function whose numbers depend on the batch size."""
        other = self.second.tape.nodes[self.first.tape.nodes.index(node)]
        if (node.args, node.kwargs) != (other.args, other.kwargs):
            raise Stop(f"{node.name} is called with other numbers for another batch size")

    # --- operands ---

    def form(self, part: Any, name: str) -> Form:
        """Return the form of an operand that must depend on x."""
        if type(part) is Ref and self.first.tape.nodes[part.number].depends:
            found: Form = self.forms[part.number]
            return found
        raise Stop(NO_RULE.format(name=name))

    def coefficient(self, part: Any, name: str) -> tuple[Coefficient, bool]:
        """Return an operand that must not depend on x, and whether it has a row per sample."""
        if type(part) is Ref and not self.first.tape.nodes[part.number].depends:
            return self.builder.of(part.number), self.builder.batched(part.number)
        if isinstance(part, (int, float)):
            return part, False
        raise Stop(NO_RULE.format(name=name))

    def shared(self, part: Any, name: str) -> Ref | None:
        """Return a tensor that must be the same for all samples."""
        if part is None:
            return None
        c, batched = self.coefficient(part, name)
        if batched or not isinstance(c, Ref):
            raise Stop(f"the coefficients of {name} differ from sample to sample")
        return c

    def is_form(self, part: Any) -> bool:
        """Say whether an operand depends on x."""
        return type(part) is Ref and self.first.tape.nodes[part.number].depends

    # --- rules ---

    def structural(self, node: Node) -> Any:
        """Apply a function that only moves values to their numbers, to see where they go."""
        if not node.args or not self.is_form(node.args[0]) or len(references((node.args, node.kwargs))) != 1:
            raise Stop(f"{node.name} takes an index that is a tensor")
        given = self.forms[node.args[0].number]
        if isinstance(given, list):
            return given[node.args[1]]
        assert node.function is not None
        batch, size = self.first.batch, given.size
        numbers = torch.arange(batch * size).reshape(batch, *given.tail)
        if canonical(node.name) == "requires_grad":
            return given
        moved = node.function(numbers, *node.args[1:], **node.kwargs)
        if isinstance(moved, torch.Tensor):
            return self.moved(given, moved, node.name)
        return [self.moved(given, part, node.name) for part in moved]

    def moved(self, given: Form, moved: torch.Tensor, name: str) -> Form:
        """Return a form whose values were moved, if every sample was treated alike."""
        batch, size = self.first.batch, given.size
        if moved.ndim == 0 or moved.shape[0] != batch or moved.numel() == 0:
            raise Stop(f"{name} mixes the samples of a batch, or takes some of them")
        flat = moved.reshape(batch, -1)
        if not torch.equal(flat, flat[:1] + size * torch.arange(batch)[:, None]):
            raise Stop(f"{name} mixes the samples of a batch")
        return self.algebra.select(given, tuple(flat[0].tolist()), tuple(moved.shape[1:]))

    def unchanged(self, node: Node) -> Form:
        """Pass a conversion that converts nothing; the dtype of its result is checked."""
        return self.form(node.args[0], node.name)

    def binary(self, kind: str, node: Node) -> Form:
        """Add, subtract, multiply, divide."""
        name, algebra = node.name, self.algebra
        a, b = node.args[:2] if len(node.args) > 1 else (node.args[0], node.kwargs["other"])
        factor = node.kwargs.get("alpha", 1)
        if set(node.kwargs) - {"alpha", "other"}:
            raise Stop(NO_RULE.format(name=name))
        if kind == "rsub":
            a, b = b, a
        if self.is_form(a) and self.is_form(b):
            return self.two_forms(kind, self.form(a, name), self.form(b, name), factor, name)
        if kind in ("add", "sub", "rsub"):
            sign = 1 if kind == "add" else -1
            if self.is_form(a):
                c, batched = self.coefficient(b, name)
                return algebra.plus(self.form(a, name), self.multiple(c, sign * factor), batched)
            c, batched = self.coefficient(a, name)
            return algebra.plus(algebra.times(self.form(b, name), sign * factor), c, batched)
        if kind == "mul" and self.is_form(b):
            a, b = b, a
        if not self.is_form(a):
            raise Stop(NO_RULE.format(name=name))
        c, batched = self.coefficient(b, name)
        if kind == "div":
            c = self.builder.emit(torch.reciprocal, c) if isinstance(c, Ref) else 1.0 / c
        return algebra.times(self.form(a, name), c, batched)

    def multiple(self, c: Coefficient, factor: float) -> Coefficient:
        """Return a coefficient times a number."""
        if factor == 1:
            return c
        return self.builder.emit(torch.mul, c, factor) if isinstance(c, Ref) else c * factor

    def two_forms(self, kind: str, a: Form, b: Form, factor: float, name: str) -> Form:
        """Combine two values that depend on x."""
        if a.tail != b.tail:
            raise Stop(NO_RULE.format(name=name))
        if kind == "mul":
            return self.algebra.multiplied(a, b)
        if kind == "div":
            raise Stop("it divides by a value that depends on x")
        factor = factor if kind == "add" else -factor
        return self.algebra.added(a, b if factor == 1 else self.algebra.times(b, factor))

    def rule_neg(self, node: Node) -> Form:
        """Multiply by -1."""
        return self.algebra.times(self.form(node.args[0], node.name), -1)

    rule_negative = rule_neg

    def affine(self, form: Form, weight: Ref | None, bias: Ref | None, name: str) -> Form:
        """Multiply by a matrix."""
        if weight is None or self.builder.value(weight).ndim != 2:
            raise Stop(NO_RULE.format(name=name))
        if len(form.tail) != 1:
            raise Stop(ONE_AXIS.format(name=name) if form.tail else NO_RULE.format(name=name))
        if bias is not None:
            value = self.builder.value(bias)
            out = self.builder.value(weight).shape[0]
            if value.shape != (out,):
                bias = self.algebra.coefficient(bias, (out,), False)  # type: ignore[assignment]
        return self.algebra.linear(form, weight, bias)

    def rule_linear(self, node: Node) -> Form:
        """Fold `F.linear(h, W, b)`."""
        given = dict(zip(("input", "weight", "bias"), node.args, strict=False)) | node.kwargs
        weight, bias = self.shared(given["weight"], node.name), self.shared(given.get("bias"), node.name)
        return self.affine(self.form(given["input"], node.name), weight, bias, node.name)

    def rule_matmul(self, node: Node) -> Form:
        """Fold `h @ W`, for a matrix or a vector."""
        return self.product(node.args[0], node.args[1], None, node.name)

    rule_mm = rule_mv = rule_rmatmul = rule_dot = rule_matmul

    def rule_addmm(self, node: Node) -> Form:
        """Fold `b + h @ W`."""
        if node.kwargs or len(node.args) != 3:
            raise Stop(NO_RULE.format(name=node.name))
        return self.product(node.args[1], node.args[2], self.shared(node.args[0], node.name), node.name)

    def product(self, a: Any, b: Any, bias: Ref | None, name: str) -> Form:
        """Multiply by a matrix or a vector from the right."""
        weight, form = self.shared(b, name), self.form(a, name)
        assert weight is not None
        if self.builder.value(weight).ndim == 1:
            row = self.builder.emit(torch.unsqueeze, weight, 0)
            return replace(self.affine(form, row, bias, name), tail=())
        if self.builder.value(weight).ndim != 2:
            raise Stop(NO_RULE.format(name=name))
        return self.affine(form, self.builder.emit(torch.t, weight), bias, name)

    def reduction(self, node: Node, mean: bool) -> Form:
        """Fold a sum over the values of every sample."""
        form = self.form(node.args[0], node.name)
        given = dict(zip(("input", "dim", "keepdim"), node.args, strict=False)) | node.kwargs
        dims, axes = given.get("dim"), 1 + len(form.tail)
        dims = [dims] if isinstance(dims, int) else [] if dims is None else dims
        over = {dim % axes for dim in dims}
        if 0 in over or not over:
            raise Stop(f"{node.name} mixes the samples of a batch; give it a dim, such as -1")
        if over != set(range(1, axes)) or given.get("dtype") is not None:
            raise Stop(NO_RULE.format(name=node.name))
        return self.algebra.summed(form, (1,) * len(form.tail) if given.get("keepdim") else (), mean)

    def rule_sum(self, node: Node) -> Form:
        """Fold `h.sum(-1)`."""
        return self.reduction(node, mean=False)

    def rule_mean(self, node: Node) -> Form:
        """Fold `h.mean(-1)`."""
        return self.reduction(node, mean=True)

    def rule_cat(self, node: Node) -> Form:
        """Fold `cat([h, c], 1)`."""
        given = dict(zip(("tensors", "dim"), node.args, strict=False)) | node.kwargs
        parts: list[Any] = []
        for part in given["tensors"]:
            shape = self.first.tape.nodes[part.number].value.shape
            if len(shape) != 2 or given.get("dim", 0) not in (1, -1):
                raise Stop("it concatenates along another axis than that of the values of a sample")
            if self.is_form(part):
                parts.append((self.form(part, node.name), None, shape[1], False))
            else:
                c, batched = self.coefficient(part, node.name)
                parts.append((None, self.algebra.coefficient(c, tuple(shape[1:]), batched), shape[1], batched))
        return self.algebra.joined(parts)

    rule_concat = rule_concatenate = rule_cat

    def rule_hstack(self, node: Node) -> Form:
        """Fold `hstack([h, c])`."""
        return self.rule_cat(replace(node, args=(*node.args, 1)))

    def rule_batch_norm(self, node: Node) -> Form:
        """Fold batch normalisation by running statistics."""
        order = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
        given = dict(zip(order, node.args, strict=False)) | node.kwargs
        form, emit = self.form(given["input"], node.name), self.builder.emit
        mean, var, weight, bias = (self.shared(given.get(key), node.name) for key in order[1:5])
        assert mean is not None
        assert var is not None
        scale = emit(torch.rsqrt, emit(torch.add, var, given.get("eps", 1e-5)))
        scale = scale if weight is None else emit(torch.mul, scale, weight)
        moved = emit(torch.neg, emit(torch.mul, mean, scale))
        moved = moved if bias is None else emit(torch.add, moved, bias)
        if len(form.tail) > 1:
            shape = (form.tail[0], *[1] * (len(form.tail) - 1))
            scale, moved = emit(torch.reshape, scale, shape), emit(torch.reshape, moved, shape)
        return self.algebra.plus(self.algebra.times(form, scale), moved)

    def rule_dropout(self, node: Node) -> Form:
        """Pass dropout that is not active."""
        given = dict(zip(("input", "p", "training"), node.args, strict=False)) | node.kwargs
        training = given.get("training", given.get("train", True))
        if training and given.get("p", 0.5) > 0:
            raise Stop(DROPOUT)
        return self.form(given["input"], node.name)

    rule_alpha_dropout = rule_feature_alpha_dropout = rule_dropout1d = rule_dropout2d = rule_dropout

    def activation(self, key: str, node: Node) -> Form:
        """Close a layer by an activation of the table."""
        form = self.form(node.args[0] if node.args else node.kwargs["input"], node.name)
        given = dict(zip(_POSITIONAL.get(key, ("inplace",)), node.args[1:], strict=False))
        given |= {k: v for k, v in node.kwargs.items() if k != "input"}
        given.pop("inplace", None)
        rows = _ROWS[key]
        settings = dict(_defaults(rows[0])) | given
        if tensors_in(list(given.values())) or references(list(given.values())):
            raise Stop(NO_RULE.format(name=node.name))
        for row in rows:
            known = {*row.parameters, *dict(row.matches)}
            if set(given) <= known and all(settings[k] == v for k, v in row.matches):
                constants = tuple(float(settings[k]) for k in row.parameters)
                return Form(self.algebra.close(form, row, constants), form.tail)
        raise Stop(f"no row of the activation table has the settings of {node.name}")


def _defaults(row: Activation) -> dict[str, Any]:
    """Return the settings of a row's module if none are given."""
    module: nn.Module = module_class(row.module)()
    return {key: getattr(module, key) for key in (*row.parameters, *dict(row.matches))}
