// The engine on tensors: what both doors, autograd's and the dispatcher's, open on.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "../network.h"

namespace fastssm::on_tensors {

// The static part of a call: the structure of a network.
struct Plan {
  Plan(const std::string& kind, std::vector<int64_t> activations, std::vector<double> constants,
       std::vector<int64_t> flags);
  Kind kind;
  std::vector<int64_t> activations;
  std::vector<double> constants;
  std::vector<int64_t> flags;
  int64_t tensors() const;
};

// The tensors of a call that are not weights, and how many directions they stand for.
struct Inputs {
  at::Tensor x;
  std::optional<at::Tensor> columns;
  std::optional<at::Tensor> v;
  std::optional<at::Tensor> seed;
  int64_t projections;
  bool bfloat16;
};

struct Needs {
  bool inputs;
  bool tensors;
};

struct Form {
  bool variance_reduced;
  bool mean;
};

bool is_bfloat16(const std::string& precision);

// The loss, its terms per sample, and the gradients of x, the columns and the tensors, as needed.
std::tuple<at::Tensor, at::Tensor, at::Tensor, std::vector<at::Tensor>> objective(
    const Plan& plan, const Inputs& inputs, at::TensorList tensors, const std::optional<at::Tensor>& weight, Form form,
    Needs needs);

std::tuple<at::Tensor, at::Tensor, at::Tensor> terms(const Plan& plan, const Inputs& inputs, at::TensorList tensors);

std::vector<at::Tensor> terms_backward(const Plan& plan, const at::Tensor& on_projected,
                                       const at::Tensor& on_jacobian, const at::Tensor& on_score,
                                       const Inputs& inputs, at::TensorList tensors, Needs needs);

}  // namespace fastssm::on_tensors
