// A call of an engine on tensors: it checks them, describes them by the structs of network.h, and returns gradients. It
// works with both C++ interfaces of torch. The template parameter Torch is one of them, and has
//   Tensor, Tensors, Sizes                   its types
//   prepared<T>(tensor)                      the same numbers as T, contiguous
//   empty<T>(sizes, like)                    a new tensor of T on the device of `like`
//   gradients<T>(like, count, packed)        new tensors of T with the shapes and on the device of `count` others; if
//                                            packed, they may be parts of one buffer
//   narrowed(gradient, like)                 a gradient in the dtype of its tensor
#pragma once

#include <optional>
#include <utility>
#include <vector>

#include "structure.h"

namespace fastssm {

// The tensors of a call that are not weights, and the number of directions.
template <class Tensor>
struct Inputs {
  Tensor x;
  std::optional<Tensor> columns;
  std::optional<Tensor> v;
  std::optional<Tensor> seed;
  int64_t projections;
};

// A shape in an error message, formatted only where there is an error.
struct ShapeText {
  const int64_t* sizes;
  size_t axes;
};

inline std::ostream& operator<<(std::ostream& out, const ShapeText& shape) {
  out << '[';
  for (size_t i = 0; i < shape.axes; i++) out << (i ? ", " : "") << shape.sizes[i];
  return out << ']';
}

constexpr int64_t kMaxDirections = int64_t(1) << 32;  // numbered with 32 bits

// Owns the tensors that had to be converted or made contiguous.
template <class Torch, class T>
class Call {
 public:
  using Tensor = typename Torch::Tensor;
  using Tensors = typename Torch::Tensors;
  using Sizes = typename Torch::Sizes;

  Call(const Structure& structure, const Inputs<Tensor>& inputs, const Tensors& tensors)
      : x_(Torch::template prepared<T>(inputs.x)),
        columns_(prepared(inputs.columns)),
        v_(prepared(inputs.v)),
        constants_(structure.constants.begin(), structure.constants.end()),
        shared_(structure.shared()) {
    require(tensors.size() == structure.tensors(), "the structure of this network has ", structure.tensors(),
            " tensors, got ", tensors.size(), ".");
    require(x_.dim() == 2, "x must be a matrix, got ", shape(x_), ".");
    require(!columns_ || columns_->dim() == 2, "columns must be a matrix.");
    for (const Tensor& t : tensors) tensors_.push_back(Torch::template prepared<T>(t));
    lay_out(structure);
    const Directions<T> directions{
        .count = inputs.projections, .v = v_ ? data(*v_) : nullptr, .seeded = inputs.seed.has_value(), .seed = 0};
    problem = {.kind = structure.kind,
               .layers = layers_.data(),
               .depth = static_cast<int64_t>(layers_.size()),
               .x = data(x_),
               .columns = columns_ ? data(*columns_) : nullptr,
               .samples = x_.size(0),
               .dim = x_.size(1),
               .extra = columns_ ? columns_->size(1) : 0,
               .directions = directions};
    check();
  }
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  // Allocates the gradients, and returns pointers for the engine to fill.
  Gradients<T> gradients(Needs needs, bool packed = false) {
    Gradients<T> out{};
    if (needs.inputs) {
      out.x = fresh(&x_, 1, false)[0];
      out.columns = columns_ ? fresh(&*columns_, 1, false)[0] : nullptr;
    }
    if (needs.tensors) {
      // apart, because an optimizer keeps the gradients of parameters, and those of single samples are large
      const std::vector<T*> shared = fresh(tensors_.data(), shared_, packed),
                            own = fresh(tensors_.data() + shared_, tensors_.size() - shared_, packed);
      auto next = shared.begin(), next_own = own.begin();
      for (const Layer<T>& layer : layers_) {
        T* weight = *next++;
        T* bias = layer.bias ? *next++ : nullptr;
        T* scale = layer.scale ? *next_own++ : nullptr;
        T* shift = layer.shift ? *next_own++ : nullptr;
        layer_gradients_.push_back({.weight = weight, .bias = bias, .scale = scale, .shift = shift});
      }
      out.layers = layer_gradients_.data();
    }
    return out;
  }

  // Returns the gradients, each in the dtype of its tensor.
  std::vector<Tensor> found(const Inputs<Tensor>& inputs, const Tensors& tensors, Needs needs) const {
    std::vector<Tensor> out;
    auto next = found_.begin();
    const auto hand_back = [&](const Tensor& like) { out.push_back(Torch::narrowed(*next++, like)); };
    if (needs.inputs) {
      hand_back(inputs.x);
      if (inputs.columns) hand_back(*inputs.columns);
    }
    if (needs.tensors)
      for (const Tensor& t : tensors) hand_back(t);
    return out;
  }

  // An objective is a mean over directions, so it needs one; the terms do not.
  void need_direction() const {
    require(problem.directions.count > 0, "there must be a direction, got ", problem.directions.count, ".");
  }

  // Sets all gradients to zero: those of a call without samples.
  void clear() {
    for (Tensor& t : found_) zero_(t);
  }

  // A cotangent of the terms, or another tensor that must have `size` elements.
  Tensor given(const Tensor& t, int64_t size, const char* name) const {
    require(t.numel() == size, name, " must have ", size, " elements, got ", shape(t), ".");
    return Torch::template prepared<T>(t);
  }

  Tensor empty(const Sizes& sizes) const { return Torch::template empty<T>(sizes, x_); }

  Problem<T> problem;

 private:
  static std::optional<Tensor> prepared(const std::optional<Tensor>& t) {
    return t ? std::optional<Tensor>(Torch::template prepared<T>(*t)) : std::nullopt;
  }

  static ShapeText shape(const Tensor& t) { return {t.sizes().data(), static_cast<size_t>(t.dim())}; }

  static const T* data(const Tensor& t) { return t.template const_data_ptr<T>(); }

  void lay_out(const Structure& structure) {
    const T* constants = constants_.data();
    size_t next = 0, own = shared_;
    for (size_t l = 0; l < structure.flags.size(); l++) {
      const int64_t flag = structure.flags[l], activation = structure.activations[l];
      const Tensor& weight = tensors_[next++];
      require(weight.dim() == 2, "weights must be matrices, got ", shape(weight), ".");
      const T* bias = flag & kBias ? data(tensors_[next++]) : nullptr;
      const T* scale = flag & kScale ? data(tensors_[own++]) : nullptr;
      const T* shift = flag & kShift ? data(tensors_[own++]) : nullptr;
      layers_.push_back({.weight = data(weight),
                         .bias = bias,
                         .scale = scale,
                         .shift = shift,
                         .in = weight.size(1),
                         .out = weight.size(0),
                         .activation = static_cast<int>(activation),
                         .constants = constants,
                         .skip = (flag & kSkip) != 0});
      constants += activation_parameters[activation];
    }
  }

  // Anyone may call the operators of the dispatcher, so this refuses all that would read beyond a tensor.
  void check() const {
    int64_t width = problem.dim + problem.extra;
    size_t next = 0, own = shared_;
    const auto fits = [&](const Tensor& t, int64_t size) {
      require(t.numel() == size, "a tensor of the network must have ", size, " elements, got ", shape(t), ".");
    };
    for (const Layer<T>& layer : layers_) {
      require(layer.in == width, "a layer takes ", layer.in, " inputs, but ", width, " reach it.");
      require(!layer.skip || layer.in == layer.out, "a layer that skips must keep its width.");
      next++;
      if (layer.bias) fits(tensors_[next++], layer.out);
      if (layer.scale) fits(tensors_[own++], problem.samples * layer.out);
      if (layer.shift) fits(tensors_[own++], problem.samples * layer.out);
      width = layer.out;
    }
    const int64_t wanted = problem.kind == Kind::energy ? 1 : problem.dim, count = problem.directions.count;
    require(width == wanted, "the network must have ", wanted, " outputs, got ", width, ".");
    require(count >= 0, "there cannot be ", count, " directions.");
    require(count <= kMaxDirections, "directions are numbered with 32 bits, so there can be ", kMaxDirections, ", got ",
            count, ".");
    require(!columns_ || columns_->size(0) == problem.samples, "columns must have a row per sample.");
    if (v_) fits(*v_, count * problem.samples * problem.dim);
    require(v_ || problem.directions.seeded || count == 0 || count == problem.dim,
            "without v and seed the directions are the basis, one for each coordinate.");
  }

  std::vector<T*> fresh(const Tensor* like, size_t count, bool packed) {
    std::vector<T*> out;
    for (Tensor& t : Torch::template gradients<T>(like, count, packed)) {
      out.push_back(t.template mutable_data_ptr<T>());
      found_.push_back(std::move(t));
    }
    return out;
  }

  Tensor x_;
  std::optional<Tensor> columns_, v_;
  std::vector<T> constants_;
  std::vector<Tensor> tensors_;
  std::vector<Layer<T>> layers_;
  std::vector<LayerGradient<T>> layer_gradients_;
  std::vector<Tensor> found_;
  size_t shared_;
};

}  // namespace fastssm
