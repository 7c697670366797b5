#include "engine.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/zeros.h>
#ifndef _WIN32
#include <pthread.h>
#endif

#include <algorithm>
#include <atomic>

#include "../activations.h"
#include "../cpu/engine.h"
#include "gemm.h"

namespace fastssm::on_tensors {
namespace {

constexpr int64_t kMostDirections = int64_t(1) << 32;
constexpr int64_t kBias = 1, kScale = 2, kShift = 4, kSkip = 8;  // as fastssm.sweeps.plan has them

at::ScalarType wide(const at::Tensor& x) {
  return x.scalar_type() == at::kHalf || x.scalar_type() == at::kBFloat16 ? at::kFloat : x.scalar_type();
}

at::Tensor prepared(const at::Tensor& t, at::ScalarType dtype) { return t.to(dtype).contiguous(); }

std::optional<at::Tensor> prepared(const std::optional<at::Tensor>& t, at::ScalarType dtype) {
  return t ? std::optional<at::Tensor>(prepared(*t, dtype)) : std::nullopt;
}

template <class T>
const T* data(const std::optional<at::Tensor>& t) {
  return t ? t->const_data_ptr<T>() : nullptr;
}

// OpenMP's threads do not survive a fork: a child does all the shares itself, in the same order, to the same bits.
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
  TORCH_CHECK(!bfloat16 || (std::is_same_v<T, float> && torch_gemm::has_bfloat16()),
              "precision=\"bf16\" needs float32 data and a processor with AVX-512; use precision=\"full\".");
  forked();  // registers itself before the first threads start
  return {cpu::kernels<T>(cpu::level()), torch_gemm::gemms<T>(bfloat16), at::get_num_threads(), run_in_threads};
}

// A call laid out for the engine; it owns whatever had to be widened or made contiguous.
template <class T>
class Call {
 public:
  Call(const Plan& plan, const Inputs& inputs, at::TensorList tensors)
      : dtype_(c10::CppTypeToScalarType<T>::value),
        x_(prepared(inputs.x, dtype_)),
        columns_(prepared(inputs.columns, dtype_)),
        v_(prepared(inputs.v, dtype_)),
        constants_(plan.constants.begin(), plan.constants.end()) {
    TORCH_CHECK(static_cast<int64_t>(tensors.size()) == plan.tensors(), "the plan of this network has ",
                plan.tensors(), " tensors, got ", tensors.size(), ".");
    for (const at::Tensor& t : tensors) tensors_.push_back(prepared(t, dtype_));
    lay_out(plan);
    problem = {plan.kind,
               layers_.data(),
               static_cast<int64_t>(layers_.size()),
               x_.const_data_ptr<T>(),
               data<T>(columns_),
               x_.size(0),
               x_.size(1),
               columns_ ? columns_->size(1) : 0,
               {inputs.projections, data<T>(v_), inputs.seed.has_value(),
                inputs.seed ? static_cast<uint64_t>(inputs.seed->item<int64_t>()) : 0}};
    check();
  }

  // Tensors for the gradients, and the views of them that the engine fills.
  Gradients<T> gradients(Needs needs) {
    Gradients<T> out{};
    if (needs.inputs) {
      out.x = fresh(x_);
      out.columns = columns_ ? fresh(*columns_) : nullptr;
    }
    if (needs.tensors) {
      std::vector<T*> pointers;
      for (const at::Tensor& t : tensors_) pointers.push_back(fresh(t));
      for (size_t l = 0, shared = 0, own = shared_; l < layers_.size(); l++) {
        const Layer<T>& layer = layers_[l];
        T* weight = pointers[shared++];
        T* bias = layer.bias ? pointers[shared++] : nullptr;
        T* scale = layer.scale ? pointers[own++] : nullptr;
        T* shift = layer.shift ? pointers[own++] : nullptr;
        layer_gradients_.push_back({weight, bias, scale, shift});
      }
      out.layers = layer_gradients_.data();
    }
    return out;
  }

  // The gradients in the dtypes of what they belong to.
  std::vector<at::Tensor> found(const Inputs& inputs, at::TensorList tensors, Needs needs) const {
    std::vector<at::Tensor> out = found_;
    const auto narrow = [](at::Tensor& g, const at::Tensor& like) {
      if (g.scalar_type() != like.scalar_type()) g = g.to(like.scalar_type());
    };
    size_t i = 0;
    if (needs.inputs) {
      narrow(out[i++], inputs.x);
      if (inputs.columns) narrow(out[i++], *inputs.columns);
    }
    for (size_t t = 0; needs.tensors && t < tensors.size(); t++) narrow(out[i++], tensors[t]);
    return out;
  }

  at::Tensor empty(at::IntArrayRef shape) const { return at::empty(shape, x_.options()); }

  Problem<T> problem;

 private:
  void lay_out(const Plan& plan) {
    shared_ = 0;
    for (int64_t flag : plan.flags) shared_ += 1 + (flag & kBias);
    const T* constants = constants_.data();
    size_t next = 0, own = shared_;
    for (size_t l = 0; l < plan.flags.size(); l++) {
      const int64_t flag = plan.flags[l], activation = plan.activations[l];
      const at::Tensor& weight = tensors_[next++];
      TORCH_CHECK(weight.dim() == 2, "weights must be matrices, got ", weight.sizes(), ".");
      const T* bias = flag & kBias ? tensors_[next++].const_data_ptr<T>() : nullptr;
      const T* scale = flag & kScale ? tensors_[own++].const_data_ptr<T>() : nullptr;
      const T* shift = flag & kShift ? tensors_[own++].const_data_ptr<T>() : nullptr;
      layers_.push_back({weight.const_data_ptr<T>(), bias, scale, shift, weight.size(1), weight.size(0),
                         static_cast<int>(activation), constants, (flag & kSkip) != 0});
      constants += activation_parameters[activation];
    }
  }

  // The dispatcher's door is open to anybody: what would read beyond a tensor must not pass.
  void check() const {
    int64_t width = problem.dim + problem.extra, next = 0, own = static_cast<int64_t>(shared_);
    const auto fits = [&](const at::Tensor& t, int64_t size) {
      TORCH_CHECK(t.numel() == size, "a tensor of the network must have ", size, " elements, got ", t.sizes(), ".");
    };
    for (const Layer<T>& layer : layers_) {
      TORCH_CHECK(layer.in == width, "a layer takes ", layer.in, " inputs, but ", width, " reach it.");
      TORCH_CHECK(!layer.skip || layer.in == layer.out, "a layer that skips must keep its width.");
      next++;
      if (layer.bias) fits(tensors_[next++], layer.out);
      if (layer.scale) fits(tensors_[own++], problem.samples * layer.out);
      if (layer.shift) fits(tensors_[own++], problem.samples * layer.out);
      width = layer.out;
    }
    const int64_t wanted = problem.kind == Kind::energy ? 1 : problem.dim;
    TORCH_CHECK(width == wanted, "the network must have ", wanted, " outputs, got ", width, ".");
    TORCH_CHECK(problem.directions.count > 0, "there must be a direction, got ", problem.directions.count, ".");
    TORCH_CHECK(problem.directions.count <= kMostDirections, "directions are numbered with 32 bits, so there can be ",
                kMostDirections, ", got ", problem.directions.count, ".");
    TORCH_CHECK(!columns_ || columns_->size(0) == problem.samples, "columns must have a row per sample.");
    if (v_) fits(*v_, problem.directions.count * problem.samples * problem.dim);
    TORCH_CHECK(v_ || problem.directions.seeded || problem.directions.count == problem.dim,
                "without v and seed the directions are the basis, one for each coordinate.");
  }

  T* fresh(const at::Tensor& like) {
    found_.push_back(at::empty(like.sizes(), x_.options()));
    return found_.back().template data_ptr<T>();
  }

  at::ScalarType dtype_;
  at::Tensor x_;
  std::optional<at::Tensor> columns_, v_;
  std::vector<T> constants_;
  std::vector<at::Tensor> tensors_;
  std::vector<Layer<T>> layers_;
  std::vector<LayerGradient<T>> layer_gradients_;
  std::vector<at::Tensor> found_;
  size_t shared_ = 0;
};

// Call f with a value of the type that the data are computed in.
template <class F>
auto in_dtype(const at::Tensor& x, const F& f) {
  const at::ScalarType dtype = wide(x);
  TORCH_CHECK(dtype == at::kFloat || dtype == at::kDouble, "x must be of a floating-point type, got ", x.scalar_type(),
              ".");
  return dtype == at::kFloat ? f(float{}) : f(double{});
}

template <class T>
at::Tensor shares(const std::optional<at::Tensor>& weight, const at::Tensor& like, int64_t samples, bool mean) {
  const T share = mean ? T(1) / T(samples) : T(1);
  at::Tensor out = at::empty({samples}, like.options());
  T* p = out.data_ptr<T>();
  std::fill_n(p, samples, share);
  if (weight) {
    const at::Tensor given = prepared(*weight, like.scalar_type());
    TORCH_CHECK(given.numel() == samples, "weight must have ", samples, " elements, got ", given.sizes(), ".");
    std::transform(p, p + samples, given.const_data_ptr<T>(), p, std::multiplies<T>());
  }
  return out;
}

}  // namespace

Plan::Plan(const std::string& name, std::vector<int64_t> rows, std::vector<double> parameters,
           std::vector<int64_t> bits)
    : kind(name == "energy" ? Kind::energy : Kind::score),
      activations(std::move(rows)),
      constants(std::move(parameters)),
      flags(std::move(bits)) {
  TORCH_CHECK(name == "energy" || name == "score", "kind must be energy or score, got ", name, ".");
  TORCH_CHECK(!flags.empty() && flags.size() == activations.size(), "each layer needs an activation and its flags.");
  size_t needed = 0;
  for (int64_t activation : activations) {
    TORCH_CHECK(0 <= activation && activation < activation_count, "there is no activation ", activation, ".");
    needed += activation_parameters[activation];
  }
  TORCH_CHECK(needed <= constants.size(), "the activations take ", needed, " constants, got ", constants.size(), ".");
}

int64_t Plan::tensors() const {
  int64_t count = 0;
  for (int64_t flag : flags) count += 1 + !!(flag & kBias) + !!(flag & kScale) + !!(flag & kShift);
  return count;
}

bool is_bfloat16(const std::string& precision) {
  TORCH_CHECK(precision == "full" || precision == "bf16", "precision must be full or bf16, got ", precision, ".");
  return precision == "bf16";
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, std::vector<at::Tensor>> objective(
    const Plan& plan, const Inputs& inputs, at::TensorList tensors, const std::optional<at::Tensor>& weight, Form form,
    Needs needs) {
  return in_dtype(inputs.x, [&](auto zero) {
    using T = decltype(zero);
    Call<T> call(plan, inputs, tensors);
    const int64_t samples = call.problem.samples;
    at::Tensor jacobian = call.empty({samples}), square = call.empty({samples});
    const at::Tensor share = shares<T>(weight, jacobian, samples, form.mean);
    const T *w = share.const_data_ptr<T>(), *a = jacobian.const_data_ptr<T>(), *b = square.const_data_ptr<T>();
    fastssm::cpu::objective<T>(call.problem, {form.variance_reduced, w, jacobian.data_ptr<T>(), square.data_ptr<T>()},
                               call.gradients(needs), runtime<T>(inputs.bfloat16));
    double loss = 0;
    for (int64_t i = 0; i < samples; i++) loss += double(w[i]) * (double(a[i]) + double(b[i]));
    return std::make_tuple(at::scalar_tensor(loss, jacobian.options()), jacobian, square,
                           call.found(inputs, tensors, needs));
  });
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> terms(const Plan& plan, const Inputs& inputs, at::TensorList tensors) {
  return in_dtype(inputs.x, [&](auto zero) {
    using T = decltype(zero);
    const Call<T> call(plan, inputs, tensors);
    const Problem<T>& p = call.problem;
    at::Tensor projected = call.empty({p.directions.count, p.samples}), jacobian = call.empty({p.samples}),
               score = call.empty({p.samples, p.dim});
    fastssm::cpu::terms<T>(p, {projected.data_ptr<T>(), jacobian.data_ptr<T>(), score.data_ptr<T>()},
                           runtime<T>(inputs.bfloat16));
    return std::make_tuple(projected, jacobian, score);
  });
}

std::vector<at::Tensor> terms_backward(const Plan& plan, const at::Tensor& on_projected,
                                       const at::Tensor& on_jacobian, const at::Tensor& on_score,
                                       const Inputs& inputs, at::TensorList tensors, Needs needs) {
  return in_dtype(inputs.x, [&](auto zero) {
    using T = decltype(zero);
    Call<T> call(plan, inputs, tensors);
    const Problem<T>& p = call.problem;
    const at::ScalarType dtype = c10::CppTypeToScalarType<T>::value;
    const at::Tensor a = prepared(on_projected, dtype), b = prepared(on_jacobian, dtype), c = prepared(on_score, dtype);
    TORCH_CHECK(a.numel() == p.directions.count * p.samples && b.numel() == p.samples && c.numel() == p.samples * p.dim,
                "the cotangents must have the shapes of the terms.");
    fastssm::cpu::terms_backward<T>(p, {a.template data_ptr<T>(), b.template data_ptr<T>(), c.template data_ptr<T>()},
                                    call.gradients(needs), runtime<T>(inputs.bfloat16));
    return call.found(inputs, tensors, needs);
  });
}

}  // namespace fastssm::on_tensors
