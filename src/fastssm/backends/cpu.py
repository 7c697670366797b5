"""The backend of the compiled engine for CPUs."""

from __future__ import annotations

from torch import Tensor

from fastssm.backends import guarded
from fastssm.backends.entries import compiled
from fastssm.backends.entries.flat import Form
from fastssm.backends.fused import Compiled, flat
from fastssm.backends.request import Denoiser, Request
from fastssm.directions import Directions
from fastssm.native import extension
from fastssm.options import What


class Cpu(Compiled, Denoiser):
    """The engine in C++."""

    def __init__(self) -> None:
        super().__init__(
            "cpu", compiled, [] if compiled.DEVICES else [f"the cpu engine is not built. {extension.status()}"]
        )

    def objective(
        self, request: Request, directions: Directions, weight: Tensor | None, form: Form
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Run the sweeps once, and remember the call."""
        guarded.remember(request)
        return super().objective(request, directions, weight, form)

    def denoising(self, request: Request, target: Tensor, weight: Tensor | None, mean: bool) -> Tensor:
        """Run the sweeps once: 6 products a layer where `score` and its backward take 8, or 3 of 4 for a score net."""
        inputs, tensors, static = flat(request, Directions(0), self.products(request))
        return compiled.denoising(inputs, target, weight, tensors, static, mean)

    def unrounded(self, request: Request, what: What) -> list[str]:
        """Name the data and the processor."""
        reasons = super().unrounded(request, what)
        if request.precision in ("tf32", "split"):
            reasons.append(f'precision="{request.precision}" needs the tensor cores of a GPU; pass precision="full"')
        elif compiled.DEVICES and not compiled.multiplies_bf16():
            reasons.append('precision="bf16" needs a processor with AVX-512; pass precision="full"')
        return reasons
