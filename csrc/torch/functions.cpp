#include "functions.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/mul.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/graph_task.h>

namespace fastssm::on_tensors {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;

std::string& refusal() {
  static std::string sentence = "second derivatives are not implemented";
  return sentence;
}

// The identity on gradients. Its backward would be the second differentiation, which raises.
struct Once : torch::autograd::Function<Once> {
  static variable_list forward(AutogradContext* ctx, int64_t count, at::TensorList tensors) {
    ctx->saved_data["inputs"] = static_cast<int64_t>(tensors.size());
    variable_list out;
    for (int64_t i = 0; i < count; i++) out.push_back(tensors[i].clone());
    return out;
  }
  static variable_list backward(AutogradContext*, variable_list) { TORCH_CHECK(false, refusal()); }
};

// Returns gradients that raise when they are differentiated again.
variable_list once(variable_list grads, const variable_list& given) {
  if (!at::GradMode::is_enabled() || grads.empty()) return grads;
  const auto count = static_cast<int64_t>(grads.size());
  variable_list all = std::move(grads);
  for (const Variable& t : given)
    if (t.defined()) all.push_back(t);
  return Once::apply(count, at::TensorList(all));
}

bool wants(const std::optional<at::Tensor>& t) { return t && t->requires_grad(); }

Needs needs_of(const Inputs& inputs, at::TensorList tensors) {
  if (!at::GradMode::is_enabled()) return {false, false};
  const bool any = std::any_of(tensors.begin(), tensors.end(), [](const at::Tensor& t) { return t.requires_grad(); });
  return {inputs.x.requires_grad() || wants(inputs.columns), any};
}

// The gradients of forward's arguments (structure..., x, columns, tensors..., rest...), in that order.
variable_list spread(variable_list grads, size_t before, bool has_columns, size_t count, size_t after, Needs needs) {
  variable_list out(before);
  size_t next = 0;
  out.push_back(needs.inputs ? grads[next++] : Variable());
  out.push_back(needs.inputs && has_columns ? grads[next++] : Variable());
  for (size_t i = 0; i < count; i++) out.push_back(needs.tensors ? grads[next++] : Variable());
  out.resize(out.size() + after);
  return out;
}

std::vector<at::Tensor> with_inputs(const Inputs& inputs, at::TensorList tensors) {
  std::vector<at::Tensor> out = {inputs.x};
  if (inputs.columns) out.push_back(*inputs.columns);
  out.insert(out.end(), tensors.begin(), tensors.end());
  return out;
}

void save(AutogradContext* ctx, Needs needs) {
  ctx->saved_data["needs_inputs"] = needs.inputs;
  ctx->saved_data["needs_tensors"] = needs.tensors;
}

Needs saved_needs(AutogradContext* ctx) {
  return {ctx->saved_data["needs_inputs"].toBool(), ctx->saved_data["needs_tensors"].toBool()};
}

// Whether gradients can be returned as they are: the graph is not kept, and the factor is 1.
bool final(const at::Tensor& factor) {
  return !at::GradMode::is_enabled() && !torch::autograd::get_current_graph_task_keep_graph() &&
         factor.item<double>() == 1.0;
}

struct Objective : torch::autograd::Function<Objective> {
  static variable_list forward(AutogradContext* ctx, const Structure* structure, const Inputs* inputs,
                               const std::optional<at::Tensor>* weight, Form form, Needs needs, const at::Tensor&,
                               const std::optional<at::Tensor>&, at::TensorList tensors) {
    auto [loss, jacobian, square, grads] = objective(*structure, *inputs, tensors, *weight, form, needs);
    ctx->set_materialize_grads(false);
    ctx->saved_data["grads"] = static_cast<int64_t>(grads.size());
    ctx->saved_data["columns"] = inputs->columns.has_value();
    ctx->saved_data["tensors"] = static_cast<int64_t>(tensors.size());
    save(ctx, needs);
    variable_list saved = grads;
    for (at::Tensor& t : with_inputs(*inputs, tensors)) saved.push_back(std::move(t));
    ctx->save_for_backward(std::move(saved));
    ctx->mark_non_differentiable({jacobian, square});
    return {loss, jacobian, square};
  }

  static variable_list backward(AutogradContext* ctx, variable_list on) {
    const bool columns = ctx->saved_data["columns"].toBool();
    const auto count = static_cast<size_t>(ctx->saved_data["tensors"].toInt());
    if (!on[0].defined()) return variable_list(5 + 2 + count);
    const variable_list saved = ctx->get_saved_variables();
    const auto grads = ctx->saved_data["grads"].toInt();
    variable_list given = {on[0]};
    given.insert(given.end(), saved.begin() + grads, saved.end());
    variable_list scaled(saved.begin(), saved.begin() + grads);
    if (!final(on[0]))
      for (at::Tensor& g : scaled) g = at::mul(g, on[0].detach());
    return spread(once(std::move(scaled), given), 5, columns, count, 0, saved_needs(ctx));
  }
};

struct TermsFunction : torch::autograd::Function<TermsFunction> {
  static variable_list forward(AutogradContext* ctx, const SharedStructure* structure, const Inputs* inputs,
                               Needs needs, const at::Tensor& x, const std::optional<at::Tensor>& columns,
                               at::TensorList tensors) {
    auto [projected, jacobian, score] = terms(**structure, *inputs, tensors);
    variable_list saved = {x, columns.value_or(at::Tensor()), inputs->v.value_or(at::Tensor()),
                           inputs->seed.value_or(at::Tensor())};
    saved.insert(saved.end(), tensors.begin(), tensors.end());
    ctx->save_for_backward(std::move(saved));
    ctx->saved_data["structure"] = c10::IValue::make_capsule(c10::make_intrusive<Held>(*structure));
    ctx->saved_data["projections"] = inputs->projections;
    ctx->saved_data["bfloat16"] = inputs->bfloat16;
    save(ctx, needs);
    return {projected, jacobian, score};
  }

  static variable_list backward(AutogradContext* ctx, variable_list on) {
    const variable_list saved = ctx->get_saved_variables();
    const auto given = [&](size_t i) { return saved[i].defined() ? std::optional(saved[i]) : std::nullopt; };
    const variable_list tensors(saved.begin() + 4, saved.end());
    const Inputs inputs{{saved[0], given(1), given(2), given(3), ctx->saved_data["projections"].toInt()},
                        ctx->saved_data["bfloat16"].toBool()};
    const Needs needs = saved_needs(ctx);
    const auto held = ctx->saved_data["structure"].toCapsule();
    const Structure& structure = *static_cast<Held*>(held.get())->structure;
    variable_list grads;
    {
      const at::NoGradGuard guard;
      grads = terms_backward(structure, on[0], on[1], on[2], inputs, tensors, needs);
    }
    variable_list dependent = on;
    for (const at::Tensor& t : with_inputs(inputs, tensors)) dependent.push_back(t);
    return spread(once(std::move(grads), dependent), 3, inputs.columns.has_value(), tensors.size(), 0, needs);
  }

 private:
  struct Held : torch::CustomClassHolder {
    explicit Held(SharedStructure p) : structure(std::move(p)) {}
    SharedStructure structure;
  };
};

}  // namespace

void refuse_second_backward(const std::string& sentence) { refusal() = sentence; }

std::tuple<at::Tensor, at::Tensor, at::Tensor> differentiable_objective(const SharedStructure& structure,
                                                                        const Inputs& inputs, at::TensorList tensors,
                                                                        const std::optional<at::Tensor>& weight,
                                                                        Form form) {
  const Needs needs = needs_of(inputs, tensors);
  if (!needs.inputs && !needs.tensors) {
    auto [loss, jacobian, square, none] = objective(*structure, inputs, tensors, weight, form, needs);
    return {loss, jacobian, square};
  }
  const variable_list out =
      Objective::apply(structure.get(), &inputs, &weight, form, needs, inputs.x, inputs.columns, tensors);
  return {out[0], out[1], out[2]};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> differentiable_terms(const SharedStructure& structure,
                                                                    const Inputs& inputs, at::TensorList tensors) {
  const Needs needs = needs_of(inputs, tensors);
  if (!needs.inputs && !needs.tensors) return terms(*structure, inputs, tensors);
  const variable_list out = TermsFunction::apply(&structure, &inputs, needs, inputs.x, inputs.columns, tensors);
  return {out[0], out[1], out[2]};
}

}  // namespace fastssm::on_tensors
