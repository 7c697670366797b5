// The engine on tensors, which both entries call: autograd's and the dispatcher's.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <tuple>
#include <vector>

#include "../engine/call.h"

namespace fastssm::on_tensors {

struct Inputs : fastssm::Inputs<at::Tensor> {
  bool bfloat16;
  std::optional<at::Tensor> target = std::nullopt;  // of a denoising objective, without directions
};

bool is_bfloat16(const std::string& precision);

// The loss, its terms per sample, and the gradients of x, the columns and the tensors, as `needs` says.
std::tuple<at::Tensor, at::Tensor, at::Tensor, std::vector<at::Tensor>> objective(
    const Structure& structure, const Inputs& inputs, at::TensorList tensors, const std::optional<at::Tensor>& weight,
    Form form, Needs needs);

// The terms; with `each`, v_m^T J v_m of every direction.
std::tuple<at::Tensor, at::Tensor, at::Tensor> terms(const Structure& structure, const Inputs& inputs,
                                                     at::TensorList tensors, bool each = false);

std::vector<at::Tensor> terms_backward(const Structure& structure, const at::Tensor& on_projected,
                                       const at::Tensor& on_jacobian, const at::Tensor& on_score, const Inputs& inputs,
                                       at::TensorList tensors, Needs needs, bool each = false);

}  // namespace fastssm::on_tensors
