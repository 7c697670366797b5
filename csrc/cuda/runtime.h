// What a call runs on: the launcher of its kernels, its stream, and the caller's matrix product and memory.
#pragma once

#include <functional>

#include "launcher.h"

namespace fastssm::cuda {

// Of the products of float32: as accurate as float32, split where that is predicted to be faster and as the caller has
// them elsewhere; of rounded operands; of float32 as three bfloat16 numbers; always as the caller has them.
enum class Precision { full, tf32, bf16, split, given };
inline bool rounds(Precision precision) { return precision == Precision::tf32 || precision == Precision::bf16; }

constexpr size_t kWorkspace = size_t(256) << 20;  // bytes

// A matrix in device memory.
template <class T>
struct View {
  T* p;
  int64_t rows, columns, row_stride, column_stride;
};

// cublasGemmEx, whose matrices are column-major, and the handle to call it with.
struct Cublas {
  using Gemm = int (*)(void* handle, int transpose_a, int transpose_b, int m, int n, int k, const void* alpha,
                       const void* a, int type_a, int lda, const void* b, int type_b, int ldb, const void* beta,
                       void* c, int type_c, int ldc, int compute, int algorithm);
  void* handle;
  Gemm gemm = nullptr;  // null: there is none
};

template <class T>
struct Runtime {
  Launcher& launcher;
  void* stream;
  // c = a b, or c += a b with `accumulate`; without it, c may hold anything before. No dimension is zero, c overlaps
  // neither a nor b, and one of the two strides of each matrix is 1.
  std::function<void(View<const T> a, View<const T> b, View<T> c, bool accumulate)> product;
  // Returns uninitialised bytes, aligned to 256. They stay valid until the stream has done the work of this call.
  std::function<void*(size_t)> allocate;
  Precision precision;
  bool whole_net = true;          // run a network that is small enough in one kernel
  size_t workspace = kWorkspace;  // limit of a tile's buffers, exceeded only where one sample needs more
  Cublas cublas{};                // for products of rounded operands

  // Returns uninitialised bytes for one product: the next one may get the same.
  void* scratch(size_t bytes) const {
    if (bytes > held.size) held = {allocate(bytes), bytes};
    return held.p;
  }
  struct Held {
    void* p = nullptr;
    size_t size = 0;
  };
  mutable Held held{};
};

}  // namespace fastssm::cuda
