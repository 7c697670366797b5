// Products of a call, in its precision: by the caller, or on the tensor cores.
#pragma once

#include "kernels/params.h"
#include "runtime.h"

namespace fastssm::cuda {

// A matrix whose rows are contiguous, and lie ld apart.
template <class T>
View<T> matrix(T* p, int64_t rows, int64_t columns, int64_t ld) {
  return {.p = p, .rows = rows, .columns = columns, .row_stride = ld, .column_stride = 1};
}

template <class T>
View<T> transposed(const View<T>& v) {
  return {.p = v.p, .rows = v.columns, .columns = v.rows, .row_stride = v.column_stride, .column_stride = v.row_stride};
}

// Cycles of a device for a product of float32, split in three and by its units of float32; zeros on a device whose
// tensor cores are too slow for split products to gain.
struct Predicted {
  int64_t split, float32;
};
Predicted predicted(const Limits& limits, int64_t m, int64_t n, int64_t k);

// c = a b, or += with `accumulate`, on the tensor cores: of operands rounded to tf32 (by cuBLAS where the runtime has it)
// or bfloat16 and accumulated in float32, or of float32 numbers split in three. Views are as for Runtime::product.
// Returns false, and does nothing, where the product is the caller's. Raises std::runtime_error where the device has no
// such tensor cores.
bool tensor_product(const Runtime<float>& runtime, View<const float> a, View<const float> b, View<float> c,
                    bool accumulate);

// The product of a layer up, out = in weight^T, and right after it what `up` says, in one launch: where products are split
// and a block can have the whole depth. `up` has out as its z. Otherwise this does nothing, and returns false.
bool product_and_up(const Runtime<float>& runtime, View<const float> in, View<const float> weight, View<float> out,
                    const Up<float>& up);

// Whether a call's operands are kept in bfloat16, for products by cuBLAS.
template <class T>
bool keeps_bfloat16(const Runtime<T>& runtime) {
  return sizeof(T) == sizeof(float) && runtime.precision == Precision::bf16 && runtime.cublas.gemm;
}

// c = a b, or +=, of operands in bfloat16 by the runtime's cuBLAS, accumulated in float32. No size exceeds 32 bits.
void bfloat16_product(const Runtime<float>& runtime, View<const uint16_t> a, View<const uint16_t> b, View<float> c,
                      bool accumulate);

// c = a b, or +=, in the precision of the call.
template <class T>
void multiply(const Runtime<T>& runtime, View<const T> a, View<const T> b, View<T> c, bool accumulate) {
  if constexpr (sizeof(T) == sizeof(float)) {
    if (tensor_product(runtime, a, b, c, accumulate)) return;
  }
  runtime.product(a, b, c, accumulate);
}

}  // namespace fastssm::cuda
