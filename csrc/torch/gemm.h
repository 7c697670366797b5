// Torch's matrix products, by the interface of cpu/gemm.h.
#pragma once

#include "../cpu/gemm.h"
#include "../cpu/kernels/kernels.h"

namespace fastssm::torch_gemm {

// Whether there are products of bfloat16: by oneDNN's micro-kernel, on AVX-512.
bool has_bfloat16();

// oneDNN's micro-kernel where the processor has it, otherwise ATen's product, or loops in a forked process.
template <class T>
cpu::Gemms<T> gemms(bool bfloat16, bool forked = false);

}  // namespace fastssm::torch_gemm
