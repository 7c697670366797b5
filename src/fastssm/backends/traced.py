"""Whether torch.compile traces a model on jets, and whether what it traced gives the same numbers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from fastssm.jets import Jet, Tape
from fastssm.jets.draws import restore, state_of
from fastssm.jets.jet import Seen

FORMS = "write abs(x) as x.abs(), pow(x, p) as x ** p, a, b = x as a, b = x.unbind(0), and torch.relu_(x) as x.relu_()"
UNSEEN = f"torch.compile passes by a rule of jets in the model's forward: {FORMS}"
UNTRACED = "torch.compile cannot trace the model on jets: "


def objections_of_dynamo(call: Callable[..., Any], x: Tensor, cond: Sequence[Tensor], curved: bool) -> list[str]:
    """Return why torch.compile cannot run a model on jets: it cannot trace it, or the trace gives other numbers.

    Args:
        call: the model as a function of x and its conditioning arguments.
        x: data.
        cond: conditioning arguments.
        curved: whether it is an energy.
    """

    def run(x: Tensor, *cond: Tensor) -> tuple[Tensor, ...] | None:
        tape = Tape(1, curved)
        with Seen():
            output = call(tape.jet(x, torch.ones_like(x)[None]), *cond)
        if not isinstance(output, Jet):
            return None
        curvature = tape.curvature(None, output) if curved else None
        return output.value, output.tangents, output.value if curvature is None else curvature

    state = state_of(x)
    expected = run(x, *cond)
    restore(x, state)
    try:
        compiled: Any = torch.compile(_fresh(run), fullgraph=True, backend="eager", dynamic=False)
        found = compiled(x, *cond)
    except Exception as error:
        return [f"{UNTRACED}{_first_lines(str(error))}; if the forward calls such a function, {FORMS}"]
    if expected is None or found is None:
        return [UNSEEN]
    same = [torch.allclose(a, b, equal_nan=True) for a, b in zip(found, expected, strict=True)]
    return [] if all(same) else [UNSEEN]


def _fresh(function: Any) -> Any:
    """Return a function whose code is its own: Dynamo counts the compilations of a code."""
    code = function.__code__.replace()
    return FunctionType(code, function.__globals__, function.__name__, None, function.__closure__)


def _first_lines(message: str) -> str:
    """Return what Dynamo says of an error, and the line of the user's code."""
    said, _, code = message.partition("from user code:")
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    context = [line for line in lines if line.startswith("Developer debug context:")]
    where = [line.strip() for line in code.splitlines() if line.strip() and "^" not in line]
    at = [a + ": " + b for a, b in itertools.pairwise(where) if a.startswith("File ")]
    return "; ".join([*lines[:1], *context, *at[-1:]])
