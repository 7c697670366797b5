// The engine's three entry points. They split samples into tiles, and tiles among threads, and add up gradients in a
// fixed order.
#pragma once

#include "model.h"

namespace fastssm::cpu {

// The two terms of the sliced loss per sample, and the gradient of sum_b weight_b loss_b, in one pass.
template <class T>
void objective(const Problem<T>& problem, const Objective<T>& out, const Gradients<T>& gradients,
               const Runtime<T>& runtime);

// The terms of every sample and direction.
template <class T>
void terms(const Problem<T>& problem, const Terms<T>& out, const Runtime<T>& runtime);

// The gradient of any function of the terms, given its cotangents. It repeats the sweep up: the forward keeps nothing.
template <class T>
void terms_backward(const Problem<T>& problem, const Terms<T>& given, const Gradients<T>& gradients,
                    const Runtime<T>& runtime);

}  // namespace fastssm::cpu
