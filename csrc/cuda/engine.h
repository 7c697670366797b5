// The engine on a device: the three callers of cpu/engine.h, by kernels started by name and products of strided views.
//
// In Problem, Objective, Terms and Gradients every tensor is in device memory; the arrays of layers and of their
// gradients, and the constants of activations, are the host's. Nothing here waits for the device.
#pragma once

#include <functional>

#include "../engine/network.h"
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

// How a call runs.
template <class T>
struct Runtime {
  Launcher& launcher;
  void* stream;
  // c = a b, or c += a b with `accumulate`, else what c held does not matter. No side is empty, c overlaps neither a
  // nor b, and one of the two strides of each is 1.
  std::function<void(View<const T> a, View<const T> b, View<T> c, bool accumulate)> product;
  // Uninitialised bytes, aligned to 256, that stay until all that this call put on the stream is done.
  std::function<void*(size_t)> allocate;
  Precision precision;
  bool whole_net = true;          // in one kernel, where it is small enough for that
  size_t workspace = kWorkspace;  // of the buffers of a tile, unless a single sample takes more
};

// The two terms of the sliced loss per sample, loss = sum_b weight_b loss_b, and its gradient, in one pass. `seed` is
// that of seeded directions, else null.
template <class T>
void objective(const Problem<T>& problem, const int64_t* seed, const Objective<T>& out, T* loss,
               const Gradients<T>& gradients, const Runtime<T>& runtime);

// The terms of every sample and direction.
template <class T>
void terms(const Problem<T>& problem, const int64_t* seed, const Terms<T>& out, const Runtime<T>& runtime);

// The gradient of any function of the terms, given its cotangents: up again, then down; nothing was kept between.
template <class T>
void terms_backward(const Problem<T>& problem, const int64_t* seed, const Terms<T>& given,
                    const Gradients<T>& gradients, const Runtime<T>& runtime);

// `objective` with the whole network in one kernel; false where it is too large for that, and nothing was done.
template <class T>
bool small_objective(const Problem<T>& problem, const int64_t* seed, const Objective<T>& out, T* loss,
                     const Gradients<T>& gradients, const Runtime<T>& runtime);

}  // namespace fastssm::cuda
