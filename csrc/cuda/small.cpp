// The whole-net kernels: which networks they take, their layout of shared memory, and their launches.
#include <algorithm>

#include "../maths/activations.h"
#include "engine.h"
#include "kernels/small_params.h"
#include "launch.h"

namespace fastssm::cuda {
namespace {

constexpr int kLargestTile = 64;    // samples
constexpr int kMinTile = 4;         // samples; below it, process fewer directions at a time instead
constexpr int kMaxTangents = 8;
constexpr int kMaxDirections = 1 << 20;

template <class T>
struct Names;
template <>
struct Names<float> {
  static constexpr const char *energy = "small_objective_float", *score = "small_score_float",
                              *reduce = "small_reduce_float";
};
template <>
struct Names<double> {
  static constexpr const char *energy = "small_objective_double", *score = "small_score_double",
                              *reduce = "small_reduce_double";
};

// The distance between rows, an odd number of quads, so that rows begin in different banks.
int spaced(int width) { return 4 * (quads(width) | 1); }

// Assigns offsets, each a multiple of four elements.
struct Space {
  int used = 0;
  int take(int size) {
    const int at = used;
    used += 4 * quads(size);
    return at;
  }
};

template <class T>
bool is_small(const Problem<T>& problem, Precision precision) {
  if (rounds(precision) || problem.samples == 0) return false;
  if (problem.depth < 2 || problem.depth - 1 > kSmallDepth || problem.dim + problem.extra > kSmallWidth) return false;
  if (!plain(problem.layers[problem.depth - 1])) return false;
  if (problem.directions.count > kMaxDirections) return false;
  return std::all_of(problem.layers, problem.layers + problem.depth, [&](const Layer<T>& layer) {
    return layer.in <= kSmallWidth && layer.out <= kSmallWidth && !layer.scale && !layer.shift;
  });
}

template <class T>
SmallLayer<T> small_layer(const Layer<T>& layer, const LayerGradient<T>* gradient) {
  SmallLayer<T> s{};
  s.weight = layer.weight;
  s.bias = layer.bias;
  s.on_weight = gradient ? gradient->weight : nullptr;
  s.on_bias = gradient ? gradient->bias : nullptr;
  std::copy_n(layer.constants, activation_parameters[layer.activation], s.constants);
  s.in = static_cast<int>(layer.in);
  s.out = static_cast<int>(layer.out);
  s.activation = layer.activation;
  s.skip = layer.skip;
  return s;
}

template <class T>
Small<T> describe(const Problem<T>& problem, const int64_t* seed, const Objective<T>& out, T* loss,
                  const Gradients<T>& gradients) {
  Small<T> p{};
  p.depth = static_cast<int>(problem.depth - 1);
  const auto gradient = [&](int l) { return gradients.layers ? gradients.layers + l : nullptr; };
  for (int l = 0; l < problem.depth; l++) p.layers[l] = small_layer(problem.layers[l], gradient(l));
  p.matrices = problem.kind == Kind::energy ? p.depth : p.depth + 1;
  if (p.energy()) {
    const SmallLayer<T>& readout = p.layers[p.depth];
    p.readout = readout.weight;
    p.readout_bias = readout.bias;
    p.on_readout = readout.on_weight;
    p.on_readout_bias = readout.on_bias;
  }
  p.x = problem.x;
  p.columns = problem.columns;
  p.on_x = gradients.x;
  p.on_columns = gradients.columns;
  p.samples = problem.samples;
  p.dim = static_cast<int>(problem.dim);
  p.extra = static_cast<int>(problem.extra);
  p.v = problem.directions.v;
  p.seed = problem.directions.seeded ? seed : nullptr;
  p.count = static_cast<int>(problem.directions.count);
  p.variance_reduced = out.variance_reduced;
  p.gradients = gradients.x || gradients.layers;
  p.weight = {out.weight, out.factor};
  p.projected_jacobian = out.projected_jacobian;
  p.square = out.square;
  p.loss = loss;
  return p;
}

// Lays out shared memory for the tile of `p`. Returns its bytes.
template <class T>
size_t lay_out(Small<T>& p) {
  Space space;
  const bool chained = p.energy() && p.variance_reduced;
  const int rows = (p.tangents + 1 + p.energy()) * p.tile, uncurved = (p.tangents + 1) * p.tile;
  const SmallLayer<T>& top = p.layers[p.depth - 1];
  p.at_first = space.take((chained ? rows : uncurved) * spaced(p.layers[0].in));
  p.patches = 0;
  for (int l = 0; l < p.matrices; l++) {
    SmallLayer<T>& s = p.layers[l];
    s.ld_in = spaced(s.in);
    s.ld = spaced(l < p.depth ? s.out : p.layers[0].in);  // a score's readout multiplies the directions
    s.first_patch = p.patches;
    p.patches += quads(s.out) * quads(s.in);
    s.at_weight = space.take(4 * quads(s.out) * s.ld_in);
    s.at_bias = space.take(s.out);
    s.at_in = l == 0 ? p.at_first : p.layers[l - 1].at_out;
    if (l == p.depth) {
      if (p.variance_reduced) s.at_z = space.take(p.tile * s.ld);
      continue;
    }
    s.at_z = space.take(rows * s.ld);
    s.at_out = space.take(rows * s.ld);
    s.at_d2 = space.take(p.tile * s.ld);
    if (p.energy()) s.at_d3 = space.take(p.tile * s.ld);
    if (chained) s.at_chain = space.take(p.tile * s.ld);
  }
  if (p.energy()) p.at_readout = space.take(top.out);
  else p.at_pullback = space.take(p.tangents * p.tile * top.ld);
  p.at_energy = space.take(rows);
  p.at_weights = space.take(p.tile);
  p.at_projected_jacobian = space.take(p.tile);
  p.at_square = space.take(p.tile);
  p.at_total = space.take(p.tile);
  Space sums;
  for (int l = 0; l < p.matrices; l++) p.layers[l].at_bias_sum = sums.take(p.layers[l].out);
  if (p.energy()) p.at_readout_sum = sums.take(top.out);
  p.at_loss_sum = sums.take(1);
  p.sums = sums.used;
  p.at_sums = space.take(p.sums);
  p.partial = 16 * p.patches + p.sums;
  return space.used * sizeof(T);
}

// Chooses the tile: as many samples as there are for each multiprocessor, or as many as fit.
template <class T>
size_t fit(Small<T>& p, const Limits& limits) {
  const int64_t share = (p.samples + limits.multiprocessors - 1) / limits.multiprocessors;
  const int wanted = static_cast<int>(std::min<int64_t>(share, kLargestTile));
  for (p.tangents = std::min(p.count, kMaxTangents);; p.tangents = (p.tangents + 1) / 2) {
    p.tile = wanted;
    size_t shared = lay_out(p);
    while (shared > limits.shared_per_block && p.tile > 1) {
      p.tile--;
      shared = lay_out(p);
    }
    const bool fits = shared <= limits.shared_per_block;
    if (fits && p.tile >= std::min(wanted, kMinTile)) return shared;
    if (p.tangents == 1) return fits ? shared : 0;
  }
}

}  // namespace

template <class T>
bool small_objective(const Problem<T>& problem, const int64_t* seed, const Objective<T>& out, T* loss,
                     const Gradients<T>& gradients, const Runtime<T>& runtime) {
  if (!runtime.whole_net || !is_small(problem, runtime.precision)) return false;
  Small<T> p = describe(problem, seed, out, loss, gradients);
  const Limits& limits = runtime.launcher.limits();
  const size_t shared = fit(p, limits);
  if (shared == 0 || p.patches > small_slots<T> * kSmallThreads) return false;
  p.blocks = static_cast<int>(std::min<int64_t>((p.samples + p.tile - 1) / p.tile, limits.multiprocessors));
  p.partials = static_cast<T*>(runtime.allocate(sizeof(T) * p.blocks * p.partial));
  const auto count = [](int n) { return Grid{static_cast<unsigned>(n)}; };
  const char* objective = p.energy() ? Names<T>::energy : Names<T>::score;
  runtime.launcher(objective, {.grid = count(p.blocks), .threads = kSmallThreads, .shared = shared}, p, runtime.stream);
  const Launch reduce{.grid = count(static_cast<int>(divided_up(p.partial, kWarp))),
                      .threads = kReducers * kWarp,
                      .shared = kReducers * kWarp * sizeof(T)};
  runtime.launcher(Names<T>::reduce, reduce, p, runtime.stream);
  return true;
}

template bool small_objective(const Problem<float>&, const int64_t*, const Objective<float>&, float*,
                              const Gradients<float>&, const Runtime<float>&);
template bool small_objective(const Problem<double>&, const int64_t*, const Objective<double>&, double*,
                              const Gradients<double>&, const Runtime<double>&);

}  // namespace fastssm::cuda
