// What a call runs on: the launcher of its kernels, its stream, and the caller's matrix product and memory.
#pragma once

#include <functional>

#include "launcher.h"

namespace fastssm::cuda {

enum class Precision { full, tf32, bf16 };  // of the products of float32

constexpr size_t kWorkspace = size_t(256) << 20;  // bytes

// A matrix in device memory.
template <class T>
struct View {
  T* p;
  int64_t rows, columns, row_stride, column_stride;
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
};

}  // namespace fastssm::cuda
