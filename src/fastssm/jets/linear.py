"""Linear functions: the same function of the value, of every tangent and of the curvature."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastssm.jets.jet import RULES, Jet, NoRule, Tape, as_jet, name_of, value_of
from fastssm.jets.lifting import batched, broadcast, lift
from fastssm.jets.rules import property_rules, rule, rules_of

Map = Callable[[Tensor], Tensor]

VIEWS = (
    "view reshape flatten squeeze unsqueeze permute transpose movedim swapaxes swapdims t ravel "
    "expand expand_as view_as reshape_as broadcast_to narrow select diagonal unfold __getitem__ contiguous real imag "
    "view_as_real view_as_complex"
)
PARTS = "chunk split tensor_split unsafe_chunk unsafe_split split_with_sizes hsplit vsplit dsplit unbind"
MAPS = (
    "sum mean neg negative positive __neg__ __pos__ clone repeat tile repeat_interleave index_select gather "
    "take_along_dim roll flip fliplr flipud rot90 diag_embed diag tril triu trace cumsum diff trapezoid trapz "
    "cumulative_trapezoid "
    "to type_as float double half bfloat16 conj resolve_conj avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d "
    "adaptive_avg_pool2d adaptive_avg_pool3d interpolate upsample pixel_shuffle pixel_unshuffle channel_shuffle fold "
    "sum_to_size nansum fft ifft rfft irfft hfft ihfft fft2 ifft2 rfft2 irfft2 fftn ifftn rfftn irfftn fftshift "
    "ifftshift"
)
_BATCHED = {F.avg_pool2d, torch._C._nn.avg_pool2d, F.interpolate, F.adaptive_avg_pool2d}


def linear(x: Jet, function: Map, value: Tensor | None = None, lifted: Map | None = None) -> Jet:
    """Return a linear function of a jet.

    Args:
        x: the jet.
        function: the function of one tensor.
        value: the function of the value, if it is affine: with its constant part.
        lifted: the function of rows `[R, ...]`, if there is a faster one than `lift`.
    """
    rows = lifted or (lambda r: lift(function, r))
    out = function(x.value) if value is None else value
    return x.tape.jet(out, rows(x.tangents), (x,), lambda k: None if k is None else rows(k))


def jointly(
    function: Callable[..., Tensor], operands: Sequence[Any], lifted: Callable[..., Tensor] | None = None
) -> Jet:
    """Return a function that is linear in all its operands together; those that are no jets have no tangents.

    Args:
        function: of all operands.
        operands: jets and other tensors.
        lifted: the function of rows `[R, ...]` of them, if there is a simpler one than `lift`.
    """
    places = [i for i, operand in enumerate(operands) if isinstance(operand, Jet)]
    jets = [operands[i] for i in places]
    zeros = [torch.zeros_like(o) if isinstance(o, Tensor) else 0.0 for o in map(value_of, operands)]

    def of_rows(*rows: Tensor | None) -> Tensor | None:
        given = [(i, row) for i, row in zip(places, rows, strict=True) if row is not None]

        def call(*some: Tensor) -> Tensor:
            full = list(zeros)
            for (i, _), row in zip(given, some, strict=True):
                full[i] = row
            return function(*full)

        if given and lifted is not None:
            count = given[0][1].shape[0]
            whole = dict(given)
            rest = [torch.as_tensor(z) for z in zeros]
            return lifted(*[whole[i] if i in whole else z.expand(count, *z.shape) for i, z in enumerate(rest)])
        return lift(call, *[row for _, row in given]) if given else None

    tangents = of_rows(*[jet.tangents for jet in jets])
    assert tangents is not None
    tape: Tape = jets[0].tape
    return tape.jet(function(*map(value_of, operands)), tangents, jets, of_rows)


def only_jet(function: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Jet:
    """Return the jet among the arguments of a function that is linear in its first one alone."""
    x = args[0] if args else kwargs.get("input")
    if not isinstance(x, Jet) or any(isinstance(other, Jet) for other in (*args[1:], *kwargs.values())):
        raise NoRule(f"jets have no rule for {name_of(function)} of these arguments: they must be tensors without jets")
    return x


def map_rule(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the rule of a function that is linear in its first argument."""

    def apply(*args: Any, **kwargs: Any) -> Any:
        rest = [value_of(a) if function in _LIKE else a for a in args[1:]]
        if function in _LIKE and not isinstance(args[0], Jet):
            return function(args[0], *rest)
        x = only_jet(function, (*args[:1], *rest), kwargs)
        rest = rest if args else []
        kwargs.pop("input", None)

        layout_free = {name: given for name, given in kwargs.items() if name != "memory_format"}  # rows have axes more

        def of(z: Tensor) -> Tensor:
            out: Tensor = function(z, *rest, **layout_free)
            return out

        return linear(
            x,
            of,
            function(x.value, *rest, **kwargs),
            (lambda r: batched(of, r)) if function in _BATCHED and x.value.ndim == 4 else None,
        )

    return apply


def view_rule(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same for a function that may return a view of its argument: neither may change in place later."""
    inner = map_rule(function)

    def apply(*args: Any, **kwargs: Any) -> Any:
        out = inner(*args, **kwargs)
        if not isinstance(out, Jet):
            return out
        out.tape.shared |= {out.place, args[0].place}
        return out

    return apply


def parts_rule(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the rule of a function that takes its argument apart."""

    def apply(*args: Any, **kwargs: Any) -> tuple[Jet, ...]:
        x = only_jet(function, args, kwargs)
        values = function(x.value, *args[1:], **kwargs)
        made = []
        for i, value in enumerate(values):

            def part(z: Tensor, i: int = i) -> Tensor:
                out: Tensor = function(z, *args[1:], **kwargs)[i]
                return out

            made.append(linear(x, part, value))
        x.tape.shared |= {x.place, *[jet.place for jet in made]}
        return tuple(made)

    return apply


_LIKE = {f for name in ("expand_as", "view_as", "reshape_as", "type_as", "to") for f in (getattr(Tensor, name),)}
rules_of(VIEWS, view_rule)
rule("unflatten")(view_rule(torch.unflatten))  # the method calls that of its base class, which Dynamo does not trace
rules_of(MAPS, map_rule)
rules_of(PARTS, parts_rule)
rule("moveaxis")(view_rule(torch.movedim))  # vmap has none of its own
property_rules("T mT H mH real imag", view_rule)


@rule("broadcast_tensors")
def broadcast_tensors(*tensors: Any) -> tuple[Any, ...]:
    """Expand tensors to one shape."""
    given = tensors[0] if len(tensors) == 1 and not isinstance(tensors[0], Tensor) else tensors
    shape = torch.broadcast_tensors(*map(value_of, given))[0].shape  # type: ignore[no-untyped-call]
    return tuple(view_rule(Tensor.expand)(t, shape) if isinstance(t, Jet) else t.expand(shape) for t in given)


@rule("__iter__")
def iterate(x: Jet) -> Iterator[Jet]:
    """Iterate over the first axis."""
    return iter(parts_rule(torch.unbind)(x))


def _list_rule(function: Callable[..., Any]) -> Callable[..., Any]:
    def apply(tensors: Sequence[Any], *args: Any, **kwargs: Any) -> Jet:
        return jointly(lambda *operands: function(operands, *args, **kwargs), list(tensors))

    return apply


def _along_rule(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the rule of a function that puts tensors together along an axis: the next one in rows of them."""

    def apply(tensors: Sequence[Any], dim: int = 0, **kwargs: Any) -> Jet:
        shapes = [value_of(t).shape for t in tensors]
        axis = kwargs.pop("axis", dim)
        axis += 0 if axis >= 0 else len(shapes[0]) + (function is torch.stack)

        def along(axis: int) -> Callable[..., Any]:
            return lambda *operands: function(operands, axis, **kwargs)

        alike = all(len(shape) == len(shapes[0]) for shape in shapes)  # not so with cat's empty tensors
        return jointly(along(axis), list(tensors), along(axis + 1) if alike else None)

    return apply


rules_of("cat concat concatenate stack", _along_rule)
rules_of("hstack vstack dstack row_stack", _list_rule)


def _side_by_side(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([t[:, None] if t.ndim == 1 else t for t in tensors], 1)


rule("column_stack")(_list_rule(_side_by_side))  # vmap has none of its own


@rule("add", "__add__", "__radd__")
def add(a: Any, b: Any, *, alpha: float = 1) -> Jet:
    """`a + alpha b`."""
    out = torch.add(value_of(a), value_of(b), alpha=alpha)
    if not isinstance(b, Jet):
        return linear(as_jet(a), lambda z: z, out, lambda r: broadcast(r, out.shape))
    if not isinstance(a, Jet):
        return linear(b, lambda z: z, out, lambda r: broadcast(r if alpha == 1 else alpha * r, out.shape))

    def of(ra: Tensor | None, rb: Tensor | None) -> Tensor | None:
        if ra is None or rb is None:
            rows, factor = (ra, 1) if rb is None else (rb, alpha)
            return None if rows is None else broadcast(rows if factor == 1 else factor * rows, out.shape)
        return torch.add(broadcast(ra, out.shape), broadcast(rb, out.shape), alpha=alpha)

    tangents = of(a.tangents, b.tangents)
    assert tangents is not None
    return a.tape.jet(out, tangents, (a, b), of)


@rule("sub", "subtract", "__sub__")
def sub(a: Any, b: Any, *, alpha: float = 1) -> Jet:
    """`a - alpha b`."""
    return add(a, b, alpha=-alpha)


@rule("rsub", "__rsub__")
def rsub(a: Any, b: Any, *, alpha: float = 1) -> Jet:
    """`b - alpha a`."""
    return add(b, a, alpha=-alpha)


@rule("where")
def where(condition: Tensor, a: Any, b: Any) -> Jet:
    """`a` where the condition holds, else `b`."""
    return jointly(lambda a, b: torch.where(condition, a, b), [a, b])


RULES[Tensor.where] = lambda self, condition, other: where(condition, self, other)


@rule("pad")
def pad(input: Jet, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Jet:
    """Entries around a tensor: a constant, or some of its own."""
    out = F.pad(input.value, pad, mode, value)
    return linear(input, lambda z: F.pad(z, pad, mode), out)


@rule("masked_fill")
def masked_fill(x: Jet, mask: Tensor, value: Any) -> Jet:
    """Another value where a mask holds, `[]`."""
    if isinstance(value, Jet):
        return where(mask, value, x)
    return linear(x, lambda z: z.masked_fill(mask, 0.0), x.value.masked_fill(mask, value))


def _indexed_rule(function: Callable[..., Any]) -> Callable[..., Any]:
    def apply(x: Any, dim: int, index: Tensor, source: Any, **kwargs: Any) -> Jet:
        return jointly(lambda z, s: function(z, dim, index, s, **kwargs), [x, source])

    return apply


rules_of("index_add scatter_add index_copy scatter", _indexed_rule)


def _dropout_rule(function: Callable[..., Any]) -> Callable[..., Any]:
    def apply(input: Jet, p: float = 0.5, training: bool = True, inplace: bool = False, **kwargs: Any) -> Jet:
        if not training or p == 0.0:
            return input
        if inplace:
            return input.become(apply(input, p))
        mask = function(torch.ones_like(input.value), p, training)  # one mask of a sample, for all its rows
        return linear(input, lambda z: z * mask, lifted=lambda r: r * mask)

    return apply


rules_of("dropout dropout1d dropout2d dropout3d", _dropout_rule)
