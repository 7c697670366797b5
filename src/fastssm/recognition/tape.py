"""Record what a forward does: the torch functions that it calls on a few rows, and where their operands come from."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


def words(text: str) -> frozenset[str]:
    """Return the words of a text."""
    return frozenset(text.split())


_PLAIN = (Tensor, nn.Parameter)
_BAKED: tuple[type, ...] = (
    bool,
    int,
    float,
    complex,
    str,
    type(None),
    type(...),
    torch.dtype,
    torch.device,
    torch.layout,
)
_BAKED += (torch.memory_format,)
_METADATA = words(
    "shape dtype device ndim layout requires_grad is_cuda is_cpu is_leaf names itemsize nbytes is_sparse "
    "is_meta is_quantized is_nested is_mps is_xpu size dim numel ndimension nelement stride is_contiguous "
    "is_floating_point is_complex element_size get_device __len__ __hash__ is_inference is_same_size "
    "is_signed type is_tensor "
)
_READS = words(
    "item tolist numpy __bool__ __float__ __int__ __index__ __array__ __complex__ __contains__ equal "
    "allclose is_nonzero __format__ __repr__ __dlpack__ data_ptr "
)
_BATCH_SIZED = words("zeros_like ones_like full_like empty_like new_zeros new_ones new_full new_empty ")
_BATCH_SIZED |= {"rand_like", "randn_like", "randint_like", "new_tensor"}
_SWITCHES = frozenset({"_set_grad_enabled"})

CUT = (
    "{name} gives a result that does not depend on x through autograd: something cuts the graph, such as "
    "torch.no_grad(), .detach() or .data; remove it"
)
READS = (
    "it reads a number out of a tensor ({name}), so that its result may depend on data in ways that are not recorded "
    "(data-dependent control flow); compute with tensors instead"
)
UNKNOWN = (
    "{name} takes a tensor that no recorded function made: the result of a custom autograd.Function, of NumPy, of a "
    "scripted or compiled function, or a tensor kept in a list or a global; register it as a buffer, or use torch "
    "functions"
)
WRITES = "{name} changes a parameter, a buffer or a conditioning argument in place; compute a new tensor instead"
STALE = "{name} takes a tensor that was changed in place through a view of it; compute a new tensor instead"
NO_GRAD = (
    "{name} runs with gradients turned off, by torch.no_grad() or in a custom autograd.Function; remove that, or use "
    ".detach()"
)
DROPOUT = "dropout is active in train mode; call model.eval() or remove it"
COUPLES = "batch normalisation in train mode mixes the samples of a batch; call model.eval()"
OPERAND = "{name} takes a {kind}, which is neither a tensor nor a number; keep it as a buffer"
SUBCLASS = "{name} takes a {kind}, not a plain tensor"


class Stop(Exception):
    """Ends a recording, with the reason."""


class Ref(NamedTuple):
    """An operand: the result of a node."""

    number: int


@dataclass(eq=False)
class Node:
    """One value of a recording.

    Attributes:
        function: the torch function that made it; None for what enters.
        args: its arguments, with `Ref` in the place of tensors.
        kwargs: its keyword arguments, in the same way.
        value: the tensor, or the tuple of tensors.
        origin: of what enters: `("x",)`, `("cond", index)` or `("attribute", module, name)`.
        depends: whether it depends on x.
        pure: whether it depends on nothing that enters.
        where: the innermost module whose forward called the function, and its class.
    """

    function: Callable[..., Any] | None
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    value: Any = None
    origin: tuple[Any, ...] = ()
    depends: bool = False
    pure: bool = False
    where: str = ""

    @property
    def name(self) -> str:
        """What the function is called."""
        return name_of(self.function)


def name_of(function: Any) -> str:
    """Return the name of a torch function, that of a property for its getter."""
    name = getattr(function, "__name__", str(function))
    return getattr(function.__self__, "__name__", name) if name == "__get__" else name


def tensors_in(value: Any) -> list[Tensor]:
    """Return the tensors of nested lists, tuples and dictionaries."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, slice):
        value = [value.start, value.stop, value.step]
    return [t for part in value for t in tensors_in(part)] if isinstance(value, (list, tuple)) else []


class Tape(TorchFunctionMode):
    """Records, while it is active, every torch function and its operands.

    Attributes:
        nodes: what entered and what was computed, in order.
    """

    def __init__(self, modules: Sequence[nn.Module], names: Sequence[str], parametrized: dict[int, tuple[int, str]]):
        super().__init__()
        self.nodes: list[Node] = []
        self.modules = modules
        self.names = {id(module): name for module, name in zip(modules, names, strict=True)}
        self.index: dict[int, tuple[int, int]] = {}  # of a tensor: its node, and its version there
        self.attributes = _attributes(modules)
        self.attributes.update(parametrized)

    def enter(self, value: Tensor, *origin: Any) -> None:
        """Add a tensor that enters: x, a conditioning argument, an attribute."""
        self._append(Node(None, value=value, origin=origin, depends=origin[0] == "x"))

    def _append(self, node: Node) -> int:
        self.nodes.append(node)
        if isinstance(node.value, Tensor):
            self.index[id(node.value)] = len(self.nodes) - 1, version(node.value)
        return len(self.nodes) - 1

    def at(self, tensor: Tensor) -> int | None:
        """Return the node of a tensor."""
        found = self.index.get(id(tensor))
        return None if found is None else found[0]

    def __torch_function__(self, function: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function, and record it."""
        kwargs = dict(kwargs or {})
        name = name_of(function)
        if name in _METADATA or name in _SWITCHES:
            result = function(*args, **kwargs)
            if not isinstance(result, Tensor):
                return result
        where = self._where()
        try:
            return self._record(function, name, args, kwargs, where)
        except Stop as stop:
            reason = str(stop)
            raise Stop(f"{where}: {reason}" if where else reason) from None

    def _record(self, function: Any, name: str, args: Any, kwargs: Any, where: str) -> Any:
        given = (self._template(args, name), self._template(kwargs, name))
        operands = tensors_in((args, kwargs))
        nodes = [self.nodes[self.index[id(t)][0]] for t in operands]
        self._object(function, name, args, kwargs, nodes)
        before = [version(t) for t in operands]
        result = function(*_at_rest(name, args, kwargs), **kwargs)
        result = result.clone() if "dropout" in name else result  # a node of its own
        node = Node(function, *given, result, (), any(n.depends for n in nodes), all(n.pure for n in nodes), where)
        changed = [t for t, was in zip(operands, before, strict=True) if version(t) != was]
        if name == "__setitem__" and changed:
            raise Stop(f"{name} writes into a part of a tensor; compute a new one, for example by torch.cat")
        if any(t is not result for t in changed):
            raise Stop(f"{name} changes an operand in place; compute a new tensor instead")
        if isinstance(result, Tensor):
            if any(t is result for t in operands) and not changed:
                return result
            self._check(node, result)
            self._append(node)
        elif isinstance(result, (tuple, list)) and result and all(isinstance(t, Tensor) for t in result):
            index = self._append(node)
            for i, part in enumerate(result):
                self._check(node, part)
                self._append(Node(_item, (Ref(index), i), {}, part, (), node.depends, node.pure, where))
        elif result is not None and not node.pure:
            raise Stop(READS.format(name=name))
        return result

    def _object(self, function: Any, name: str, args: Any, kwargs: Any, nodes: list[Node]) -> None:
        """Refuse a function before it does what cannot be recorded."""
        if name in _READS and not all(node.pure for node in nodes):
            raise Stop(READS.format(name=name))
        if not torch.is_grad_enabled() and nodes:
            raise Stop(NO_GRAD.format(name=name))
        if name in _BATCH_SIZED and nodes and nodes[0].depends:
            raise Stop(f"{name} makes a tensor of the batch's size; use a number, a parameter or a buffer instead")
        if name == "batch_norm" and (kwargs.get("training", False) or True in args[5:6]):
            raise Stop(COUPLES)
        inplace = (name.endswith("_") and not name.endswith("__")) or name.startswith("__i") or "out" in kwargs
        inplace = inplace or kwargs.get("inplace") is True or name == "__setitem__"
        first = nodes[0] if nodes else None
        if inplace and first is not None and first.origin and not first.depends and name not in ("__init__",):
            raise Stop(WRITES.format(name=name))

    def _check(self, node: Node, result: Tensor) -> None:
        if type(result) not in _PLAIN:
            raise Stop(SUBCLASS.format(name=node.name, kind=type(result).__name__))
        if node.depends and not result.requires_grad and result.is_floating_point():
            raise Stop(CUT.format(name=node.name))

    def _template(self, value: Any, name: str) -> Any:
        """Return arguments with a `Ref` in the place of every tensor."""
        if isinstance(value, Tensor):
            return self._reference(value, name)
        if isinstance(value, (tuple, list)):
            parts = [self._template(part, name) for part in value]
            return parts if isinstance(value, list) else tuple(parts)
        if isinstance(value, dict):
            return {key: self._template(part, name) for key, part in value.items()}
        if isinstance(value, slice):
            return slice(*(self._template(part, name) for part in (value.start, value.stop, value.step)))
        if not isinstance(value, _BAKED):
            raise Stop(OPERAND.format(name=name, kind=type(value).__name__))
        return value

    def _reference(self, tensor: Tensor, name: str) -> Ref:
        if id(tensor) not in self.index:
            if id(tensor) not in self.attributes:
                raise Stop(UNKNOWN.format(name=name))
            if type(tensor) not in _PLAIN:
                raise Stop(SUBCLASS.format(name=name, kind=type(tensor).__name__))
            self.enter(tensor, "attribute", *self.attributes[id(tensor)])
        index, was = self.index[id(tensor)]
        if version(tensor) != was:
            raise Stop(STALE.format(name=name))
        return Ref(index)

    def _where(self) -> str:
        """Return the path and the class of the innermost module whose method is running."""
        frame: types.FrameType | None = sys._getframe(2)
        while frame is not None:
            code = frame.f_code
            first = frame.f_locals.get(code.co_varnames[0]) if code.co_argcount else None
            if isinstance(first, nn.Module) and id(first) in self.names:
                path = self.names[id(first)]
                return f"{path} ({type(first).__name__})" if path else type(first).__name__
            frame = frame.f_back
        return ""


def _at_rest(name: str, args: Any, kwargs: Any) -> Any:
    """Return the arguments of a function, so that dropout draws nothing: what is recorded says that it is active."""
    if "dropout" not in name:
        return args
    if len(args) > 2:
        return (*args[:2], False, *args[3:])
    kwargs["training"] = False
    return args


def _item(values: Sequence[Tensor], index: int) -> Tensor:
    return values[index]


ITEM = _item


def version(tensor: Tensor) -> int:
    """Return how often a tensor was changed in place."""
    return 0 if tensor.is_inference() else tensor._version


def _attributes(modules: Sequence[nn.Module]) -> dict[int, tuple[int, str]]:
    """Return for every tensor that is an attribute the first module that has it, and its name there."""
    found: dict[int, tuple[int, str]] = {}
    for index, module in enumerate(modules):
        for own in (module._parameters, module._buffers, module.__dict__):
            for name, value in own.items():
                if isinstance(value, Tensor):
                    found.setdefault(id(value), (index, name))
    return found
