"""The options that public functions share: each is typed and documented here once, and read from here at run time."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar, cast, get_args, get_origin, get_type_hints

from torch import Generator, Tensor, nn
from typing_extensions import Required, TypedDict

Model = nn.Module | Callable[..., Tensor]
Cond = Tensor | tuple[Tensor | None, ...] | Mapping[str, Tensor | None] | None

NetworkKind = Literal["energy", "score"]
Kind = Literal["auto", "energy", "score"]
Projection = Literal["rademacher", "gaussian", "sphere", "hadamard", "basis"]
Reduction = Literal["mean", "sum", "none"]
Precision = Literal["full", "bf16", "tf32", "split"]
BackendName = Literal["reference", "jets", "torch", "cpu", "cuda", "auto"]
ControlVariate = Literal["optimal"]
Condition = Literal["sigma", "log_sigma", "level"]
What = Literal["objective", "terms", "each", "score", "denoising"]
Operator = Literal["divergence", "laplacian", "hvp_form", "jacobian_diag"]

NETWORK_KINDS: tuple[NetworkKind, ...] = get_args(NetworkKind)
KINDS: tuple[Kind, ...] = get_args(Kind)
REDUCTIONS: tuple[Reduction, ...] = get_args(Reduction)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
BACKEND_NAMES: tuple[BackendName, ...] = get_args(BackendName)
CONDITIONS: tuple[Condition, ...] = get_args(Condition)
WHATS: tuple[What, ...] = get_args(What)
OPERATORS: dict[Operator, tuple[What, Kind]] = {
    "divergence": ("terms", "score"),
    "laplacian": ("terms", "energy"),
    "hvp_form": ("each", "energy"),
    "jacobian_diag": ("each", "auto"),
}
"""What each operator needs, and the kind of model that it is of."""

DEFAULTS: dict[str, Any] = {
    "kind": "auto",
    "projection": "rademacher",
    "variance_reduced": True,
    "reduction": "mean",
    "backend": "auto",
    "precision": "full",
}
"""Defaults, unless a function has another; the default of every other option is None."""


class EngineOptions(TypedDict, total=False):
    """What computes the result.

    Attributes:
        backend: "auto", or "reference", "jets", "torch", "cpu", "cuda", which must then run.
        precision: "full", the accuracy of the data's dtype. "bf16" multiplies bfloat16 numbers and sums in float32,
            with gradients accurate to about 1e-2; "tf32" the same to about 1e-3, on a GPU only; "split" multiplies all
            float32 numbers on the tensor cores of a GPU, as accurately as "full", which does so where that is predicted
            to be faster. All but "full" need a compiled engine.
    """

    backend: BackendName
    precision: Precision


class ModelOptions(EngineOptions, total=False):
    """How a model is read, and what runs it.

    Attributes:
        kind: "energy", "score", or "auto" by the shape of the output (ambiguous for D = 1).
    """

    kind: Kind


class ReductionOptions(TypedDict, total=False):
    """How the losses of the samples become one.

    Attributes:
        reduction: "mean", "sum" or "none" (`[B]`).
    """

    reduction: Reduction


class RandomOptions(TypedDict, total=False):
    """The source of random numbers.

    Attributes:
        generator: source of randomness; torch's default generator if None.
    """

    generator: Generator | None


class DirectionOptions(RandomOptions, total=False):
    """Random directions.

    Attributes:
        n_projections: M, the number of directions per sample; 1 if None. Other packages call it n_particles, n_slices,
            num_random_vectors or n_cotangent_vectors.
        projection: "rademacher", "gaussian", "sphere" (radius `sqrt(D)`), "hadamard" or "basis".
    """

    n_projections: int | None
    projection: Projection


class LossOptions(ModelOptions, ReductionOptions, total=False):
    """The options of a loss without random numbers."""


class SlicedOptions(LossOptions, DirectionOptions, total=False):
    """The options of a loss along random directions.

    Attributes:
        variance_reduced: use `|s|^2` in place of `(v . s)^2`: less noise at the same cost.
    """

    variance_reduced: bool


class ModelTensors(TypedDict, total=False):
    """What a model takes besides data.

    Attributes:
        cond: further arguments of the model, never differentiated as data: a tensor or a tuple, for `model(x, *cond)`,
            or a dict, for `model(x, **cond)`. Entries have one row per sample, or one row for all samples; they may
            also be scalar tensors or None.
    """

    cond: Cond


class ModelArguments(ModelTensors, ModelOptions, total=False):
    """What every function of a model takes."""


class LossTensors(ModelTensors, total=False):
    """The tensors of a batch that every loss takes besides x.

    Attributes:
        weight: weight of each sample, `[B]`; "mean" still divides by B.
    """

    weight: Tensor | None


class DirectionTensors(TypedDict, total=False):
    """Your own directions.

    Attributes:
        v: directions `[M, B, ...]` or `[B, ...]` with `E[v v^T] = I`, instead of random ones.
    """

    v: Tensor | None


class DirectionArguments(DirectionTensors, DirectionOptions, total=False):
    """Directions, given or drawn."""


class NoiseTensors(TypedDict, total=False):
    """Your own noise.

    Attributes:
        noise: standard normal noise in the shape of x, instead of random noise.
    """

    noise: Tensor | None


class SlicedTensors(LossTensors, DirectionTensors, total=False):
    """The tensors of a batch that a sliced loss takes besides x."""


Function = TypeVar("Function", bound=Callable[..., Any])


def takes(arguments: Any, **defaults: object) -> Callable[[Function], Function]:
    """Make a function take the keyword arguments of a TypedDict, as if each were written in its signature.

    The function declares `**options: Unpack[arguments]` and gets all of them, with defaults filled in. What it raises
    for an unknown or a missing one is Python's TypeError. `inspect.signature` shows each with type and default, and the
    docstring's line `options:` becomes their descriptions, less those that the docstring itself describes.

    Args:
        arguments: the TypedDict; its docstring and those of its bases describe the keys.
        defaults: other defaults than those of `DEFAULTS`.
    """

    def decorate(function: Function) -> Function:
        own = inspect.signature(function, eval_str=True)
        added = parameters_of(arguments, defaults)
        named = [p for p in own.parameters.values() if p.kind is not p.VAR_KEYWORD]
        order = sorted([*added, *named], key=lambda p: p.kind)
        filled = {p.name: p.default for p in added if p.default is not p.empty}
        required = tuple(p.name for p in added if p.default is p.empty)
        known = frozenset(p.name for p in order)
        documented = described(function.__doc__, arguments)

        @functools.wraps(function)
        def taking(*args: Any, **given: Any) -> Any:
            for name in given:
                if name not in known:
                    raise TypeError(f"{function.__name__}() got an unexpected keyword argument {name!r}")
            for name in required:
                if name not in given:
                    raise TypeError(f"{function.__name__}() missing required keyword-only argument {name!r}")
            return function(*args, **{**filled, **given})

        both: tuple[Any, Any] = (function, taking)
        for shown in both:  # the documentation looks at what was wrapped
            shown.__signature__ = own.replace(parameters=order)
            shown.__doc__ = documented
        return cast("Function", taking)

    return decorate


def parameters_of(arguments: Any, defaults: dict[str, object]) -> list[inspect.Parameter]:
    """Return the keys of a TypedDict as keyword-only parameters, the required ones first."""
    found, hints = [], _hints(arguments)
    for name in keys_of(arguments):
        hint = hints[name]
        required = get_origin(hint) is Required
        default = inspect.Parameter.empty if required else defaults.get(name, DEFAULTS.get(name))
        annotation = get_args(hint)[0] if required else hint
        found.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation))
    return sorted(found, key=lambda parameter: parameter.default is not inspect.Parameter.empty)


@functools.cache
def keys_of(arguments: Any) -> tuple[str, ...]:
    """Return the keys of a TypedDict, its own before those of its bases."""
    bases = getattr(arguments, "__orig_bases__", ())
    inherited = [name for base in bases if base is not TypedDict for name in keys_of(base)]
    own = [name for name in _hints(arguments) if name not in inherited]
    return tuple(dict.fromkeys([*own, *inherited]))


@functools.cache
def _hints(arguments: Any) -> dict[str, Any]:
    return get_type_hints(arguments, include_extras=True)


def described(docstring: str | None, arguments: Any) -> str | None:
    """Return a docstring whose line `options:` is replaced by the descriptions of the keys of a TypedDict."""
    if docstring is None:  # python -OO
        return None
    docstring = inspect.cleandoc(docstring)
    place = _entry("options").search(docstring)
    assert place is not None, "the docstring has no line `options:`"
    written, about = set(entries(docstring)), descriptions(arguments)
    names = (parameter.name for parameter in parameters_of(arguments, {}))
    lines = (about[name] for name in names if name not in written)
    return docstring[: place.start()] + "".join(lines) + docstring[place.end() :]


@functools.cache
def descriptions(arguments: Any) -> dict[str, str]:
    """Return the lines that describe each key of a TypedDict, from its docstring or that of the nearest base."""
    found: dict[str, str] = {}
    for base in reversed(getattr(arguments, "__orig_bases__", ())):
        found |= descriptions(base) if base is not TypedDict else {}
    return found | entries(arguments.__doc__ or "")


def entries(docstring: str) -> dict[str, str]:
    """Return the entries of a docstring's section of arguments or attributes, each with its lines."""
    section = re.search(r"^(?:Args|Attributes):\n((?: {4}.*\n?)+)", inspect.cleandoc(docstring), re.MULTILINE)
    found = _entry(r"\w+").finditer(section.group(1)) if section else ()
    return {entry.group(1): entry.group(0).rstrip() + "\n" for entry in found}


def _entry(name: str) -> re.Pattern[str]:
    return re.compile(rf"^ {{4}}({name}):.*(?:\n {{8}}.*)*(?:\n|$)", re.MULTILINE)
