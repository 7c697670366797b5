"""Losses as modules that own their network, made from the losses as functions."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Generic, get_type_hints

from torch import Tensor, nn
from typing_extensions import Unpack

from fastssm import checks
from fastssm.losses.reduction import LossTerms
from fastssm.options import Cond, DirectionTensors, LossTensors, NoiseTensors, entries

if sys.version_info >= (3, 13):  # older versions of typing_extensions cannot give a default there
    from typing import TypeVar
else:
    from typing_extensions import TypeVar

Out = TypeVar("Out", default=Tensor)
LossAndTerms = tuple[Tensor, LossTerms]

_RAISES = """
Raises:
    TypeError: for an unknown option, a missing one, a tensor that belongs to `forward`, or a model that is no module.
    ValueError: for a model that is itself a data-parallel wrapper.
"""


class BatchTensors(LossTensors, DirectionTensors, NoiseTensors, total=False):
    """The tensors that come with a batch, of all losses together.

    Attributes:
        level: noise level of each sample.
        t: time of each sample.
        beta: tempering level of each sample.
        base: samples of the other density.
    """

    level: Tensor | None
    t: Tensor | None
    beta: Tensor | None
    base: Tensor


class ScoreLoss(nn.Module, Generic[Out]):
    """A loss that owns the network: `Twin(net, **options)(x, **tensors)` is `loss(net, x, **tensors, **options)`.

    Data-parallel wrappers average the gradients of what they wrap when its `forward` has run, so wrap this, not the
    network: `DDP(SlicedScoreLoss(net))`.

    A twin is a subclass: `class MyLoss(ScoreLoss[Out], loss=my_loss, tensors=MyTensors)`. It gets the signatures of its
    constructor and of `forward`, the sections Args and Raises of its docstring, and its checks from the function. Type
    checkers do not see that; for them it declares `__init__`.

    Args:
        model: the network; kept as the attribute `model`.
        options: keyword arguments of the function, except those that `forward` takes.
    """

    loss: ClassVar[Callable[..., Any]]
    tensor_names: ClassVar[tuple[str, ...]]

    def __init_subclass__(
        cls, *, loss: Callable[..., Any] | None = None, tensors: Any = LossTensors, **keywords: Any
    ) -> None:
        """Give a twin what it has from its function: nothing, if the class is a subclass of a twin.

        Args:
            loss: the function, called as `loss(model, x, **tensors, **options)`.
            tensors: the TypedDict of the tensors that come with a batch, in their order in `forward`, where those
                without a default come first.
            keywords: those of further bases.
        """
        super().__init_subclass__(**keywords)
        if loss is None:
            return
        parameters = inspect.signature(loss).parameters
        needed = [name for name in get_type_hints(tensors) if parameters[name].default is inspect.Parameter.empty]
        cls.loss, cls.tensor_names = staticmethod(loss), tuple(dict.fromkeys([*needed, *get_type_hints(tensors)]))
        nets = [p for p in parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD and p.name != "x"]
        options = [parameters[name] for name in cls.option_names()]
        _sign(vars(cls)["__init__"], [*nets, *options])
        _sign(cls._own_forward(), [parameters["x"], *(_positional(parameters[n]) for n in cls.tensor_names)])
        cls.__doc__ = _documented(cls.__doc__, loss, [p.name for p in nets], cls.option_names())

    def __init__(self, model: nn.Module, **options: Any) -> None:
        super().__init__()
        self._check_options(options)
        checks.check_module(model)
        checks.check_not_wrapped([model])
        self.model = model
        self.options = options

    @classmethod
    def _own_forward(cls) -> Callable[..., Any]:
        """Give the class a `forward` of its own, to carry its signature."""

        def forward(self: ScoreLoss[Out], x: Tensor, *tensors: Cond, **named: Any) -> Out:
            """Return the loss of a batch; with `return_terms` the loss and its terms."""
            return self.evaluate(x, **self._named(tensors, named))

        forward.__qualname__ = f"{cls.__qualname__}.forward"
        cls.forward = forward
        return forward

    def _named(self, tensors: tuple[Cond, ...], named: dict[str, Any]) -> dict[str, Any]:
        """Return the tensors of a batch by name, and raise TypeError for others than those of the loss."""
        names = self.tensor_names
        if not tensors and all(name in names for name in named):
            return named
        by_place = dict(zip(names, tensors, strict=False))
        wrong = [name for name in named if name not in names or name in by_place]
        if wrong or len(tensors) > len(names):
            came = f"{len(tensors)} of them" if len(tensors) > len(names) else ", ".join(wrong)
            raise TypeError(f"{type(self).__name__} takes x and the tensors {', '.join(names)}, each once, got {came}.")
        return by_place | named

    @classmethod
    def option_names(cls) -> list[str]:
        """Return the keyword arguments that the constructor takes."""
        parameters = inspect.signature(cls.loss).parameters.values()
        return [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in cls.tensor_names]

    def _check_options(self, options: dict[str, Any]) -> None:
        """Raise TypeError for options that the function does not have, and for those that it misses."""
        name, allowed = type(self).__name__, self.option_names()
        unknown = sorted(set(options) - set(allowed))
        if unknown:
            raise TypeError(
                f"{name} takes {', '.join(allowed)}, got {', '.join(unknown)}; {', '.join(self.tensor_names)} are "
                "arguments of its forward."
            )
        parameters = inspect.signature(type(self).loss).parameters
        missing = [n for n in allowed if parameters[n].default is inspect.Parameter.empty and n not in options]
        if missing:
            raise TypeError(f"{name} needs {', '.join(missing)}.")

    def evaluate(self, x: Tensor, **tensors: Any) -> Out:
        """Call the function: what `forward` does, once the tensors have their names."""
        out: Out = type(self).loss(self.model, x, **tensors, **self.options)
        return out

    def extra_repr(self) -> str:
        """Show the options."""
        return ", ".join(f"{key}={value!r}" for key, value in self.options.items())

    if TYPE_CHECKING:

        def __call__(self, x: Tensor, *tensors: Cond, **named: Unpack[BatchTensors]) -> Out:
            """Return the loss of a batch."""


def _positional(parameter: inspect.Parameter) -> inspect.Parameter:
    return parameter.replace(kind=inspect.Parameter.POSITIONAL_OR_KEYWORD)


def _sign(method: Any, parameters: list[inspect.Parameter]) -> None:
    """Set the signature of a method: `self` and these parameters."""
    this = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    method.__signature__ = inspect.Signature([this, *parameters])


def _documented(docstring: str | None, loss: Callable[..., Any], nets: list[str], options: list[str]) -> str | None:
    """Return a twin's docstring with the sections Args and Raises before its example."""
    about = entries(loss.__doc__ or "")
    if docstring is None or not about:  # python -OO
        return docstring
    head, mark, rest = inspect.cleandoc(docstring).partition("\nExample:")
    owned = [f"    {net}: the network, as for `{loss.__name__}`; the module owns it.\n" for net in nets]
    return f"{head}\nArgs:\n{''.join(owned)}{''.join(about[name] for name in options)}{_RAISES}{mark}{rest}"
