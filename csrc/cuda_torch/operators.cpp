// The CUDA engine's kernels in the dispatcher. Python declares the schemas, and registers everything else.
//
// With FASTSSM_EMULATED the same code takes CPU tensors, and the program that links it defines the launcher: the
// emulator of tests/cuda, or nvcc's PTX executed on the CPU.
#include <utility>

#include "../cuda/engine.h"
#include "../engine/call.h"
#include "flat.h"
#include "runtime.h"

namespace fastssm::stable {
namespace {

using Given = Inputs<Tensor>;
using Tensors = std::vector<Tensor>;

cuda::Precision precision_named(const std::string& name) {
  using Precision = cuda::Precision;
  constexpr std::pair<const char*, Precision> known[] = {
      {"full", Precision::full},   {"tf32", Precision::tf32},   {"bf16", Precision::bf16},
      {"split", Precision::split}, {"torch", Precision::given}};
  for (const auto& [word, precision] : known)
    if (name == word) return precision;
  require(false, "precision must be full, tf32, bf16, split or torch, got ", name, ".");
  return Precision::full;
}

// A kernel with a pointer to another device's memory would end the process.
void check_devices(const Given& inputs, const Tensors& tensors, std::initializer_list<const Tensor*> others) {
  const auto device = inputs.x.device();
  const auto check = [&](const Tensor& t) {
    require(t.device() == device, "all tensors must be on the device of x, ", device.index(), ", got one on ",
            t.device().index(), ".");
  };
  for (const Optional* t : {&inputs.columns, &inputs.v, &inputs.seed})
    if (*t) check(**t);
  for (const Tensor& t : tensors) check(t);
  for (const Tensor* t : others) check(*t);
}

const int64_t* seed_of(const Given& inputs) {
  if (!inputs.seed) return nullptr;
  require(inputs.seed->scalar_type() == ScalarType::Long && inputs.seed->numel() == 1, "seed must be one int64.");
  return inputs.seed->const_data_ptr<int64_t>();
}

// Calls f with a value of the type to compute in.
template <class F>
auto in_dtype(const Tensor& x, cuda::Precision precision, const F& f) {
  const ScalarType dtype = x.scalar_type();
  const bool half = dtype == ScalarType::Half || dtype == ScalarType::BFloat16;
  require(half || dtype == ScalarType::Float || dtype == ScalarType::Double, "x must be of a floating-point type, got ",
          torch::headeronly::toString(dtype), ".");
  require(dtype != ScalarType::Double || precision == cuda::Precision::full || precision == cuda::Precision::given,
          "only products of float32 can be rounded; use precision=\"full\" for float64.");
  return dtype == ScalarType::Double ? f(double{}) : f(float{});
}

// With packed, for eager calls alone, the gradients of several tensors are parts of one buffer.
template <bool packed>
std::tuple<Tensor, Tensor, Tensor, Tensors> objective(
    const Tensor& x, Optional columns, Optional v, Optional seed, Tensors tensors, Optional weight, StringHandle kind,
    std::vector<int64_t> activations, std::vector<double> constants, std::vector<int64_t> flags, int64_t projections,
    StringHandle precision, bool variance_reduced, bool mean, bool needs_inputs, bool needs_tensors) {
  const cuda::Precision rounded = precision_named(taken(precision));
  const Structure structure(taken(kind), std::move(activations), std::move(constants), std::move(flags));
  const Given inputs{x, std::move(columns), std::move(v), std::move(seed), projections};
  check_devices(inputs, tensors, {weight ? &*weight : &x});
  return in_dtype(x, rounded, [&](auto zero) {
    using T = decltype(zero);
    Session<T> session(x, rounded);
    Call<Stable, T> call(structure, inputs, tensors);
    call.need_direction();
    const Needs needs{needs_inputs, needs_tensors};
    const int64_t samples = call.problem.samples;
    Tensor loss = call.empty({}), jacobian = call.empty({&samples, 1}), square = call.empty({&samples, 1});
    const Gradients<T> gradients = call.gradients(needs, packed);
    if (samples > 0) {
      const Optional own = weight ? Optional(call.given(*weight, samples, "weight")) : std::nullopt;
      const Objective<T> out{.variance_reduced = variance_reduced,
                             .weight = own ? own->const_data_ptr<T>() : nullptr,
                             .projected_jacobian = jacobian.mutable_data_ptr<T>(),
                             .square = square.mutable_data_ptr<T>(),
                             .factor = mean ? T(1) / T(samples) : T(1)};
      cuda::objective<T>(call.problem, seed_of(inputs), out, loss.mutable_data_ptr<T>(), gradients, session.runtime());
    } else {
      torch::stable::zero_(loss);
      call.clear();
    }
    return std::make_tuple(loss, jacobian, square, call.found(inputs, tensors, needs));
  });
}

std::tuple<Tensor, Tensor, Tensor> terms(const Tensor& x, Optional columns, Optional v, Optional seed, Tensors tensors,
                                         StringHandle kind, std::vector<int64_t> activations,
                                         std::vector<double> constants, std::vector<int64_t> flags, int64_t projections,
                                         StringHandle precision) {
  const cuda::Precision rounded = precision_named(taken(precision));
  const Structure structure(taken(kind), std::move(activations), std::move(constants), std::move(flags));
  const Given inputs{x, std::move(columns), std::move(v), std::move(seed), projections};
  check_devices(inputs, tensors, {});
  return in_dtype(x, rounded, [&](auto zero) {
    using T = decltype(zero);
    Session<T> session(x, rounded);
    const Call<Stable, T> call(structure, inputs, tensors);
    const Problem<T>& p = call.problem;
    const int64_t of_directions[] = {p.directions.count, p.samples}, of_scores[] = {p.samples, p.dim};
    Tensor projected = call.empty({of_directions, 2}), jacobian = call.empty({&p.samples, 1}),
           score = call.empty({of_scores, 2});
    const Terms<T> out{.projected = projected.mutable_data_ptr<T>(),
                       .projected_jacobian = jacobian.mutable_data_ptr<T>(),
                       .score = score.mutable_data_ptr<T>()};
    if (p.samples > 0) cuda::terms<T>(p, seed_of(inputs), out, session.runtime());
    return std::make_tuple(projected, jacobian, score);
  });
}

Tensors terms_backward(const Tensor& on_projected, const Tensor& on_jacobian, const Tensor& on_score, const Tensor& x,
                       Optional columns, Optional v, Optional seed, Tensors tensors, StringHandle kind,
                       std::vector<int64_t> activations, std::vector<double> constants, std::vector<int64_t> flags,
                       int64_t projections, StringHandle precision, bool needs_inputs, bool needs_tensors) {
  const cuda::Precision rounded = precision_named(taken(precision));
  const Structure structure(taken(kind), std::move(activations), std::move(constants), std::move(flags));
  const Given inputs{x, std::move(columns), std::move(v), std::move(seed), projections};
  check_devices(inputs, tensors, {&on_projected, &on_jacobian, &on_score});
  return in_dtype(x, rounded, [&](auto zero) {
    using T = decltype(zero);
    Session<T> session(x, rounded);
    Call<Stable, T> call(structure, inputs, tensors);
    const Problem<T>& p = call.problem;
    const Needs needs{needs_inputs, needs_tensors};
    const Tensor a = call.given(on_projected, p.directions.count * p.samples, "on_projected"),
                 b = call.given(on_jacobian, p.samples, "on_jacobian"),
                 c = call.given(on_score, p.samples * p.dim, "on_score");
    const Gradients<T> gradients = call.gradients(needs);
    if (p.samples > 0) {
      // the engine only reads them; the pointers of Terms<T> are mutable for the forward pass
      const auto data = [](const Tensor& t) { return const_cast<T*>(t.const_data_ptr<T>()); };
      const Terms<T> cotangents{.projected = data(a), .projected_jacobian = data(b), .score = data(c)};
      cuda::terms_backward<T>(p, seed_of(inputs), cotangents, gradients, session.runtime());
    } else {
      call.clear();
    }
    return call.found(inputs, tensors, needs);
  });
}

Tensors scale(Tensors gradients, const Tensor& factor) {
  require(factor.numel() == 1, "the factor of gradients must be one number, got ", factor.numel(), ".");
  return gradients.empty() ? gradients : scaled(gradients, factor);
}

}  // namespace
}  // namespace fastssm::stable

#if defined(FASTSSM_EMULATED)
#define FASTSSM_KEY CPU
#else
#define FASTSSM_KEY CUDA
#endif
#define FASTSSM_IMPL(key, library) STABLE_TORCH_LIBRARY_IMPL(fastssm, key, library)

FASTSSM_IMPL(FASTSSM_KEY, library) {
  using namespace fastssm::stable;
  if (missing_symbol()) return;  // no operator may call a function that is not there
  library.impl("objective", TORCH_BOX(&objective<false>));
  library.impl("objective_packed", TORCH_BOX(&objective<true>));
  library.impl("terms", TORCH_BOX(&terms));
  library.impl("scale", TORCH_BOX(&scale));
  library.impl("terms_backward", TORCH_BOX(&terms_backward));
}

// Python calls this after it loads the library. Returns the name of a function that this torch lacks, or null.
extern "C" __attribute__((visibility("default"))) const char* fastssm_missing_symbol() {
  return fastssm::stable::missing_symbol();
}
