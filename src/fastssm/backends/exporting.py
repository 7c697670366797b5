"""Derivatives inside a function that `torch.export` records."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch

from fastssm.compiling import exporting
from fastssm.errors import UnsupportedError

STRICT = (
    "torch.export with strict=True cannot record derivatives of a network that is not recognised; leave strict out, or "
    "see fastssm.explain for what would make the network recognised."
)


def inlined(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return `function(*arguments)`; under `torch.export`, first reduce it to the operators that it runs.

    `torch.export` records what Python calls. What an operator keeps for its derivative, such as the transposed weight
    of `linear`, it takes for a constant and fails. So the function is traced below autograd, and the trace is recorded.

    Args:
        function: from tensors, or nested containers of them, to tensors.
        arguments: what it is called with.
    """
    if not exporting():
        return function(*arguments)
    if torch.compiler.is_dynamo_compiling():
        raise UnsupportedError(STRICT)
    from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing, make_fx
    from torch.overrides import _pop_mode_temporarily

    with ExitStack() as outside:
        outside.enter_context(disable_proxy_modes_tracing())
        for _ in range(torch._C._len_torch_function_stack()):
            outside.enter_context(_pop_mode_temporarily())
        traced = make_fx(function)(*arguments)
    return traced(*arguments)
