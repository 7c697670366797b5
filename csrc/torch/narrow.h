// Torch's products of bfloat16, by the interface of cpu/narrow.h.
#pragma once

#include "../cpu/narrow.h"

namespace fastssm::torch_products {

// Whether there are products of bfloat16: by oneDNN's micro-kernel, on AVX-512.
bool has_bfloat16();

cpu::NarrowProducts bfloat16();

}  // namespace fastssm::torch_products
