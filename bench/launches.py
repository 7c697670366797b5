"""Number of kernel launches of plain autograd, counted as operators of a loss and its gradients."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bench.problems import Case, Size
from bench.problems import problem as drawn
from bench.rivals import autograd

NO_KERNEL = ("aten::detach", "aten::empty", "aten::new_empty", "aten::empty_like", "aten::_unsafe_view")


class Operators(TorchDispatchMode):
    """Counts operators that launch at least one kernel, so no views or allocations."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count and run an operator."""
        aliases = [result.alias_info for result in func._schema.returns]
        view = any(alias is not None and not alias.is_write for alias in aliases)
        self.count += not view and func._schema.name not in NO_KERNEL
        return func(*args, **(kwargs or {}))


def of_autograd(size: Size, loss: str, kind: str) -> int:
    """Return the number of operators of the double backward, from forward to parameter gradients."""
    problem = drawn(Case(size._replace(B=min(size.B, 8)), kind=kind), loss)
    with Operators() as operators:
        torch.autograd.grad(autograd(problem), list(problem.net.parameters()), allow_unused=True)
    return operators.count
