// Score nets, s(x) itself: value and tangent rows only. The readout s = W h + b is applied to the directions instead:
// with the pullback u_m = W^T v_m, computed once, v_m^T J v_m = u_m . hd_m and v_m . s = u_m . h + v_m . b.
#include <algorithm>

#include "tile_sweep.h"

namespace fastssm::cpu {

// Makes nan_flag_ NaN also where the readout's input or parameters are not finite.
template <class T>
void TileSweep<T>::find_nans() {
  const int64_t samples = tile_.samples, width = pad(model_.readout.in);
  T bias(0);
  for (int64_t j = 0; model_.readout.bias && j < model_.readout.out; j++) bias += model_.readout.bias[j] * T(0);
  kernels_.dots(samples, width, top().p, top().ld, model_.zeros, energy_);
  kernels_.dots(tile_.tangents * samples, width, pullback_.p, pullback_.ld, model_.zeros, energy_ + samples);
  for (int64_t i = 0; i < (tile_.tangents + 1) * samples; i++) nan_flag_[i % samples] += energy_[i] + bias;
}

// Carries value and tangents up, and computes u_m and v_m^T J v_m; with the score the other terms too.
template <class T>
void TileSweep<T>::score_up(bool with_score) {
  const int64_t samples = tile_.samples, tangents = tile_.tangents, width = pad(model_.readout.in);
  const int64_t dim = model_.problem.dim;
  const Weights<T>& readout = model_.weights.back();
  for (int64_t l = 0; l < depth(); l++) layer_up(l, options_.gradients && tangents > 0 ? 2 : 1, false, false);
  const Rows<T> h = top();
  if (!along_axes())
    readout.down(tangents * samples, first_.from(samples), pullback_, false, scratch_);
  for (int64_t m = 0; along_axes() && m < tangents; m++)
    for (int64_t r = 0; r < samples; r++)
      readout.row(tile_.direction + m, axis(), pullback_.p + (m * samples + r) * pullback_.ld);
  std::fill_n(projected_jacobian_, jacobian_rows() * samples, T(0));
  for (int64_t m = 0; m < tangents; m++)
    kernels_.pair_dots(samples, width, pullback_.p + m * samples * pullback_.ld, pullback_.ld,
                       h.p + (m + 1) * samples * h.ld, h.ld, projected_jacobian_ + (options_.each ? m : 0) * samples);
  find_nans();
  for (int64_t i = 0; i < jacobian_rows() * samples; i++)
    projected_jacobian_[i] = projected_jacobian_[i] / averaged() + nan_flag_[i % samples];
  std::fill_n(projected_, tangents * samples, T(0));
  if (!with_score) return;
  readout.up(samples, h, score_.p, score_.ld, scratch_);
  for (int64_t r = 0; r < samples; r++) {
    T* s = score_.p + r * score_.ld;
    for (int64_t j = 0; model_.readout.bias && j < dim; j++) s[j] += model_.readout.bias[j];
    std::fill(s + dim, s + pad(dim), T(0));
  }
  for (int64_t m = 0; m < tangents; m++)
    kernels_.pair_dots(samples, pad(dim), direction(m), first_.ld, score_.p, score_.ld, projected_ + m * samples);
}

// Sliced score matching without computing the score.
template <class T>
void TileSweep<T>::score_sliced(const Objective<T>& objective) {
  const int64_t samples = tile_.samples, tangents = tile_.tangents, width = pad(model_.readout.in);
  const int64_t dim = model_.problem.dim;
  const T count = T(model_.problem.directions.count);
  score_up(false);
  for (int64_t m = 0; m < tangents; m++) {
    kernels_.pair_dots(samples, width, pullback_.p + m * samples * pullback_.ld, pullback_.ld, top().p, top().ld,
                       projected_ + m * samples);
    for (int64_t r = 0; model_.readout.bias && r < samples; r++) {
      const T* v = direction(m) + r * first_.ld;
      for (int64_t j = 0; j < dim; j++) projected_[m * samples + r] += v[j] * model_.readout.bias[j];
    }
  }
  for (int64_t r = 0; r < samples; r++) {
    const int64_t b = tile_.first + r;
    T squares(0);
    for (int64_t m = 0; m < tangents; m++) squares += projected_[m * samples + r] * projected_[m * samples + r];
    objective.projected_jacobian[b] =
        projected_jacobian_[r] + (tile_.leading() ? T(0) : objective.projected_jacobian[b]);
    objective.square[b] = squares / (2 * count) + (tile_.leading() ? T(0) : objective.square[b]);
    if (options_.gradients) on_projected_jacobian_[r] = objective.weight[b];
  }
  if (options_.gradients) score_down(false);
}

// Down from the readout. The score's cotangent is given as rows; without the score it is (v_m . s) / M along each v_m.
template <class T>
void TileSweep<T>::readout_down(bool with_score) {
  const int64_t samples = tile_.samples, tangents = tile_.tangents, width = pad(model_.readout.in);
  const int64_t dim = model_.problem.dim;
  const Weights<T>& readout = model_.weights.back();
  const Rows<T> h = top(), adjoints = adjoints_below(depth());
  T *share = coefficients_, *along = coefficients_ + samples;  // dLoss/d(v_m^T J v_m), dLoss/d(v_m . s)
  for (int64_t i = 0; i < jacobian_rows() * samples; i++) share[i] = on_projected_jacobian_[i] / averaged();
  for (int64_t i = 0; !with_score && i < tangents * samples; i++) along[i] = share[i % samples] * projected_[i];
  if (with_score) readout.down(samples, on_score_, adjoints, false, scratch_);
  typename Sums<T>::OfLayer& sum = sums_.readout;
  if (with_score && sum.weight) {
    readout.outer(samples, on_score_, h, sum.weight, sum.started, scratch_);
    sum.started = true;
    std::fill_n(energy_, samples, T(1));
    if (sum.bias) kernels_.weighted_sum(samples, pad(dim), on_score_.p, on_score_.ld, energy_, sum.bias);
  }
  for (int64_t m = 0; m < tangents; m++) {
    T* u = pullback_.p + m * samples * pullback_.ld;
    const T *hd = h.p + (m + 1) * samples * h.ld, *c = along + m * samples;
    const T* on = share + (options_.each ? m : 0) * samples;
    if (!with_score) kernels_.scaled(samples, width, u, pullback_.ld, c, adjoints.p, adjoints.ld, m > 0);
    if (depth() > 0)
      kernels_.scaled(samples, width, u, pullback_.ld, on, adjoints.p + (m + 1) * samples * adjoints.ld, adjoints.ld,
                      false);
    kernels_.scaled(samples, width, hd, h.ld, on, u, pullback_.ld, false);  // now the adjoint of u
    if (!with_score) kernels_.scaled(samples, width, h.p, h.ld, c, u, pullback_.ld, true);
  }
  if (sum.weight && tangents > 0) collect_readout(with_score ? nullptr : along);
}

// Adds what the tangents contribute to the gradients of the readout: v_m times the adjoint of u_m, and `along` v_m.
template <class T>
void TileSweep<T>::collect_readout(const T* along) {
  const int64_t samples = tile_.samples, tangents = tile_.tangents, width = pad(model_.readout.in);
  typename Sums<T>::OfLayer& sum = sums_.readout;
  const Weights<T>& readout = model_.weights.back();
  if (along_axes()) {
    if (!sum.started) std::fill_n(sum.weight, readout.sum_size(), T(0));
    collect_axes(width, pullback_.p, pullback_.ld);
    for (int64_t m = 0; m < tangents; m++)
      readout.add_row(tile_.direction + m, axes_.p + m * axes_.ld, sum.weight);
  } else {
    readout.outer(tangents * samples, first_.from(samples), pullback_, sum.weight, sum.started, scratch_);
  }
  sum.started = true;
  if (sum.bias && along)
    kernels_.weighted_sum(tangents * samples, pad(model_.problem.dim), direction(0), first_.ld, along, sum.bias);
}

template <class T>
void TileSweep<T>::score_down(bool with_score) {
  readout_down(with_score);
  const int64_t tangents = tile_.tangents;
  for (int64_t l = depth() - 1; l >= 0; l--) {
    const Stage& s = stages_[l];
    const int64_t passed = l == 0 ? 1 : tangents + 1;
    const bool kept = keep_above(l, passed);
    kernels_.down_score({.shape = s.shape, .z = s.z, .d2 = s.d2, .adjoints = s.adjoints,
                         .narrow = s.narrow_adjoints, .bias = bias_sum(l)});
    collect(l, tangents + 1);
    product_down(l, passed, kept);
  }
  leave();
}

template void TileSweep<float>::score_up(bool);
template void TileSweep<double>::score_up(bool);
template void TileSweep<float>::score_sliced(const Objective<float>&);
template void TileSweep<double>::score_sliced(const Objective<double>&);
template void TileSweep<float>::score_down(bool);
template void TileSweep<double>::score_down(bool);

}  // namespace fastssm::cpu
