"""The backend of the compiled engine for CPUs."""

from __future__ import annotations

from fastssm.backends.entries import compiled
from fastssm.backends.fused import EACH_FULL, Compiled
from fastssm.backends.request import Request
from fastssm.native import extension
from fastssm.options import What


class Cpu(Compiled):
    """The engine in C++."""

    def __init__(self) -> None:
        super().__init__(
            "cpu", compiled, [] if compiled.DEVICES else [f"the cpu engine is not built. {extension.status()}"]
        )

    def by_pytorch(self, request: Request, what: What) -> list[str]:
        """Name the gradient of a term for each direction."""
        if what == "each" and request.differentiated():
            return ["the gradient of a term for each direction is computed by the sweeps in PyTorch"]
        return []

    def unrounded(self, request: Request, what: What) -> list[str]:
        """Name the data, the processor, and the gradient that the sweeps in PyTorch compute, which round nothing."""
        reasons = super().unrounded(request, what)
        if request.precision == "tf32":
            reasons.append('precision="tf32" is what tensor cores of GPUs have; pass precision="full" or "bf16"')
        elif compiled.DEVICES and not compiled.multiplies_bf16():
            reasons.append('precision="bf16" needs a processor with AVX-512; pass precision="full"')
        if what == "each" and request.differentiated():
            reasons.append(f"the gradient of {EACH_FULL.format(request.precision)}, or call it under torch.no_grad()")
        return reasons
