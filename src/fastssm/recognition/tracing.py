"""Recognise a module by what its forward does: record it twice, fold it into layers, and compare the results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import ref

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from fastssm.activations import IDENTITY
from fastssm.nn import module_class
from fastssm.options import Model
from fastssm.recognition.matching import objection_to, wrapper_of
from fastssm.recognition.network import Layer, LayerSpec, Network, Refusal, parametrized
from fastssm.recognition.program import Builder, connected, kept
from fastssm.recognition.recording import Recording, batches_for, record
from fastssm.recognition.source import Program, attribute_of, program
from fastssm.recognition.tape import COUPLES, DROPOUT, Ref, Stop

if TYPE_CHECKING:
    from fastssm.recognition.folding import Folder
    from fastssm.recognition.forms import Form, Point

_PLAIN = (Tensor, nn.Parameter)
GLOBAL_HOOK = "a global module hook is registered, and the fused path would not call it"
UNDIFFERENTIABLE = "autograd cannot differentiate its forward: {text}"
UNLIKE = (
    "the layers that were read out of its forward give another {what} than the model itself, by {error:.1e} of its "
    "size; rounding does not explain that"
)


_Registers = tuple[Ref, Ref | None, Ref | None, Ref | None]


class _Values(NamedTuple):
    weight: Tensor
    bias: Tensor | None
    scale: Tensor | None
    shift: Tensor | None


def first_line(error: Exception) -> str:
    """Return the first line of an error's text."""
    return str(error).strip().partition("\n")[0]


class Attribute(NamedTuple):
    """A tensor that is read at each call: where it is, and what it was when it was recorded."""

    module: int
    name: str
    shape: torch.Size
    dtype: torch.dtype
    device: torch.device


@dataclass(frozen=True, kw_only=True)
class Traced(Network):
    """A network that was recognised by what its forward does.

    Attributes:
        coefficients: the program that computes the coefficients of the layers.
        widths: the sizes of data and layers.
        output: the shape of the output for one sample.
        attributes: the tensors that the program reads.
        owners: the modules that have them.
        paths: where those modules are in the model.
    """

    coefficients: Program
    widths: tuple[int, ...]
    output: tuple[int, ...]
    attributes: tuple[Attribute, ...]
    owners: tuple[ref[nn.Module], ...]
    paths: tuple[tuple[str, ...], ...]

    @property
    def in_features(self) -> int:
        """Number of data coordinates."""
        return self.widths[0]

    @property
    def out_features(self) -> int:
        """Width of the output."""
        return self.widths[-1] if self.component is None else 1

    def _sizes(self) -> list[int]:
        return list(self.widths[1:])

    def read(self, cond: tuple[Tensor | None, ...], model: Model | None = None) -> tuple[list[Layer], Tensor | None]:
        """Return the layers as tensors; there are no conditioning columns, which became shifts."""
        if torch.compiler.is_compiling():
            assert isinstance(model, nn.Module)
            modules = [at(model, path) for path in self.paths]
        else:
            modules = [owner() for owner in self.owners]  # type: ignore[misc]
        found = self.coefficients(modules, cond)
        layers = [
            Layer(*each, spec.activation, spec.constants, spec.skip)
            for spec, each in zip(self.specs, found, strict=True)
        ]
        return self._wanted(layers), None

    def holds(self) -> bool:
        """Return whether the tensors are what was recorded: there, and of the same shape, dtype and device."""
        for module, name, shape, dtype, device in self.attributes:
            own = self.owners[module]()
            if own is None:
                return False
            t: Tensor | None = own._parameters.get(name)
            if t is None:
                if "parametrizations" in own._modules:
                    continue
                t = own._buffers.get(name)
                t = own.__dict__.get(name) if t is None else t
                if not isinstance(t, Tensor):
                    return False
            if t.shape != shape or t.dtype is not dtype or t.device != device:
                return False
        return True

    def only(self, component: int) -> Network | Refusal:
        """Return the network of one of the outputs."""
        found = super().only(component)
        return replace(found, output=(1,)) if isinstance(found, Traced) else found


def at(model: nn.Module, path: Sequence[str]) -> nn.Module:
    """Return the module at a path."""
    if type(model).__name__ == "OptimizedModule":
        model = model._modules["_orig_mod"]  # type: ignore[assignment]
    for name in path:
        model = model._modules[name]  # type: ignore[assignment]
    return model


def objections_to(model: nn.Module) -> list[str]:
    """Return why no forward of a model and its children can be recorded."""
    return _objections(dict(own_modules(model)))


def trace(
    model: nn.Module, x: Tensor, cond: Sequence[Tensor | None], keywords: tuple[str, ...] = ()
) -> Traced | Refusal:
    """Recognise a module by recording its forward on rows of `x`, or return the reasons why it is no network."""
    found = dict(own_modules(model))
    modules, paths = list(found), list(found.values())
    names = [".".join(path) for path in paths]
    recordings: list[Recording] = []
    try:
        for batch in batches_for(model, x, cond):
            try:
                recordings.append(record(model, modules, names, x, cond, keywords, batch))
            except Stop:
                raise
            except Exception as error:
                raise Stop(f"its forward raised {type(error).__name__}: {first_line(error)}") from error
        return _network(model, recordings, modules, paths)
    except Stop as stop:
        return Refusal(stop.args)


def own_modules(model: nn.Module, path: tuple[str, ...] = ()) -> list[tuple[nn.Module, tuple[str, ...]]]:
    """Return every module with its path, except the parametrizations, which are evaluated as they are."""
    found: dict[nn.Module, tuple[str, ...]] = {model: path}
    for name, child in model._modules.items():
        if child is not None and name != "parametrizations":
            for module, inner in own_modules(child, (*path, name)):
                found.setdefault(module, inner)
    return list(found.items())


def _objections(modules: dict[nn.Module, tuple[str, ...]]) -> list[str]:
    """Return why no forward of these modules can be recorded."""
    reasons = [GLOBAL_HOOK] if _has_any_global_hook() else []  # type: ignore[no-untyped-call]
    for module, path in modules.items():
        kind = type(module).__name__
        where = f"{'.'.join(path)} ({kind})" if path else kind
        objection = objection_to(module)
        if wrapper_of(module):
            objection = "it is a data-parallel wrapper"
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and (module.training or module.running_mean is None):
            objection = COUPLES
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.training and module.p > 0:
            objection = DROPOUT
        if isinstance(module, torch.jit.ScriptModule):
            objection = "it is scripted; use the module that it was made from"
        for parameter in module._parameters.values():
            if parameter is not None and type(parameter) not in _PLAIN:
                objection = f"its weights are {type(parameter).__name__}, not plain tensors"
        if objection:
            reasons.append(f"{where}: {objection}")
    return reasons


def _network(
    model: nn.Module, recordings: list[Recording], modules: list[nn.Module], paths: list[tuple[str, ...]]
) -> Traced:
    """Fold two recordings into layers, check them, and write the program of their coefficients."""
    first, second = recordings
    _check_alike(first, second)
    folder, form = _folded(first, second)
    points, layers = _layers(folder, form)
    builder = folder.builder
    values = [_Values(*(None if r is None else builder.value(r) for r in registers)) for registers in layers]  # type: ignore[arg-type]
    _check_equal(first, points, values, form.tail)
    _connect_unused(model, builder, layers, modules, paths)
    steps, numbers = kept(builder.steps, _wanted(layers))
    owners = sorted({s.attribute[0] for s in steps if s.attribute is not None})
    place = {old: new for new, old in enumerate(owners)}
    steps = tuple(
        s if s.attribute is None else s._replace(attribute=(place[s.attribute[0]], s.attribute[1])) for s in steps
    )
    return Traced(
        specs=tuple(LayerSpec(None, point.activation, point.constants, point.skip) for point in points),
        linears=(),
        flattens=True,
        coefficients=program(steps, [[None if r is None else numbers[r.number] for r in rs] for rs in layers]),
        widths=(first.tape.nodes[0].value[0].numel(), *(point.size for point in points)),
        output=form.tail,
        attributes=tuple(
            Attribute(*where, t.shape, t.dtype, t.device)
            for old, new in numbers.items()
            if (where := steps[new.number].attribute) is not None and (t := builder.value(Ref(old))) is not None
        ),
        owners=tuple(ref(modules[i]) for i in owners),
        paths=tuple(paths[i] for i in owners),
    )


def _wanted(layers: list[_Registers]) -> list[Ref]:
    return [part for layer in layers for part in layer if part is not None]


def _connect_unused(
    model: nn.Module,
    builder: Builder,
    layers: list[_Registers],
    modules: list[nn.Module],
    paths: list[tuple[str, ...]],
) -> None:
    """Give parameters that no layer uses a gradient of zero, as every engine does, by adding nothing of them."""
    used: set[int] = set()
    for step in kept(builder.steps, _wanted(layers))[0]:
        if step.attribute is not None:
            module, name = modules[step.attribute[0]], step.attribute[1]
            if parametrized(module) and name in module.parametrizations:  # type: ignore[operator]
                used |= {id(p) for p in module.parametrizations[name].parameters()}  # type: ignore[index, union-attr]
            else:
                used.add(id(attribute_of(module, name)))
    unused: list[Ref] = []
    for path, module in model.named_modules():
        for name, p in module._parameters.items():
            if p is not None and id(p) not in used:
                used.add(id(p))
                if module not in modules:
                    modules.append(module)
                    paths.append(tuple(path.split(".")))
                unused.append(builder.attribute(modules.index(module), name, p))
    if unused:
        weight, bias, scale, shift = layers[-1]
        if bias is None:
            weight = builder.emit(connected, weight, *unused)
        else:
            bias = builder.emit(connected, bias, *unused)
        layers[-1] = (weight, bias, scale, shift)


def _folded(first: Recording, second: Recording) -> tuple[Folder, Form]:
    from fastssm.recognition.folding import Folder  # the rules, which take time to import

    try:
        folder = Folder(first, second)
        return folder, folder.output()
    except Stop as stop:
        folder = Folder(first, second, close_shared=True)
        try:
            return folder, folder.output()
        except Stop:
            raise stop from None


def _check_alike(first: Recording, second: Recording) -> None:
    """Refuse a forward that does something else for another batch size."""
    one, two = first.tape.nodes, second.tape.nodes
    same = len(one) == len(two) and first.output == second.output
    same = same and all(
        a.name == b.name and a.origin == b.origin and a.depends == b.depends for a, b in zip(one, two, strict=True)
    )
    if not same:
        raise Stop("its forward calls other functions for another batch size")


def _layers(folder: Folder, form: Form) -> tuple[list[Point], list[_Registers]]:
    """Return the layers from the data to the output, and their coefficients."""
    points: list[Point] = []
    registers: list[_Registers] = []
    point = folder.algebra.close(form)
    while point.form is not None:
        inner = point.form
        points.insert(0, point)
        registers.insert(0, (folder.algebra.dense(inner), inner.bias, inner.scale, inner.shift))
        point = inner.point
    if not points:
        raise Stop("there is no affine map in it")
    return points, registers


def _check_equal(first: Recording, points: list[Point], layers: list[Any], tail: tuple[int, ...]) -> None:
    """Refuse layers that do not give the recorded output and its slope, to rounding."""
    nodes, entered = first.tape.nodes, first.point
    with torch.enable_grad(), torch.autocast(entered.device.type, enabled=False):
        x = entered.detach().flatten(1).requires_grad_()
        h = x
        for point, layer in zip(points, layers, strict=True):
            z = F.linear(h, layer.weight, layer.bias)
            z = z if layer.scale is None else z * layer.scale
            z = z if layer.shift is None else z + layer.shift
            row = point.activation
            settings = dict(row.matches) | dict(zip(row.parameters, point.constants, strict=True))
            out = z if row is IDENTITY else module_class(row.module)(**settings)(z)
            h = out + h if point.skip else out
        given: Tensor = nodes[first.output].value
        found = h.reshape(first.batch, *tail)
        _compare("output", found, given)
        weights = torch.cos(torch.arange(given.numel(), device=given.device, dtype=given.dtype)).reshape(given.shape)
        (slope,) = torch.autograd.grad((found * weights).sum(), x)
        try:
            (wanted,) = torch.autograd.grad((given * weights).sum(), entered, retain_graph=True)
        except RuntimeError as error:
            raise Stop(UNDIFFERENTIABLE.format(text=first_line(error))) from error
        _compare("slope", slope, wanted.flatten(1))


def _compare(what: str, found: Tensor, given: Tensor) -> None:
    """Compare two results; folding changes the order of sums, and may cancel some digits."""
    tolerance = 1e3 * torch.finfo(given.dtype).eps if given.dtype.itemsize > 2 else 0.1
    found, given = found.detach().double(), given.detach().double()
    finite = torch.isfinite(given)
    if not torch.equal(finite, torch.isfinite(found)):
        raise Stop(UNLIKE.format(what=what, error=float("inf")))
    found, given = found[finite], given[finite]
    size = float(given.abs().max()) if given.numel() else 0.0
    error = float((found - given).abs().max()) if given.numel() else 0.0
    if error > tolerance * max(size, 1e-30):
        raise Stop(UNLIKE.format(what=what, error=error / max(size, 1e-30)))
