#include "model.h"

#include <algorithm>
#include <string_view>

#include "../maths/activations.h"

namespace fastssm::cpu {
namespace {

static_assert(std::string_view(activation_names[kIdentity]) == "identity");
constexpr int64_t kMinParallel = 1 << 17;  // parameters; packing fewer takes one thread

}  // namespace

template <class T>
Model<T>::Model(const Problem<T>& given, const Runtime<T>& how, bool to_inputs, Arena& arena)
    : problem(given), runtime(how) {
  const Layer<T>& last = problem.layers[problem.depth - 1];
  given_readout = plain(last);
  hidden.assign(problem.layers, problem.layers + problem.depth - given_readout);
  readout = last;
  if (!given_readout) {
    identity_.assign(last.out * last.out, T(0));
    for (int64_t i = 0; i < last.out; i++) identity_[i * last.out + i] = T(1);
    readout = Layer<T>{.weight = identity_.data(), .in = last.out, .out = last.out, .activation = kIdentity};
  }
  widest = pad(std::max(readout.in, problem.dim + problem.extra));
  for (const Layer<T>& layer : hidden) widest = std::max(widest, pad(layer.out));
  zeros = padded(nullptr, widest, arena);
  readout_row = problem.kind == Kind::energy ? padded(readout.weight, readout.in, arena) : nullptr;
  for (const Layer<T>& layer : hidden) {
    const bool here = layer.bias && !layer.scale && !layer.shift;  // else it is added before the modulation
    biases.push_back(here ? padded(layer.bias, layer.out, arena) : zeros);
    weights.emplace_back(layer, to_inputs || !weights.empty(), runtime.narrow, runtime.kernels);
  }
  if (problem.kind == Kind::score) weights.emplace_back(readout, true, runtime.narrow, runtime.kernels);
  for (Weights<T>& w : weights) w.allocate(arena);
  pack();
}

template <class T>
const T* Model<T>::padded(const T* row, int64_t width, Arena& arena) const {
  T* out = arena.take<T>(pad(width));
  std::fill(out, out + pad(width), T(0));
  if (row) std::copy(row, row + width, out);
  return out;
}

template <class T>
void Model<T>::pack() {
  std::vector<std::pair<const Weights<T>*, int64_t>> pieces;
  int64_t parameters = 0;
  for (const Weights<T>& w : weights)
    for (int64_t piece = 0; piece < w.pieces(); piece++) pieces.emplace_back(&w, piece);
  for (const Layer<T>& layer : hidden) parameters += layer.in * layer.out;
  const auto one = [&](int64_t i) { pieces[i].first->pack(pieces[i].second); };
  const int64_t count = static_cast<int64_t>(pieces.size());
  if (runtime.threads > 1 && parameters > kMinParallel) {
    runtime.run(count, one);
  } else {
    for (int64_t i = 0; i < count; i++) one(i);
  }
}

template struct Model<float>;
template struct Model<double>;

}  // namespace fastssm::cpu
