"""The backend of the compiled engine for CUDA GPUs."""

from __future__ import annotations

import os

import torch
from torch import Tensor

from fastssm.backends.entries import eager
from fastssm.backends.entries.flat import BY_TORCH
from fastssm.backends.fused import Compiled
from fastssm.backends.request import Request
from fastssm.native import cuda_library
from fastssm.options import What

EACH_FULL = (
    "a term for each direction (jacobian_diag, hvp_form of several directions) has no products in "
    'precision="{}"; pass precision="full"'
)
NO_SPLIT = "FASTSSM_SPLIT"
"""Environment variable: 0 leaves all products of `precision="full"` to PyTorch."""


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

    def products(self, request: Request) -> str:
        """Return the precision; "full" may split products, unless that is switched off or PyTorch may round to TF32."""
        return BY_TORCH if request.precision == "full" and _leaves_products() else request.precision

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


def _leaves_products() -> bool:
    """Return whether PyTorch computes all products of float32; a graph keeps what held at its capture."""
    matmul = torch.backends.cuda.matmul
    newer = hasattr(matmul, "fp32_precision")  # from torch 2.9 on, where the older setting can raise
    rounds = matmul.fp32_precision == "tf32" if newer else matmul.allow_tf32
    return rounds or os.environ.get(NO_SPLIT, "") == "0"


# what torch.compiler.assume_constant_result does, which would import the compiler
_leaves_products._dynamo_marked_constant = True  # type: ignore[attr-defined]
