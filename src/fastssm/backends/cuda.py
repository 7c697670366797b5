"""The backend of the compiled engine for CUDA GPUs."""

from __future__ import annotations

import torch
from torch import Tensor

from fastssm.backends.entries import eager
from fastssm.backends.fused import Compiled
from fastssm.backends.request import Request
from fastssm.native import cuda_library
from fastssm.options import What

EACH_FULL = (
    "a term for each direction (jacobian_diag, hvp_form of several directions) has no products in "
    'precision="{}"; pass precision="full"'
)


class Cuda(Compiled):
    """The engine on GPUs."""

    def __init__(self) -> None:
        super().__init__("cuda", eager, cuda_library.missing())

    def missing(self) -> list[str]:
        """Return why nothing can run: an engine that is not built, or no device to run it on."""
        return super().missing() or ([] if torch.cuda.is_available() else [cuda_library.NO_DEVICE])

    def unready(self, x: Tensor) -> list[str]:
        """Return why the device has no kernels; in a graph that is only being traced, leave that to its first run."""
        return [] if torch.compiler.is_compiling() else cuda_library.unready(x.device)

    def by_pytorch(self, request: Request, what: What) -> list[str]:
        """Name a term for each direction."""
        return ["a term for each direction is computed by the sweeps in PyTorch"] if what == "each" else []

    def unrounded(self, request: Request, what: What) -> list[str]:
        """Name the data, the device, and the terms that the sweeps in PyTorch compute, which round nothing."""
        reasons, x = super().unrounded(request, what), request.x
        if x.is_cuda and not torch.compiler.is_compiling() and not cuda_library.rounds(x.device):
            reasons.append(
                f'precision="{request.precision}" needs a GPU of compute capability 8.0 or more; pass precision="full"'
            )
        return [*reasons, EACH_FULL.format(request.precision)] if what == "each" else reasons
