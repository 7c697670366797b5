"""Recognise a module as a `Network` of affine maps, activations and skips, or return the reasons why it is not one.

Recognition reads structure only; weights are read at each call (`fastssm.sweeps.read`), once, so that parametrizations
such as weight_norm are honoured and their power iterations advance exactly as under plain autograd.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook
from torch.nn.utils import parametrize
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from fastssm.activations import IDENTITY, TABLE, Activation
from fastssm.compiling import constant_of_a_module, constant_when_compiled
from fastssm.nn import MLP, module_class
from fastssm.options import Model
from fastssm.recognition.network import LayerSpec, Network, Refusal, parameters_of, parametrized

OTHER = (
    "this layer is not an affine map or a known activation by its class; pass data too, recognize(model, x), to have "
    "its forward recorded"
)
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")  # of a module
_PLAIN = (nn.Parameter, Tensor)
_WRAPPERS = ("DistributedDataParallel", "DataParallel", "FullyShardedDataParallel", "FSDPModule")


def _rows_by_class() -> dict[type[nn.Module], list[Activation]]:
    rows: dict[type[nn.Module], list[Activation]] = {}
    for row in TABLE:
        rows.setdefault(module_class(row.module), []).append(row)
    return rows


def _settings(rows: list[Activation]) -> tuple[str, ...]:
    """Name the attributes by which a module selects one of some rows, and the parameters that they take from it."""
    return tuple(dict.fromkeys(key for row in rows for key in (*row.parameters, *dict(row.matches))))


_ROWS = _rows_by_class()


def read(model: Model) -> tuple[Network | Refusal, list[nn.Module]]:
    """Recognise a module; also return every module that was read: see `attributes_of`."""
    if not isinstance(model, nn.Module):
        return Refusal((f"{type(model).__name__}: it is not a torch.nn.Module, whose layers could be read",)), []
    reader = _Reader()
    reader.read(model)
    return reader.result(), reader.looked_at


def attributes_of(module: nn.Module) -> tuple[str, ...]:
    """Return the attributes that recognition reads besides type, hooks, own forward, children and parameters."""
    return _READERS[_type(module)][1]


def inside(model: Model) -> Model:
    """Return the module that `torch.compile(model)` wraps."""
    return model._modules["_orig_mod"] if type(model).__name__ == "OptimizedModule" else model  # type: ignore[return-value, union-attr]


def wrapper_of(module: nn.Module) -> str | None:
    """Return the name of the data-parallel wrapper if the module is one, else None."""
    for base in type(module).__mro__:
        if base.__name__ in _WRAPPERS:
            return base.__name__
    return None


class _Reader:
    """Walks a module tree once, collecting layers and reasons."""

    def __init__(self) -> None:
        self.specs: list[LayerSpec] = []
        self.reasons: list[str] = []
        self.pending: nn.Linear | None = None
        self.seen: set[int] = set()
        self.path: list[tuple[str | int, ...]] = []
        self.looked_at: list[nn.Module] = []
        self.flattens = False
        self.conditioned: MLP | None = None
        if _has_any_global_hook():  # type: ignore[no-untyped-call]
            self.reasons.append("a global module hook is registered, and the fused path would not call it")

    def result(self) -> Network | Refusal:
        if self.pending is not None:
            self.close(IDENTITY, ())
        if not self.reasons and not self.seen:
            self.reasons.append("there is no nn.Linear in it")
        if self.reasons:
            return Refusal(tuple(self.reasons))
        linears = tuple([spec.linear for spec in self.specs if spec.linear is not None])
        return Network(tuple(self.specs), linears, self.flattens, self.conditioned)

    def close(self, activation: Activation, constants: tuple[float, ...], skip: bool = False) -> None:
        self.specs.append(LayerSpec(self.pending, activation, constants, skip))
        self.pending = None

    def read(self, module: nn.Module, *name: str | int) -> None:
        self.path.append(name)
        self.look(module)
        read_one, attributes = _READERS.get(_type(module), _OTHER)
        read_one(self, module, **{key: getattr(module, key) for key in attributes})
        self.path.pop()

    def look(self, module: nn.Module, *name: str | int) -> None:
        self.looked_at.append(module)
        if patched(_type(module)):
            self.refuse(module, "the forward method of its class was replaced", *name)
        if objection := objection_to(module):
            self.refuse(module, objection, *name)

    def read_sequential(self, module: nn.Module) -> None:
        for key, child in module._modules.items():
            if child is not None:
                self.read(child, key)

    def read_linear(self, module: nn.Linear, in_features: int, out_features: int) -> None:
        if id(module) in self.seen:
            self.refuse(module, "the module is shared: it occurs more than once")
        self.seen.add(id(module))
        for parameter in parameters_of(module):
            if type(parameter) not in _PLAIN and is_traceable_wrapper_subclass(parameter):
                self.refuse(module, f"its weights are {type(parameter).__name__}, not plain tensors")
                break
        if self.pending is not None:
            self.close(IDENTITY, ())
        self.pending = module

    def read_activation(self, module: nn.Module, **settings: Any) -> None:
        for row in _ROWS[_type(module)]:
            if all(settings[key] == value for key, value in row.matches):
                self.close(row, tuple([float(settings[key]) for key in row.parameters]))
                return
        self.refuse(module, "no row of the activation table has these settings")

    def read_identity(self, module: nn.Module) -> None:
        """Skip a module that does nothing."""

    def read_flatten(self, module: nn.Flatten, start_dim: int, end_dim: int) -> None:
        if (start_dim, end_dim) != (1, -1):
            self.refuse(module, "only Flatten(start_dim=1, end_dim=-1) keeps one row per sample")
        self.flattens = self.flattens or not self.seen

    def read_dropout(self, module: nn.Dropout, training: bool, p: float) -> None:
        if training and p > 0:
            self.refuse(module, "dropout is active in train mode; call model.eval() or remove it")

    def read_prelu(self, module: nn.PReLU) -> None:
        self.refuse(
            module,
            "its slope is a parameter, and the engines differentiate only weights and biases; use nn.LeakyReLU(slope) "
            "if the slope need not be trained",
        )

    def read_other(self, module: nn.Module) -> None:
        self.refuse(module, OTHER)

    def read_mlp(self, model: MLP, cond_features: int, residual: bool) -> None:
        if len(self.path) > 1:
            self.read_other(model)
            return
        self.flattens, self.conditioned = True, model if cond_features else None
        parts: dict[str, Any] = model._modules
        hidden, activations = parts["hidden"], parts["activations"]
        self.look(hidden, "hidden")  # the embedding is called as a module, so its hooks run
        self.look(activations, "activations")
        pairs = zip(hidden._modules.values(), activations._modules.values(), strict=True)
        for index, (linear, activation) in enumerate(pairs):
            self.read(linear, "hidden", index)
            before = len(self.specs)
            self.read(activation, "activations", index)
            if len(self.specs) == before:
                self.close(IDENTITY, ())
            if residual and model.skips(index):
                self.specs[-1] = self.specs[-1]._replace(skip=True)
            if len(self.specs) != index + 1:
                self.refuse(activation, "it is not a single activation", "activations", index)
        self.read(parts["readout"], "readout")

    def refuse(self, module: nn.Module, reason: str, *name: str | int) -> None:
        where = ".".join(str(part) for step in (*self.path, name) for part in step)
        kind = _type(module).__name__
        self.reasons.append(f"{where} ({kind}): {reason}" if where else f"{kind}: {reason}")


_Rule = tuple[Callable[..., None], tuple[str, ...]]  # how a kind of module is read, and which of its attributes
_READERS: dict[type[nn.Module], _Rule] = {
    **{kind: (_Reader.read_activation, _settings(rows)) for kind, rows in _ROWS.items()},
    nn.Sequential: (_Reader.read_sequential, ()),
    nn.ModuleList: (_Reader.read_other, ()),
    nn.Linear: (_Reader.read_linear, ("in_features", "out_features")),
    nn.Identity: (_Reader.read_identity, ()),
    nn.Flatten: (_Reader.read_flatten, ("start_dim", "end_dim")),
    nn.Dropout: (_Reader.read_dropout, ("training", "p")),
    nn.PReLU: (_Reader.read_prelu, ()),
    MLP: (_Reader.read_mlp, ("cond_features", "residual")),
}
_OTHER: _Rule = (_Reader.read_other, ())


_FORWARDS = {kind: kind.forward for kind in _READERS}


@constant_when_compiled
def patched(kind: type[nn.Module]) -> bool:
    """Say whether the forward of a class that is recognised by its name is no longer what it was at import."""
    return kind in _FORWARDS and kind.forward is not _FORWARDS[kind]


def forwards_of(modules: Iterable[nn.Module]) -> list[tuple[Any, Any]]:
    """Return the classes of modules with the forwards that they must have."""
    return [(kind, _FORWARDS[kind]) for kind in {_type(module) for module in modules}]


@constant_of_a_module
def objection_to(module: nn.Module) -> str:
    """Return why calling a module does more than its class's forward; empty if it does not."""
    own = module.__dict__
    if any(map(own.__getitem__, HOOKS)):
        return "it has hooks, and the fused path would not call them"
    return "its forward method was replaced" if "forward" in own else ""


def _type(module: nn.Module) -> type:
    return parametrize.type_before_parametrizations(module) if parametrized(module) else type(module)
