// Torch's matrix products behind the engine's seam.
#pragma once

#include "../cpu/gemm.h"
#include "../cpu/kernels/kernels.h"

namespace fastssm::torch_gemm {

// Whether products of bfloat16 can be had: oneDNN's micro-kernel, on AVX-512.
bool has_bfloat16();

// oneDNN's micro-kernel where the processor has it, ATen's product otherwise.
template <class T>
cpu::Gemms<T> gemms(bool bfloat16);

}  // namespace fastssm::torch_gemm
