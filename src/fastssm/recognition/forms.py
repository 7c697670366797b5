"""Affine forms of a recorded network: how they are scaled, shifted, added, multiplied by matrices, closed to layers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fastssm.activations import BY_NAME, IDENTITY, Activation
from fastssm.recognition.program import Builder, samples, scattered, vector
from fastssm.recognition.tape import Ref, Stop

Number = float | int
Coefficient = Ref | Number


@dataclass(frozen=True, eq=False)
class Point:
    """The input of the network (`form` None), or a layer: `f(form)`, plus the point of the form if it skips."""

    size: int
    form: Form | None = None
    activation: Activation = IDENTITY
    constants: tuple[float, ...] = ()
    skip: bool = False


@dataclass(frozen=True, eq=False)
class Form:
    """`scale * (M h + bias) + shift` of a point h, with `M = weight`, or `factor` times chosen rows of the identity.

    Attributes:
        point: where h is.
        tail: the shape of a sample.
        rows: the chosen rows, -1 for a row of zeros; None for all.
        weight: the matrix `[n, size]`.
        factor: a number, or one for each row.
        bias: `[n]`.
        scale: `[B, n]`.
        shift: `[B, n]`.
    """

    point: Point
    tail: tuple[int, ...]
    rows: tuple[int, ...] | None = None
    weight: Ref | None = None
    factor: Coefficient | None = None
    bias: Ref | None = None
    scale: Ref | None = None
    shift: Ref | None = None

    @property
    def size(self) -> int:
        """Number of values per sample."""
        return int(torch.Size(self.tail).numel())

    @property
    def plain(self) -> bool:
        """Whether it is the point itself."""
        parts = (self.rows, self.weight, self.factor, self.bias, self.scale, self.shift)
        return all(part is None for part in parts)


class Algebra:
    """Computes with forms; each result is a new form, and the arithmetic of coefficients goes into the program."""

    def __init__(self, builder: Builder, like: Tensor) -> None:
        self.builder, self.emit = builder, builder.emit
        self.options = {"dtype": like.dtype, "device": like.device}
        self.closed: dict[int, Point] = {}

    # --- elementwise ---

    def coefficient(self, c: Coefficient, tail: tuple[int, ...], batched: bool) -> Coefficient:
        """Return a coefficient as a number, `[n]`, or `[B, n]`."""
        if not isinstance(c, Ref):
            return c
        value = self.builder.value(c)
        if value.dtype != self.options["dtype"]:
            c = self.emit(Tensor.to, c, self.options["dtype"])
        size = int(torch.Size(tail).numel())
        if value.shape == ((value.shape[0], size) if batched else (size,)):
            return c
        return self.emit(samples if batched else vector, c, tail)

    def times(self, form: Form, c: Coefficient, batched: bool = False) -> Form:
        """Multiply by a coefficient."""
        c = self.coefficient(c, form.tail, batched)
        if batched:
            return replace(
                form,
                scale=c if form.scale is None else self._product(form.scale, c),  # type: ignore[arg-type]
                shift=self._product(form.shift, c),
            )
        if form.scale is not None:
            return replace(form, scale=self._product(form.scale, c), shift=self._product(form.shift, c))
        scaled = replace(form, bias=self._product(form.bias, c), shift=self._product(form.shift, c))
        if form.weight is not None:
            rows = self.emit(torch.unsqueeze, c, 1) if isinstance(c, Ref) else c
            return replace(scaled, weight=self._product(form.weight, rows))
        factor = c if form.factor is None else self._multiplied(form.factor, c)
        return replace(scaled, factor=factor)

    def plus(self, form: Form, c: Coefficient, batched: bool = False) -> Form:
        """Add a coefficient."""
        c = self.coefficient(c, form.tail, batched)
        if batched:
            return replace(form, shift=self._sum(form.shift, c))
        if form.scale is not None:
            full = self._full(form.size, c)
            if form.shift is None:
                return replace(form, shift=self.emit(Tensor.expand_as, full, form.scale))
            return replace(form, shift=self._sum(form.shift, full))
        return replace(form, bias=self._sum(form.bias, self._full(form.size, c)))

    def _full(self, size: int, c: Coefficient) -> Ref:
        return c if isinstance(c, Ref) else self.emit(torch.full, (size,), float(c), **self.options)

    def _product(self, a: Ref | None, c: Any) -> Any:
        return None if a is None else a if type(c) is not Ref and c == 1 else self.emit(torch.mul, a, c)

    def _multiplied(self, a: Coefficient, c: Coefficient) -> Coefficient:
        if isinstance(a, Ref) or isinstance(c, Ref):
            return self.emit(torch.mul, a, c)
        return a * c

    def _sum(self, a: Any, b: Any) -> Any:
        return b if a is None else a if b is None else self.emit(torch.add, a, b)

    # --- matrices ---

    def linear(self, form: Form, weight: Ref, bias: Ref | None) -> Form:
        """Multiply by a matrix `[o, n]` and add a bias."""
        if form.weight is not None or form.scale is not None:
            form = Form(self.close(form), form.tail)
        if form.bias is not None:
            moved = self.emit(torch.mv, weight, form.bias)
            bias = self._sum(bias, moved)
        shift = None if form.shift is None else self.emit(torch.nn.functional.linear, form.shift, weight)
        if form.factor is not None and form.factor != 1:
            weight = self.emit(torch.mul, weight, form.factor)
        if form.rows is not None:
            weight = self._columns(weight, form.rows, form.point.size)
        return Form(form.point, (self.builder.value(weight).shape[0],), None, weight, None, bias, None, shift)

    def _columns(self, weight: Ref, rows: tuple[int, ...], size: int) -> Ref:
        """Return a matrix times the chosen rows of the identity."""
        columns = [j for j, row in enumerate(rows) if row >= 0]
        targets = [row for row in rows if row >= 0]
        if targets == list(range(size)) and columns == list(range(columns[0], columns[0] + size)):
            return self.emit(torch.narrow, weight, 1, columns[0], size)
        device = self.options["device"]
        where = [self.emit(torch.tensor, each, dtype=torch.int64, device=device) for each in (columns, targets)]
        return self.emit(scattered, weight, *where, size)

    def dense(self, form: Form) -> Ref:
        """Return the matrix of a form."""
        if form.weight is not None:
            return form.weight
        matrix = self.emit(torch.eye, form.point.size, **self.options)
        if form.rows is not None:
            where = self.emit(torch.tensor, [max(row, 0) for row in form.rows], device=self.options["device"])
            matrix = self.emit(torch.index_select, matrix, 0, where)
            if -1 in form.rows:
                kept = self.emit(torch.tensor, [[float(row >= 0)] for row in form.rows], **self.options)
                matrix = self.emit(torch.mul, matrix, kept)
        if isinstance(form.factor, Ref):
            return self.emit(torch.mul, matrix, self.emit(torch.unsqueeze, form.factor, 1))
        return matrix if form.factor is None else self.emit(torch.mul, matrix, form.factor)

    def summed(self, form: Form, tail: tuple[int, ...], mean: bool) -> Form:
        """Add up the values of a sample, or take their mean."""
        size = form.size
        if form.weight is not None and form.scale is None:
            found = Form(
                form.point,
                tail,
                None,
                self.emit(torch.sum, form.weight, 0, keepdim=True),
                None,
                None if form.bias is None else self.emit(torch.sum, form.bias, 0, keepdim=True),
                None,
                None if form.shift is None else self.emit(torch.sum, form.shift, 1, keepdim=True),
            )
        else:
            ones = self.emit(torch.ones, (1, size), **self.options)
            found = replace(self.linear(form, ones, None), tail=tail)
        return self.times(found, 1.0 / size) if mean else found

    def select(self, form: Form, rows: tuple[int, ...], tail: tuple[int, ...]) -> Form:
        """Choose and permute the values of a sample."""
        if rows == tuple(range(form.size)):
            return replace(form, tail=tail)
        where = self.emit(torch.tensor, list(rows), dtype=torch.int64, device=self.options["device"])

        def chosen(part: Any, axis: int) -> Any:
            return self.emit(torch.index_select, part, axis, where) if isinstance(part, Ref) else part

        before = form.rows or tuple(range(form.point.size))
        return Form(
            form.point,
            tail,
            tuple(before[row] for row in rows) if form.weight is None else None,
            chosen(form.weight, 0),
            chosen(form.factor, 0),
            chosen(form.bias, 0),
            chosen(form.scale, 1),
            chosen(form.shift, 1),
        )

    def joined(self, parts: list[tuple[Form | None, Ref | None, int, bool]]) -> Form:
        """Concatenate forms of one point and coefficients: each is a form, or a coefficient of some size."""
        forms = [part[0] for part in parts if part[0] is not None]
        point = forms[0].point
        if any(form.point is not point or form.scale is not None for form in forms):
            raise Stop(
                "it concatenates values of different layers; only x, a layer and conditioning can be concatenated"
            )
        size = sum(part[2] for part in parts)
        dense = any(form.weight is not None or form.factor is not None for form in forms)
        pieces: list[Any] = []
        for form, _, count, _ in parts:
            if not dense:
                pieces += (form.rows or range(point.size)) if form is not None else [-1] * count
            elif form is not None:
                pieces.append(self.dense(form))
            else:
                pieces.append(self.emit(torch.zeros, (count, point.size), **self.options))
        shared, single = self._cat_shared(parts), self._cat_single(parts)
        weight = self.emit(torch.cat, pieces) if dense else None
        rows = None if dense else tuple(pieces)
        return Form(point, (size,), rows, weight, None, shared, None, single)

    def _cat_shared(self, parts: list[tuple[Form | None, Ref | None, int, bool]]) -> Ref | None:
        found = [form.bias if form is not None else None if batched else c for form, c, _, batched in parts]
        if all(part is None for part in found):
            return None
        zeros = [
            self.emit(torch.zeros, (part[2],), **self.options) if c is None else c
            for c, part in zip(found, parts, strict=True)
        ]
        return self.emit(torch.cat, zeros)

    def _cat_single(self, parts: list[tuple[Form | None, Ref | None, int, bool]]) -> Ref | None:
        found = [form.shift if form is not None else c if batched else None for form, c, _, batched in parts]
        some = next((c for c in found if c is not None), None)
        if some is None:
            return None
        every = [self.emit(_blank, some, part[2]) if c is None else c for c, part in zip(found, parts, strict=True)]
        return self.emit(torch.cat, every, 1)

    # --- layers ---

    def close(self, form: Form, activation: Activation = IDENTITY, constants: tuple[float, ...] = ()) -> Point:
        """Return the point at which a form is, or the layer that an activation makes of it."""
        if activation is IDENTITY:
            if form.plain:
                return form.point
            if id(form) not in self.closed:
                self.closed[id(form)] = Point(form.size, form)
            return self.closed[id(form)]
        return Point(form.size, form, activation, constants)

    def added(self, a: Form, b: Form) -> Form:
        """Add two forms: a skip, or two affine maps of one point."""
        for one, two in ((a, b), (b, a)):
            layer = two.point
            if two.plain and layer.form is not None and not layer.skip and layer.activation is not IDENTITY:
                start = layer.form.point
                if (one.plain and one.point is start) or self.closed.get(id(one)) is start:
                    return Form(replace(layer, skip=True), two.tail)
        one, two = self._collapsed(a), self._collapsed(b)
        if one.point is not two.point or one.scale is not None or two.scale is not None:
            raise Stop(
                "it adds values of different layers; a skip adds the input of one affine map and activation to their "
                "result, h + f(W h + b)"
            )
        weight = self.emit(torch.add, self.dense(one), self.dense(two))
        return Form(
            one.point, a.tail, None, weight, None, self._sum(one.bias, two.bias), None, self._sum(one.shift, two.shift)
        )

    def _collapsed(self, form: Form) -> Form:
        """Multiply out the affine maps between a form and the last activation."""
        inner = form.point.form
        if inner is None or form.point.activation is not IDENTITY or inner.scale is not None or form.scale is not None:
            return form
        inner = self._collapsed(inner)
        if inner.scale is not None:
            return form
        matrix = self.dense(form)
        bias = form.bias if inner.bias is None else self._sum(form.bias, self.emit(torch.mv, matrix, inner.bias))
        shift = form.shift
        if inner.shift is not None:
            shift = self._sum(shift, self.emit(torch.nn.functional.linear, inner.shift, matrix))
        weight = self.emit(torch.mm, matrix, self.dense(inner))
        return Form(inner.point, form.tail, None, weight, None, bias, None, shift)

    def multiplied(self, a: Form, b: Form) -> Form:
        """Multiply two forms, if this is `z sigmoid(z)`."""
        for one, two in ((a, b), (b, a)):
            layer = two.point
            gate = two.plain and layer.activation is BY_NAME["sigmoid"] and not layer.skip
            if gate and (
                layer.form is one
                or (one.plain and layer.form is not None and layer.form.plain and layer.form.point is one.point)
            ):
                return Form(replace(layer, activation=BY_NAME["silu"], constants=()), one.tail)
        raise Stop("it multiplies two values that depend on x")


def _blank(like: Tensor, size: int) -> Tensor:
    return like.new_zeros(like.shape[0], size)
