// The engine on a device, with the three entry points of cpu/engine.h. They start kernels by name, and multiply views.
//
// In Problem, Objective, Terms and Gradients every tensor is in device memory. The arrays of layers and of their
// gradients, and the constants of activations, are in host memory. No function here waits for the device.
#pragma once

#include "../engine/network.h"
#include "runtime.h"

namespace fastssm::cuda {

// The two terms of the sliced loss per sample, loss = sum_b weight_b loss_b, and its gradient, in one pass. `seed` is
// the seed of seeded directions, or null.
template <class T>
void objective(const Problem<T>& problem, const int64_t* seed, const Objective<T>& out, T* loss,
               const Gradients<T>& gradients, const Runtime<T>& runtime);

// The terms of every sample and direction.
template <class T>
void terms(const Problem<T>& problem, const int64_t* seed, const Terms<T>& out, const Runtime<T>& runtime);

// The gradient of any function of the terms, given its cotangents. It repeats the sweep up: the forward keeps nothing.
template <class T>
void terms_backward(const Problem<T>& problem, const int64_t* seed, const Terms<T>& given,
                    const Gradients<T>& gradients, const Runtime<T>& runtime);

// `objective` with the whole network in one kernel. Returns false, and does nothing, where the network is too large.
template <class T>
bool small_objective(const Problem<T>& problem, const int64_t* seed, const Objective<T>& out, T* loss,
                     const Gradients<T>& gradients, const Runtime<T>& runtime);

}  // namespace fastssm::cuda
