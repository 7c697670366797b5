// The eager door: autograd functions whose forward already finds the gradients.
#pragma once

#include <memory>

#include "engine.h"

namespace fastssm::on_tensors {

using SharedPlan = std::shared_ptr<const Plan>;

// The loss and its two terms per sample, differentiable once in x, the columns and the tensors.
std::tuple<at::Tensor, at::Tensor, at::Tensor> differentiable_objective(const SharedPlan& plan, const Inputs& inputs,
                                                                        at::TensorList tensors,
                                                                        const std::optional<at::Tensor>& weight,
                                                                        Form form);

// The terms, differentiable once likewise.
std::tuple<at::Tensor, at::Tensor, at::Tensor> differentiable_terms(const SharedPlan& plan, const Inputs& inputs,
                                                                    at::TensorList tensors);

// What a second differentiation says; set once from Python, where the sentence is written.
void refuse_second_backward(const std::string& sentence);

}  // namespace fastssm::on_tensors
