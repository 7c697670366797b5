"""Marks for torch.compile: which functions it may take for constants."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

F = TypeVar("F", bound=Callable[..., object])


def constant_when_compiled(function: F) -> F:
    """Let compiled code take a function's first result for ever, as is usual there of hooks, and spare it the guards.

    `torch.compiler.assume_constant_result` does this too, but imports Dynamo, which takes a second.
    """
    function.__dict__["_dynamo_marked_constant"] = True
    return function


def constant_of_a_module(function: F) -> F:
    """Do the same for a function of a module, where torch.compile can hand it one: since torch 2.13."""
    return constant_when_compiled(function) if torch.__version__ >= (2, 13) else function  # type: ignore[operator]
