// What all sweeps share: a tile's buffers, the steps through one layer, and the input and output of a tile.
#include "tile_sweep.h"

#include <algorithm>
#include <cstring>

namespace fastssm::cpu {
namespace {

// Whole lines of the cache, not a multiple of a kilobyte: such rows would share a few lines of the first-level cache.
int64_t spaced(int64_t width, bool narrow) {
  const int64_t line = narrow ? 2 * kAlign : kAlign, whole = (width + line - 1) / line * line;
  return whole + (whole % 256 == 0 ? line : 0);
}

}  // namespace

template <class T>
TileSweep<T>::TileSweep(const Model<T>& model, const Gradients<T>& gradients, Sums<T>& sums, SweepOptions options,
                        Tile largest, Arena& arena)
    : model_(model),
      kernels_(model.runtime.kernels),
      gradients_(gradients),
      sums_(sums),
      options_(options),
      tile_(largest) {
  const int64_t samples = largest.samples, kinds = largest.tangents + 2, rows = kinds * samples;
  const auto take = [&](int64_t count, int64_t ld) { return arena.take<T>(count * ld); };
  const auto& weights = model.weights;
  const bool narrow = std::any_of(weights.begin(), weights.end(), [](const Weights<T>& w) { return w.narrow(); });
  const int64_t in_ld = spaced(model.problem.dim + model.problem.extra, narrow);
  int64_t widest = std::max(in_ld, spaced(model.readout.in, narrow));
  for (const Layer<T>& layer : model.hidden) widest = std::max(widest, spaced(layer.out, narrow));
  first_ = {take(rows, in_ld), in_ld};
  entry_ = {take(samples, in_ld), in_ld};
  score_ = {take(samples, in_ld), in_ld};
  on_score_ = {take(samples, in_ld), in_ld};
  add_stages(rows, widest, narrow, arena);
  const int64_t pullback_ld = spaced(model.readout.in, narrow);
  pullback_ = {model.problem.kind == Kind::score ? take(rows, pullback_ld) : nullptr, pullback_ld};
  projected_ = take(largest.tangents, samples);
  projected_jacobian_ = take(jacobian_rows(), samples);
  on_projected_jacobian_ = take(jacobian_rows(), samples);
  energy_ = take(kinds, samples);
  nan_flag_ = take(1, samples);
  coefficients_ = take(kinds, samples);
  if (along_axes() && options.gradients) axes_ = {take(largest.tangents, widest), widest};
  if (narrow) {
    scratch_.rows = arena.take<uint16_t>(rows * widest);
    scratch_.transposed = arena.take<uint16_t>(widest * model.runtime.narrow.deep(rows));
    scratch_.interleaved = arena.take<uint16_t>(model.runtime.narrow.panel * model.runtime.narrow.deep(rows));
  }
}

// Stages share their adjoints, unless a merged sweep fills those of all layers before it reads them.
template <class T>
void TileSweep<T>::add_stages(int64_t rows, int64_t widest, bool narrow, Arena& arena) {
  const int64_t samples = tile_.samples;
  const bool shared = options_.gradients && !options_.merged;
  const auto take = [&](int64_t count, int64_t ld) { return arena.take<T>(count * ld); };
  const auto zeroed = [&](int64_t ld) {  // products read the padding
    uint16_t* out = arena.take<uint16_t>(rows * ld);
    std::fill_n(out, rows * ld, uint16_t(0));
    return out;
  };
  T* adjoints[2] = {nullptr, nullptr};
  if (shared) adjoints[0] = take(rows, widest), adjoints[1] = take(rows, widest);
  uint16_t* narrow_adjoints = narrow && shared ? zeroed(widest) : nullptr;
  for (int64_t l = 0; l < int64_t(model_.hidden.size()); l++) {
    const Layer<T>& layer = model_.hidden[l];
    Stage s{};
    s.ld = spaced(layer.out, narrow);
    s.z = take(rows, s.ld);
    s.narrow_out = narrow_above(l) ? zeroed(s.ld) : nullptr;
    s.out = s.narrow_out ? nullptr : take(rows, s.ld);
    s.d2 = take(samples, s.ld);
    s.d3 = take(samples, s.ld);
    s.q = options_.merged ? take(samples, s.ld) : nullptr;
    s.adjoints = options_.merged ? take(rows, s.ld) : adjoints[l % 2];
    s.narrow_adjoints = !narrow_below(l) ? nullptr : options_.merged ? zeroed(s.ld) : narrow_adjoints;
    s.g = options_.merged ? take(samples, s.ld) : nullptr;
    s.raw = layer.scale ? take(rows, s.ld) : nullptr;
    s.gz = layer.scale && options_.merged ? take(samples, s.ld) : nullptr;
    stages_.push_back(s);
  }
}

// Whether what leaves layer l is needed as bfloat16 alone. Passes would fill the padding of other widths with numbers that
// may not be finite.
template <class T>
bool TileSweep<T>::narrow_above(int64_t l) const {
  const std::vector<Layer<T>>& hidden = model_.hidden;
  return l + 1 < int64_t(hidden.size()) && model_.weights[l + 1].narrow() && !hidden[l].skip && !hidden[l + 1].skip &&
         hidden[l].out % kAlign == 0;
}

// The same of layer l's adjoints.
template <class T>
bool TileSweep<T>::narrow_below(int64_t l) const {
  return model_.weights[l].narrow() && !modulated(l) && !(l == 0 && along_axes()) &&
         model_.hidden[l].out % kAlign == 0;
}

template <class T>
void TileSweep<T>::objective(const Tile& tile, const Objective<T>& objective) {
  enter(tile);
  if (!objective.variance_reduced) {
    if (model_.problem.kind == Kind::energy) return sliced(objective);
    return score_sliced(objective);
  }
  if (options_.gradients) std::copy_n(objective.weight + tile.first, tile.samples, on_projected_jacobian_);
  find_terms();
  const int64_t dim = model_.problem.dim;
  for (int64_t r = 0; r < tile.samples; r++) {
    const int64_t b = tile.first + r;
    T* s = score_.p + r * score_.ld;
    for (int64_t j = 0; objective.target && j < dim; j++) s[j] -= objective.target[b * dim + j];
    T norm(0);
    kernels_.pair_dots(1, pad(dim), s, 0, s, 0, &norm);
    objective.projected_jacobian[b] =
        tile.leading() ? projected_jacobian_[r] : objective.projected_jacobian[b] + projected_jacobian_[r];
    if (tile.leading()) objective.square[b] = norm / 2;
  }
  if (!options_.gradients) return;
  const T none(0);
  for (int64_t r = 0; r < tile.samples; r++)
    kernels_.scaled(1, pad(dim), score_.p + r * score_.ld, 0, tile.leading() ? on_projected_jacobian_ + r : &none,
                    on_score_.p + r * on_score_.ld, 0, false);
  terms_down();
}

template <class T>
void TileSweep<T>::terms(const Tile& tile, const Terms<T>& out) {
  enter(tile);
  find_terms();
  const int64_t dim = model_.problem.dim;
  for (int64_t m = 0; m < tile.tangents; m++)
    std::copy_n(projected_ + m * tile.samples, tile.samples,
                out.projected + (tile.direction + m) * model_.problem.samples + tile.first);
  for (int64_t m = 0; options_.each && m < tile.tangents; m++)
    std::copy_n(projected_jacobian_ + m * tile.samples, tile.samples,
                out.projected_jacobian + (tile.direction + m) * model_.problem.samples + tile.first);
  for (int64_t r = 0; r < tile.samples; r++) {
    const int64_t b = tile.first + r;
    if (!options_.each)
      out.projected_jacobian[b] =
          tile.leading() ? projected_jacobian_[r] : out.projected_jacobian[b] + projected_jacobian_[r];
    std::copy_n(score_.p + r * score_.ld, dim, out.score + b * dim);
  }
}

template <class T>
void TileSweep<T>::terms_backward(const Tile& tile, const Terms<T>& given) {
  enter(tile);
  const int64_t dim = model_.problem.dim, samples = model_.problem.samples;
  for (int64_t m = 0; m < jacobian_rows(); m++)
    std::copy_n(given.projected_jacobian + (options_.each ? tile.direction + m : 0) * samples + tile.first,
                tile.samples, on_projected_jacobian_ + m * tile.samples);
  find_terms();
  for (int64_t r = 0; r < tile.samples; r++) {
    T* row = on_score_.p + r * on_score_.ld;
    std::fill(row, row + pad(dim), T(0));
    if (tile.leading()) std::copy_n(given.score + (tile.first + r) * dim, dim, row);
  }
  for (int64_t m = 0; m < tile.tangents; m++)
    kernels_.scaled(tile.samples, pad(dim), direction(m), first_.ld,
                    given.projected + (tile.direction + m) * samples + tile.first, on_score_.p,
                    on_score_.ld, true);
  terms_down();
}

template <class T>
void TileSweep<T>::find_terms() {
  if (model_.problem.kind == Kind::energy) {
    merged_terms();
  } else {
    score_up(true);
  }
}

template <class T>
void TileSweep<T>::terms_down() {
  for (int64_t r = 0; r < tile_.samples; r++)  // the conditioning columns, after dim, have no direction
    std::fill(on_score_.p + r * on_score_.ld + model_.problem.dim, on_score_.p + (r + 1) * on_score_.ld, T(0));
  if (model_.problem.kind == Kind::energy) {
    merged_down();
  } else {
    score_down(true);
  }
}

// Lays out x, the conditioning columns after it, and the directions, whose tangents of those columns are zero.
template <class T>
void TileSweep<T>::enter(const Tile& tile) {
  tile_ = tile;
  const Problem<T>& p = model_.problem;
  const Directions<T>& directions = p.directions;
  std::fill(first_.p, first_.p + (tile.tangents + 1) * tile.samples * first_.ld, T(0));
  std::fill_n(nan_flag_, tile.samples, T(0));
  for (int64_t r = 0; r < tile.samples; r++) {
    std::copy_n(p.x + (tile.first + r) * p.dim, p.dim, first_.p + r * first_.ld);
    if (p.extra)
      std::copy_n(p.columns + (tile.first + r) * p.extra, p.extra, first_.p + r * first_.ld + p.dim);
  }
  for (int64_t m = 0; m < tile.tangents; m++) {
    const int64_t index = tile.direction + m;
    if (directions.v) {
      for (int64_t r = 0; r < tile.samples; r++)
        std::copy_n(directions.v + (index * p.samples + tile.first + r) * p.dim, p.dim, direction(m) + r * first_.ld);
    } else if (directions.seeded) {
      kernels_.signs(directions.seed, tile.first, tile.samples, index, p.dim, direction(m), first_.ld);
    } else {
      for (int64_t r = 0; r < tile.samples; r++) direction(m)[r * first_.ld + index] = axis();
    }
  }
}

// out = rows W^T; the tangents of unit directions are columns of W, the same for every sample.
template <class T>
void TileSweep<T>::product_up(int64_t l, int64_t kinds, T* out) const {
  const int64_t ld = stages_[l].ld, samples = tile_.samples;
  const Rows<T> in = entering(l);
  const bool columns = l == 0 && along_axes();
  model_.weights[l].up((columns ? 1 : kinds) * samples, in, out, ld, scratch_);
  for (int64_t m = 0; columns && m < tile_.tangents; m++)
    for (int64_t r = 0; r < samples; r++)
      model_.weights[l].column(tile_.direction + m, axis(), out + ((m + 1) * samples + r) * ld);
}

template <class T>
void TileSweep<T>::layer_up(int64_t l, int order, bool curvature, bool squares) {
  const Layer<T>& layer = model_.hidden[l];
  Stage& s = stages_[l];
  const bool fresh = l == 0;
  const int64_t kinds = tile_.tangents + 1 + (curvature && !fresh);
  s.shape = {.samples = tile_.samples, .tangents = tile_.tangents, .width = pad(layer.out), .ld = s.ld};
  product_up(l, kinds, layer.scale ? s.raw : s.z);
  if (modulated(l)) modulate(l, kinds);
  kernels_.up({.shape = s.shape,
               .activation = layer.activation,
               .constants = layer.constants,
               .order = order,
               .curvature = curvature,
               .fresh = fresh,
               .bias = model_.biases[l],
               .z = s.z,
               .out = s.out,
               .narrow = s.narrow_out,
               .d2 = s.d2,
               .d3 = s.d3,
               .q = squares ? s.q : nullptr,
               .c2 = each_down() ? coefficients_ : nullptr,
               .entered = layer.skip ? entering(l).p : nullptr,
               .nan_flag = nan_flag_});
}

// z = scale * (W h + b) + shift in the value rows, scale * W h in the others.
template <class T>
void TileSweep<T>::modulate(int64_t l, int64_t kinds) {
  const Layer<T>& layer = model_.hidden[l];
  Stage& s = stages_[l];
  T* raw = layer.scale ? s.raw : s.z;
  for (int64_t k = 0; k < kinds; k++)
    for (int64_t r = 0; r < tile_.samples; r++) {
      const int64_t at = k * s.shape.kind_stride() + r * s.ld, of = (tile_.first + r) * layer.out;
      for (int64_t j = 0; j < layer.out; j++) {
        if (k == 0 && layer.bias) raw[at + j] += layer.bias[j];
        s.z[at + j] = layer.scale ? raw[at + j] * layer.scale[of + j] : raw[at + j];
        if (k == 0 && layer.shift) s.z[at + j] += layer.shift[of + j];
      }
      std::fill(s.z + at + layer.out, s.z + at + s.shape.width, T(0));
    }
}

// dscale = sum_r zb_r raw_r, dshift = zb, and the adjoints pass on times the scale.
template <class T>
void TileSweep<T>::modulate_down(int64_t l, int64_t kinds) {
  const Layer<T>& layer = model_.hidden[l];
  Stage& s = stages_[l];
  const LayerGradient<T>* out = gradients_.layers ? gradients_.layers + l : nullptr;
  for (int64_t r = 0; r < tile_.samples; r++)
    for (int64_t j = 0; j < layer.out; j++) {
      const int64_t at = r * s.ld + j, of = (tile_.first + r) * layer.out + j;
      const T shift = s.adjoints[at];
      T scale(0);
      for (int64_t k = 0; layer.scale && k < kinds; k++) {
        T& adjoint = s.adjoints[k * s.shape.kind_stride() + at];
        scale += adjoint * s.raw[k * s.shape.kind_stride() + at];
        adjoint *= layer.scale[of];
      }
      if (s.gz) scale += s.gz[at] * s.raw[s.shape.curvature_offset() + at];
      if (!out) continue;
      if (layer.scale) out->scale[of] = scale + (tile_.leading() ? T(0) : out->scale[of]);
      if (layer.shift) out->shift[of] = shift + (tile_.leading() ? T(0) : out->shift[of]);
      if (layer.bias) sums_.hidden[l].bias[j] += s.adjoints[at];
    }
}

// Where a layer skips, copies the adjoints from above to below. Returns whether it did, so that the product is added.
template <class T>
bool TileSweep<T>::keep_above(int64_t l, int64_t kinds) {
  if (!model_.hidden[l].skip) return false;
  std::copy_n(stages_[l].adjoints, kinds * stages_[l].shape.kind_stride(), adjoints_below(l).p);
  return true;
}

template <class T>
void TileSweep<T>::collect(int64_t l, int64_t kinds) {
  Stage& s = stages_[l];
  if (modulated(l)) modulate_down(l, options_.merged ? kinds - 1 : kinds);
  if (!gradients_.layers) return;
  typename Sums<T>::OfLayer& sum = sums_.hidden[l];
  const Weights<T>& weights = model_.weights[l];
  const Rows<T> in = entering(l);
  const bool columns = l == 0 && along_axes();
  weights.outer((columns ? 1 : kinds) * tile_.samples, s.adjoint_rows(), in, sum.weight, sum.started, scratch_);
  sum.started = true;
  if (!columns) return;
  const int64_t curve = (tile_.tangents + 1) * tile_.samples;
  if (kinds > tile_.tangents + 1)
    weights.outer(tile_.samples, s.adjoint_rows().from(curve), in.from(curve), sum.weight, true, scratch_);
  collect_axes(s.shape.width, s.adjoints + s.shape.kind_stride(), s.ld);
  for (int64_t m = 0; m < tile_.tangents; m++)
    weights.add_column(tile_.direction + m, axes_.p + m * axes_.ld, sum.weight);
}

// The product of a tangent's adjoints with its unit direction is their sum, which goes where the direction points.
template <class T>
void TileSweep<T>::collect_axes(int64_t width, const T* adjoints, int64_t ld) {
  const int64_t samples = tile_.samples;
  std::fill_n(axes_.p, tile_.tangents * axes_.ld, T(0));
  std::fill_n(energy_, samples, axis());
  for (int64_t m = 0; m < tile_.tangents; m++)
    kernels_.weighted_sum(samples, width, adjoints + m * samples * ld, ld, energy_, axes_.p + m * axes_.ld);
}

template <class T>
void TileSweep<T>::product_down(int64_t l, int64_t kinds, bool accumulate) {
  if (l == 0 && !gradients_.x) return;
  model_.weights[l].down(kinds * tile_.samples, stages_[l].adjoint_rows(), adjoints_below(l), accumulate, scratch_);
}

template <class T>
void TileSweep<T>::leave() {
  const Problem<T>& p = model_.problem;
  if (!gradients_.x) return;
  const auto move = [&](T* out, const T* row, int64_t width) {
    for (int64_t j = 0; j < width; j++) out[j] = row[j] + (tile_.leading() ? T(0) : out[j]);
  };
  for (int64_t r = 0; r < tile_.samples; r++) {
    const T* row = entry_.p + r * entry_.ld;
    move(gradients_.x + (tile_.first + r) * p.dim, row, p.dim);
    if (p.extra) move(gradients_.columns + (tile_.first + r) * p.extra, row + p.dim, p.extra);
  }
}

template class TileSweep<float>;
template class TileSweep<double>;

}  // namespace fastssm::cpu
