#include "engine.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/scalar_tensor.h>
#ifndef _WIN32
#include <pthread.h>
#endif

#include <algorithm>
#include <atomic>

#include "../cpu/engine.h"
#include "narrow.h"

namespace fastssm::on_tensors {
namespace {

struct Aten {
  using Tensor = at::Tensor;
  using Tensors = at::TensorList;
  using Sizes = at::IntArrayRef;

  template <class T>
  static Tensor prepared(const Tensor& t) {
    return t.to(c10::CppTypeToScalarType<T>::value).contiguous();
  }

  template <class T>
  static Tensor empty(Sizes sizes, const Tensor& like) {
    return at::empty(sizes, like.options().dtype(c10::CppTypeToScalarType<T>::value));
  }

  template <class T>
  static std::vector<Tensor> gradients(const Tensor* like, size_t count, bool) {
    std::vector<Tensor> out;
    for (size_t i = 0; i < count; i++) out.push_back(empty<T>(like[i].sizes(), like[i]));
    return out;
  }

  static Tensor narrowed(const Tensor& gradient, const Tensor& like) { return gradient.to(like.scalar_type()); }
};

// OpenMP's threads do not survive a fork, so a child does all the work in one thread, in the same order.
bool forked() {
#ifndef _WIN32
  static std::atomic<bool> child{false};
  static const int registered = pthread_atfork(nullptr, nullptr, [] { child = true; });
  (void)registered;
  return child;
#else
  return false;
#endif
}

void run_in_threads(int64_t n, const std::function<void(int64_t)>& f) {
  if (forked()) {
    for (int64_t i = 0; i < n; i++) f(i);
    return;
  }
  at::parallel_for(0, n, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) f(i);
  });
}

template <class T>
cpu::Runtime<T> runtime(bool bfloat16) {
  TORCH_CHECK(!bfloat16 || (std::is_same_v<T, float> && torch_products::has_bfloat16()),
              "precision=\"bf16\" needs float32 data and a processor with AVX-512; use precision=\"full\".");
  return {.kernels = cpu::kernels<T>(cpu::level()),
          .narrow = bfloat16 ? torch_products::bfloat16() : cpu::NarrowProducts{},
          .threads = at::get_num_threads(),
          .run = run_in_threads};
}

template <class T>
struct OnTensors : Call<Aten, T> {
  OnTensors(const Structure& structure, const Inputs& inputs, at::TensorList tensors)
      : Call<Aten, T>(structure, inputs, tensors) {
    if (inputs.seed) this->problem.directions.seed = static_cast<uint64_t>(inputs.seed->item<int64_t>());
  }
};

// Calls f with a value of the type to compute in.
template <class F>
auto in_dtype(const at::Tensor& x, const F& f) {
  const at::ScalarType dtype = x.scalar_type();
  TORCH_CHECK(at::isFloatingType(dtype) && c10::elementSize(dtype) > 1, "x must be of a floating-point type, got ",
              dtype, ".");
  return dtype == at::kDouble ? f(double{}) : f(float{});
}

// The weight of each sample's loss.
template <class T>
at::Tensor shares(const OnTensors<T>& call, const std::optional<at::Tensor>& weight, bool mean) {
  const int64_t samples = call.problem.samples;
  const at::Tensor out = call.empty({samples});
  T* p = out.data_ptr<T>();
  std::fill_n(p, samples, mean ? T(1) / T(samples) : T(1));
  if (weight) {
    const at::Tensor given = call.given(*weight, samples, "weight");
    std::transform(p, p + samples, given.const_data_ptr<T>(), p, std::multiplies<T>());
  }
  return out;
}

}  // namespace

bool is_bfloat16(const std::string& precision) {
  TORCH_CHECK(precision == "full" || precision == "bf16", "precision must be full or bf16, got ", precision, ".");
  return precision == "bf16";
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, std::vector<at::Tensor>> objective(
    const Structure& structure, const Inputs& inputs, at::TensorList tensors, const std::optional<at::Tensor>& weight,
    Form form, Needs needs) {
  return in_dtype(inputs.x, [&](auto zero) {
    using T = decltype(zero);
    OnTensors<T> call(structure, inputs, tensors);
    const int64_t samples = call.problem.samples;
    std::optional<at::Tensor> target;
    if (inputs.target) {
      require(call.problem.directions.count == 0, "a denoising objective has no directions.");
      target = call.given(*inputs.target, samples * call.problem.dim, "target");
    } else {
      call.need_direction();
    }
    at::Tensor jacobian = call.empty({samples}), square = call.empty({samples});
    const at::Tensor share = shares<T>(call, weight, form.mean);
    const T *w = share.const_data_ptr<T>(), *a = jacobian.const_data_ptr<T>(), *b = square.const_data_ptr<T>();
    const Objective<T> out{.variance_reduced = form.variance_reduced,
                           .weight = w,
                           .projected_jacobian = jacobian.data_ptr<T>(),
                           .square = square.data_ptr<T>(),
                           .target = target ? target->template const_data_ptr<T>() : nullptr};
    fastssm::cpu::objective<T>(call.problem, out, call.gradients(needs), runtime<T>(inputs.bfloat16));
    double loss = 0;
    for (int64_t i = 0; i < samples; i++) loss += double(w[i]) * (double(a[i]) + double(b[i]));
    return std::make_tuple(at::scalar_tensor(loss, jacobian.options()), jacobian, square,
                           call.found(inputs, tensors, needs));
  });
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> terms(const Structure& structure, const Inputs& inputs,
                                                     at::TensorList tensors, bool each) {
  return in_dtype(inputs.x, [&](auto zero) {
    using T = decltype(zero);
    const OnTensors<T> call(structure, inputs, tensors);
    const Problem<T>& p = call.problem;
    at::Tensor projected = call.empty({p.directions.count, p.samples}), score = call.empty({p.samples, p.dim}),
               jacobian = each ? at::empty_like(projected) : call.empty({p.samples});
    const Terms<T> out{.projected = projected.data_ptr<T>(),
                       .projected_jacobian = jacobian.data_ptr<T>(),
                       .score = score.data_ptr<T>(),
                       .each = each};
    fastssm::cpu::terms<T>(p, out, runtime<T>(inputs.bfloat16));
    return std::make_tuple(projected, jacobian, score);
  });
}

std::vector<at::Tensor> terms_backward(const Structure& structure, const at::Tensor& on_projected,
                                       const at::Tensor& on_jacobian, const at::Tensor& on_score, const Inputs& inputs,
                                       at::TensorList tensors, Needs needs, bool each) {
  return in_dtype(inputs.x, [&](auto zero) {
    using T = decltype(zero);
    OnTensors<T> call(structure, inputs, tensors);
    const Problem<T>& p = call.problem;
    const int64_t pairs = p.directions.count * p.samples;
    const at::Tensor a = call.given(on_projected, pairs, "on_projected"),
                     b = call.given(on_jacobian, each ? pairs : p.samples, "on_jacobian"),
                     c = call.given(on_score, p.samples * p.dim, "on_score");
    const Terms<T> cotangents{.projected = a.template data_ptr<T>(),
                              .projected_jacobian = b.template data_ptr<T>(),
                              .score = c.template data_ptr<T>(),
                              .each = each};
    fastssm::cpu::terms_backward<T>(p, cotangents, call.gradients(needs), runtime<T>(inputs.bfloat16));
    return call.found(inputs, tensors, needs);
  });
}

}  // namespace fastssm::on_tensors
