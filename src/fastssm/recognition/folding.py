"""Fold a recorded forward into layers, or say why it is no network of the engines."""

from __future__ import annotations

from typing import Any

import torch

from fastssm.recognition.forms import Form, Point
from fastssm.recognition.program import references
from fastssm.recognition.recording import Recording
from fastssm.recognition.rules import NO_RULE, Rules
from fastssm.recognition.tape import Stop


class Folder(Rules):
    """Carries affine forms through the x-dependent nodes of a recording.

    Args:
        first: a recording.
        second: another, for another batch size.
        close_shared: whether a value that is used more than once becomes a layer of its own, so that a skip can start
            there.
    """

    def __init__(self, first: Recording, second: Recording, close_shared: bool = False) -> None:
        super().__init__(first, second)
        self.close_shared = close_shared
        self.dtype = first.tape.nodes[0].value.dtype

    def output(self) -> Form:
        """Return the form of the output."""
        nodes, output = self.first.tape.nodes, self.first.output
        if not nodes[output].depends:
            raise Stop("its output does not depend on x")
        uses, stack = {output: 0}, [output]
        while stack:
            node = nodes[stack.pop()]
            for index in references((node.args, node.kwargs)):
                if nodes[index].depends and index:
                    stack += [] if index in uses else [index]
                    uses[index] = uses.get(index, 0) + 1
        reasons: list[str] = []
        unknown: set[int] = set()
        for index in sorted(uses):
            form = self.forms[0] if index == 0 else self.fold_or_go_on(index, reasons, unknown)
            if self.close_shared and uses[index] > 1 and isinstance(form, Form):
                form = Form(self.algebra.close(form), form.tail)
            self.forms[index] = form
        if reasons:
            raise Stop(*dict.fromkeys(reasons))
        found: Form = self.forms[output]
        return found

    def fold_or_go_on(self, index: int, reasons: list[str], unknown: set[int]) -> Any:
        """Return the form of a node, or note the reason why it has none and go on from an unknown value."""
        node = self.first.tape.nodes[index]
        operands = [i for i in references((node.args, node.kwargs)) if self.first.tape.nodes[i].depends]
        after = any(i in unknown for i in operands)
        try:
            form = self.fold(index)
        except Stop as stop:
            if not after or (len(operands) == 1 and isinstance(self.forms.get(operands[0]), Form)):
                reasons += stop.args
            value = node.value
            tail = tuple(value.shape[1:]) if isinstance(value, torch.Tensor) else ()
            form = Form(Point(torch.Size(tail).numel()), tail) if isinstance(value, torch.Tensor) else []
            unknown.add(index)
        if after:
            unknown.add(index)
        return form

    def fold(self, index: int) -> Any:
        """Return the form of a node."""
        node = self.first.tape.nodes[index]
        try:
            form = self.apply(node)
            if isinstance(form, Form):
                self.check(form, index)
        except Stop as stop:
            raise Stop(f"{node.where}: {stop}" if node.where else str(stop)) from None
        except (KeyError, IndexError, TypeError, AssertionError, RuntimeError):  # arguments that no rule expects
            raise Stop(f"{node.where}: {NO_RULE.format(name=node.name)}") from None
        return form

    def check(self, form: Form, index: int) -> None:
        """Refuse a form whose shape or dtype is not that of the recorded tensor."""
        node = self.first.tape.nodes[index]
        for recording in (self.first, self.second):
            value = recording.tape.nodes[index].value
            if value.dtype != self.dtype:
                raise Stop(f"{node.name} gives {value.dtype} for data of {self.dtype}")
            if tuple(value.shape) != (recording.batch, *form.tail):
                raise Stop(
                    f"{node.name} gives a tensor of shape {tuple(value.shape)} for {recording.batch} samples: it mixes "
                    "the samples, or repeats values"
                )
