"""Programs of coefficients as Python functions: fast to call, and plain code to torch.compile."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from fastssm.recognition.program import Step
from fastssm.recognition.tape import Ref, name_of

Coefficients = tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]
Program = Callable[[Sequence[nn.Module], Sequence[Tensor | None]], list[Coefficients]]


def attribute_of(module: nn.Module, name: str) -> Any:
    """Return a tensor of a module; `getattr` alone reads a parametrized one, and takes longer."""
    if name in module._parameters:
        return module._parameters[name]
    if name in module._buffers:
        return module._buffers[name]
    return getattr(module, name)


def program(steps: Sequence[Step], layers: Sequence[Sequence[Ref | None]]) -> Program:
    """Return the function that reads attributes and conditioning arguments, and returns the layers' coefficients."""
    space: dict[str, Any] = {"attribute_of": attribute_of}
    lines = [f"    v{index} = {_expression(step, index, space)}" for index, step in enumerate(steps)]
    result = ", ".join(f"({', '.join(_value(part, space) for part in layer)})" for layer in layers)
    made: Program = _made("coefficients(modules, cond)", [*lines, f"    return [{result}]"], space)
    return made


def constant(value: Any) -> Callable[[], Any]:
    """Return a function that returns a value made of numbers, strings and tuples."""
    made: Callable[[], Any] = _made("constant()", [f"    return {value!r}"], {})
    return made


def _made(head: str, lines: list[str], space: dict[str, Any]) -> Any:
    text = "\n".join([f"def {head}:", *lines])
    named = ", ".join(f"{name}: {value}" for name, value in space.items())
    exec(text, space)
    function = space[head.partition("(")[0]]
    function.__doc__ = f"{text}\n{named}"
    return function


def _expression(step: Step, index: int, space: dict[str, Any]) -> str:
    if step.attribute is not None:
        return f"attribute_of(modules[{step.attribute[0]}], {step.attribute[1]!r})"
    if step.cond is not None:
        return f"cond[{step.cond}]"
    function, name = step.function, name_of(step.function)
    args = [_value(part, space) for part in step.args]
    if getattr(function, "__name__", "") == "__get__":
        return f"{args[0]}.{name}"
    if name == "__getitem__":
        return f"{args[0]}[{args[1]}]"
    named = [f"{key}={_value(part, space)}" for key, part in step.kwargs.items()]
    if args and getattr(Tensor, name, None) is function:
        return f"{args[0]}.{name}({', '.join([*args[1:], *named])})"
    space[f"f{index}"] = function
    return f"f{index}({', '.join([*args, *named])})"


def _value(part: Any, space: dict[str, Any]) -> str:
    if type(part) is Ref:
        return f"v{part.number}"
    if type(part) is list:
        return f"[{', '.join(_value(p, space) for p in part)}]"
    if type(part) is slice:
        return f"slice({_value(part.start, space)}, {_value(part.stop, space)}, {_value(part.step, space)})"
    if isinstance(part, tuple):
        return f"({''.join(_value(p, space) + ', ' for p in part)})"
    if isinstance(part, float) and not math.isfinite(part):
        return f"float({str(part)!r})"
    if part is None or isinstance(part, (bool, int, float, str)):
        return repr(part)
    name = f"c{len(space)}"
    space[name] = part
    return name
