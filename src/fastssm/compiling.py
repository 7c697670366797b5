"""Marks functions whose results torch.compile may treat as constants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

COMPILES: bool = torch.__version__ >= (2, 13)  # type: ignore[operator]  # whether a constant may be found from a module
F = TypeVar("F", bound=Callable[..., object])


def constant_when_compiled(function: F) -> F:
    """Let torch.compile treat a function's first result as a constant, as it does for hooks, without guards.

    `torch.compiler.assume_constant_result` does this too, but imports Dynamo, which takes a second.
    """
    function.__dict__["_dynamo_marked_constant"] = True
    return function


def constant_of_a_module(function: F) -> F:
    """Do the same for a function that takes a module, which torch.compile supports since torch 2.13."""
    return constant_when_compiled(function) if COMPILES else function


def traceable(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of torch, or the one that torch.compile can trace under a function mode in its place.

    `Tensor.unflatten` calls the method of its base class, which Dynamo does not trace there.
    """
    return torch.unflatten if getattr(function, "__name__", "") == "unflatten" else function


def exporting() -> bool:
    """Return whether `torch.export` records; before torch 2.13, Dynamo says so of torch.compile too."""
    return torch.compiler.is_exporting() and (COMPILES or not torch.compiler.is_dynamo_compiling())
