// What all sweeps share: the steps through one layer, up and down, and the input and output of a tile and a call.
#include <cmath>

#include "../maths/activations.h"
#include "../maths/philox.h"
#include "launch.h"
#include "pass.h"

namespace fastssm::cuda {

// ---- products --------------------------------------------------------------------------------------------------

template <class T>
typename Pass<T>::Operand Pass<T>::operand(Rows rows, int64_t count, int64_t width) const {
  return {matrix<const T>(rows.p, count, width, rows.ld), matrix<const uint16_t>(rows.narrow, count, width, rows.ld)};
}

template <class T>
typename Pass<T>::Operand Pass<T>::weight(int64_t l) const {
  const Layer<T>& w = layer(l);
  if (!narrow_) return {matrix(w.weight, w.out, w.in, w.in), {}};
  return {{}, matrix<const uint16_t>(weights_[l].to, w.out, w.in, weights_[l].padded)};
}

template <class T>
void Pass<T>::product(const Operand& a, const Operand& b, View<T> c, bool accumulate) {
  if constexpr (sizeof(T) == sizeof(float)) {
    if (narrow_) return bfloat16_product(runtime_, a.narrow, b.narrow, c, accumulate);
  }
  multiply<T>(runtime_, a.wide, b.wide, c, accumulate);
}

template <class Operand>
Operand turned(const Operand& of) {
  return {transposed(of.wide), transposed(of.narrow)};
}

// out = in W^T
template <class T>
void Pass<T>::product_up(int64_t l, int64_t rows, Rows in, Rows out) {
  const Layer<T>& w = layer(l);
  product(operand(in, rows, w.in), turned(weight(l)), matrix(out.p, rows, w.out, out.ld), false);
}

// out (+)= adjoints W
template <class T>
void Pass<T>::product_down(int64_t l, int64_t rows, Rows adjoints, Rows out, bool accumulate) {
  const Layer<T>& w = layer(l);
  product(operand(adjoints, rows, w.out), weight(l), matrix(out.p, rows, w.in, out.ld), accumulate);
}

// dW += adjoints^T entered, where dW is wanted; `more`: not the first of this tile.
template <class T>
void Pass<T>::product_outer(int64_t l, int64_t rows, Rows adjoints, Rows entered, bool more) {
  if (!gradients_.layers) return;
  const Layer<T>& w = layer(l);
  product(turned(operand(adjoints, rows, w.out)), operand(entered, rows, w.in),
          matrix(gradients_.layers[l].weight, w.out, w.in, w.in), begun_ || more);
}

// ---- up --------------------------------------------------------------------------------------------------------

// Lays out x, the conditioning columns after it, and the directions, whose tangents of those columns are zero.
template <class T>
void Pass<T>::enter(const Tile& tile) {
  tile_ = tile;
  const Directions<T>& given = problem_.directions;
  const int64_t dim = problem_.dim, extra = problem_.extra;
  Enter<T> rows{};
  rows.samples = tile.samples;
  rows.kinds = given.seeded ? 1 : tile.tangents + 1;
  rows.dim = dim, rows.extra = extra, rows.ld = first_.ld;
  rows.x = of_tile(problem_.x, dim), rows.columns = of_tile(problem_.columns, extra);
  rows.v = given.v ? given.v + (tile.direction * problem_.samples + tile.first) * dim : nullptr;
  rows.v_stride = problem_.samples * dim;
  rows.direction = tile.direction, rows.unit = std::sqrt(T(dim));
  rows.out = first_.p, rows.narrow = first_.narrow;
  const int64_t count = rows.kinds * tile.samples;
  over_rows(runtime_, "enter", count, count, first_.ld, rows, rows.walk);
  if (!given.seeded || tile.tangents == 0) return;
  const int64_t counters = tile.tangents * tile.samples * divided_up(first_.ld, signs_per_counter);
  const Grid grid{static_cast<unsigned>(divided_up(counters, kThreads))};
  const Rows to = direction(0);
  const Rademacher signs{.seed = seed_,
                         .first_sample = tile.first,
                         .samples = tile.samples,
                         .first_projection = tile.direction,
                         .projections = tile.tangents,
                         .dim = dim,
                         .ld = first_.ld,
                         .out = to.p,
                         .narrow = to.narrow};
  start(runtime_, "rademacher", {.grid = grid, .threads = kThreads}, signs);
}

// What kernels take of a layer's activation, for the samples of this tile.
template <class T>
Activated<T> Pass<T>::activated(int64_t l) const {
  const Layer<T>& layer = hidden_[l];
  Activated<T> of{};
  of.activation = layer.activation;
  std::copy_n(layer.constants, activation_parameters[layer.activation], of.constants);
  of.bias = layer.bias;
  of.scale = of_tile(layer.scale, layer.out), of.shift = of_tile(layer.shift, layer.out);
  return of;
}

template <class T>
void Pass<T>::layer_up(int64_t l, bool curvature, bool squares) {
  const Layer<T>& layer = hidden_[l];
  const Stage& s = stages_[l];
  const bool fresh = l == 0;
  const int64_t rows = (tile_.tangents + 1 + (curvature && !fresh)) * tile_.samples;
  Up<T> up{};
  up.shape = shape(l), up.layer = activated(l);
  up.curvature = curvature, up.fresh = fresh;
  up.entered = layer.skip ? entering(l).p : nullptr;
  up.z = s.z, up.out = s.out, up.narrow = s.narrow_out;
  up.q = squares ? s.q : nullptr;
  if constexpr (sizeof(T) == sizeof(float)) {
    if (product_and_up(runtime_, operand(entering(l), rows, layer.in).wide, weight(l).wide,
                       matrix(s.z, rows, layer.out, s.ld), up))
      return;
  }
  product_up(l, rows, entering(l), {s.z, s.ld});
  over_rows(runtime_, std::string("up_") + activation_names[layer.activation], tile_.samples, tile_.samples, s.ld, up,
            up.walk);
}

// ---- down ------------------------------------------------------------------------------------------------------

// What the kernels down take of a layer. Where it skips, they also copy the adjoints from above to below.
template <class T>
Back<T> Pass<T>::back(int64_t l, bool anything_above) const {
  const Layer<T>& layer = hidden_[l];
  const Stage& s = stages_[l];
  const bool down = l > 0 || gradients_.x;
  Back<T> back{};
  back.shape = shape(l), back.layer = activated(l);
  back.z = s.z;
  back.adjoints = s.adjoints, back.narrow = s.narrow_adjoints;
  back.kept = layer.skip && down && anything_above ? adjoints_below(l).p : nullptr;
  back.kept_all = l > 0;
  back.add_partial = begun_, back.add_samples = !tile_.leading();
  if (!gradients_.layers) return back;
  back.partial = layer.bias ? bias_sums_[l].partial : nullptr;
  back.on_scale = of_tile(gradients_.layers[l].scale, layer.out);
  back.on_shift = of_tile(gradients_.layers[l].shift, layer.out);
  return back;
}

// After the kernel down, whose grid had this height: the gradient of the matrix from `kinds` rows of each sample, and
// the product that passes `passed` of them to the layer below.
template <class T>
void Pass<T>::layer_down(int64_t l, const Back<T>& back, int64_t height, int64_t kinds, int64_t passed) {
  if (!begun_) bias_sums_[l].rows = height;
  const Rows from = adjoints(stages_[l]);
  product_outer(l, kinds * tile_.samples, from, entering(l), false);
  if (l > 0 || gradients_.x)
    product_down(l, passed * tile_.samples, from, adjoints_below(l), back.kept != nullptr);
}

template <class T>
void Pass<T>::leave(bool anything) {
  if (!gradients_.x) return;
  Leave<T> leave{};
  leave.samples = tile_.samples, leave.dim = problem_.dim, leave.extra = problem_.extra, leave.ld = entry_.ld;
  leave.rows = anything ? entry_.p : nullptr;
  leave.x = of_tile(gradients_.x, problem_.dim), leave.columns = of_tile(gradients_.columns, problem_.extra);
  leave.add = !tile_.leading();
  over_rows(runtime_, "leave", tile_.samples, tile_.samples, entry_.ld, leave, leave.walk);
}

// ---- sums over tiles -------------------------------------------------------------------------------------------

template <class T>
void Pass<T>::weighted_sum(Sum& sum, int64_t rows, Rows a, const T* coefficients) {
  WeightedSum<T> parameters{.walk = {},
                            .rows = rows,
                            .ld = a.ld,
                            .a = a.p,
                            .coefficients = coefficients,
                            .partial = sum.partial,
                            .add = begun_};
  const int64_t most = (largest_.tangents + 2) * largest_.samples;
  const int64_t height = over_rows(runtime_, "weighted_sum", rows, most, a.ld, parameters, parameters.walk, true);
  if (!begun_) sum.rows = height;
}

// Writes the sums to the caller's tensors, and zeros where nothing was added.
template <class T>
void Pass<T>::finish() {
  std::vector<Segment<T>> segments;
  const auto end = [&](const Sum& sum, T* out, int64_t width) {
    if (out) segments.push_back({.partial = sum.partial, .rows = sum.rows, .ld = sum.ld, .out = out, .width = width});
  };
  for (int64_t l = 0; l < problem_.depth; l++) {
    const Layer<T>& layer = problem_.layers[l];
    const LayerGradient<T>& out = gradients_.layers[l];
    const bool readout = l == depth();
    if (readout && energy()) end(readout_sum_, out.weight, layer.in);
    else if (!begun_) end({}, out.weight, layer.in * layer.out);
    if (readout) end(energy() ? Sum{} : readout_sum_, out.bias, layer.out);  // an energy's constant does not matter
    else end(bias_sums_[l], out.bias, layer.out);
  }
  for (size_t first = 0; first < segments.size(); first += kSegments) {
    Finish<T> finish{};
    finish.count = static_cast<int>(std::min<size_t>(kSegments, segments.size() - first));
    std::copy_n(segments.begin() + first, finish.count, finish.segments);
    int64_t widest = 0;
    for (int i = 0; i < finish.count; i++) widest = std::max(widest, finish.segments[i].width);
    const Grid grid{static_cast<unsigned>(divided_up(widest, kFinished * kLanes<T>)), unsigned(finish.count)};
    start(runtime_, "finish", {.grid = grid, .threads = kThreads, .shared = kThreads * size_t(kAccess)}, finish);
  }
}

template class Pass<float>;
template class Pass<double>;

}  // namespace fastssm::cuda
