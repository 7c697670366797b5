// Products on the tensor cores, for Runtime::precision.
#pragma once

#include "engine.h"

namespace fastssm::cuda {

// c = a b, or += with `accumulate`, of operands rounded to tf32 or bfloat16 and accumulated in float32; views as for
// Runtime::product. Raises where the device has no such tensor cores.
void tensor_product(const Runtime<float>& runtime, View<const float> a, View<const float> b, View<float> c,
                    bool accumulate);

// c = a b, or +=, in the precision that the call asks for.
template <class T>
void multiply(const Runtime<T>& runtime, View<const T> a, View<const T> b, View<T> c, bool accumulate) {
  if constexpr (sizeof(T) == sizeof(float)) {
    if (runtime.precision != Precision::full) return tensor_product(runtime, a, b, c, accumulate);
  }
  runtime.product(a, b, c, accumulate);
}

}  // namespace fastssm::cuda
