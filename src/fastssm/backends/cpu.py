"""The backend of the compiled engine for CPUs."""

from __future__ import annotations

from torch import Tensor

from fastssm.backends.entries import compiled
from fastssm.backends.fused import EACH_FULL, Compiled
from fastssm.backends.request import Request
from fastssm.native import extension


class Cpu(Compiled):
    """The engine in C++."""

    def __init__(self) -> None:
        super().__init__(
            "cpu", compiled, [] if compiled.DEVICES else [f"the cpu engine is not built. {extension.status()}"]
        )

    def unrounded(self, x: Tensor, precision: str) -> list[str]:
        """Return why products cannot be rounded: the data, or the processor."""
        reasons = super().unrounded(x, precision)
        if precision == "tf32":
            reasons.append('precision="tf32" is what tensor cores of GPUs have; pass precision="full" or "bf16"')
        elif not compiled.multiplies_bf16():
            reasons.append('precision="bf16" needs a processor with AVX-512; pass precision="full"')
        return reasons

    def unrounded_each(self, request: Request) -> list[str]:
        """Their gradient comes from the sweeps in PyTorch, which round nothing."""
        if request.each and request.differentiated():
            return [f"the gradient of {EACH_FULL.format(request.precision)}, or call it under torch.no_grad()"]
        return []
