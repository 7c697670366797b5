// The eager entry: autograd functions whose forward computes the gradients too.
#pragma once

#include <memory>

#include "engine.h"

namespace fastssm::on_tensors {

using SharedStructure = std::shared_ptr<const Structure>;

// The loss and its two terms per sample, differentiable once in x, the columns and the tensors.
std::tuple<at::Tensor, at::Tensor, at::Tensor> differentiable_objective(const SharedStructure& structure,
                                                                        const Inputs& inputs, at::TensorList tensors,
                                                                        const std::optional<at::Tensor>& weight,
                                                                        Form form);

// The terms, differentiable once in the same tensors.
std::tuple<at::Tensor, at::Tensor, at::Tensor> differentiable_terms(const SharedStructure& structure,
                                                                    const Inputs& inputs, at::TensorList tensors);

// Sets the error message of a second differentiation. Python calls this once.
void refuse_second_backward(const std::string& sentence);

}  // namespace fastssm::on_tensors
