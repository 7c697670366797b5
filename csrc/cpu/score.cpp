// Score nets, s(x) itself: value and tangent rows only. The readout s = W h + b is met from its narrow side: with
// u_m = W^T v_m, computed once, v_m^T J v_m = u_m . hd_m and v_m . s = u_m . h + v_m . b.
#include <algorithm>

#include "tile_sweep.h"

namespace fastssm::cpu {

// Make broken_ NaN also where what enters the readout, or the readout itself, is not finite.
template <class T>
void Lane<T>::find_broken() {
  const int64_t samples = tile_.samples, width = pad(model_.readout.in);
  T bias(0);
  for (int64_t j = 0; model_.readout.bias && j < model_.readout.out; j++) bias += model_.readout.bias[j] * T(0);
  kernels_.dots(samples, width, top().p, top().ld, model_.zeros, energy_);
  kernels_.dots(tile_.tangents * samples, width, lifted_.p, lifted_.ld, model_.zeros, energy_ + samples);
  for (int64_t i = 0; i < (tile_.tangents + 1) * samples; i++) broken_[i % samples] += energy_[i] + bias;
}

// Carry value and tangents up; find u_m and the Jacobian's term, and with the score the other terms too.
template <class T>
void Lane<T>::score_up(bool with_score) {
  const int64_t samples = tile_.samples, tangents = tile_.tangents, width = pad(model_.readout.in);
  const int64_t dim = model_.problem.dim;
  const Weights<T>& readout = model_.weights.back();
  for (int64_t l = 0; l < depth(); l++) climb(l, use_.gradients && tangents > 0 ? 2 : 1, false, false);
  const Rows h = top();
  if (!along_axes()) readout.down(tangents * samples, direction(0), first_.ld, lifted_.p, lifted_.ld, false, scratch_);
  for (int64_t m = 0; along_axes() && m < tangents; m++)
    for (int64_t r = 0; r < samples; r++)
      readout.row(tile_.direction + m, axis(), lifted_.p + (m * samples + r) * lifted_.ld);
  std::fill_n(jacobian_, jacobians() * samples, T(0));
  for (int64_t m = 0; m < tangents; m++)
    kernels_.pair_dots(samples, width, lifted_.p + m * samples * lifted_.ld, lifted_.ld,
                       h.p + (m + 1) * samples * h.ld, h.ld, jacobian_ + (use_.each ? m : 0) * samples);
  find_broken();
  for (int64_t i = 0; i < jacobians() * samples; i++) jacobian_[i] = jacobian_[i] / averaged() + broken_[i % samples];
  std::fill_n(projected_, tangents * samples, T(0));
  if (!with_score) return;
  readout.up(samples, h.p, h.ld, score_.p, score_.ld, scratch_);
  for (int64_t r = 0; r < samples; r++) {
    T* s = score_.p + r * score_.ld;
    for (int64_t j = 0; model_.readout.bias && j < dim; j++) s[j] += model_.readout.bias[j];
    std::fill(s + dim, s + pad(dim), T(0));
  }
  for (int64_t m = 0; m < tangents; m++)
    kernels_.pair_dots(samples, pad(dim), direction(m), first_.ld, score_.p, score_.ld, projected_ + m * samples);
}

// Sliced score matching without ever computing the score.
template <class T>
void Lane<T>::score_sliced(const Objective<T>& objective) {
  const int64_t samples = tile_.samples, tangents = tile_.tangents, width = pad(model_.readout.in);
  const int64_t dim = model_.problem.dim;
  const T count = T(model_.problem.directions.count);
  score_up(false);
  for (int64_t m = 0; m < tangents; m++) {
    kernels_.pair_dots(samples, width, lifted_.p + m * samples * lifted_.ld, lifted_.ld, top().p, top().ld,
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
    objective.jacobian[b] = jacobian_[r] + (tile_.leading() ? T(0) : objective.jacobian[b]);
    objective.square[b] = squares / (2 * count) + (tile_.leading() ? T(0) : objective.square[b]);
    if (use_.gradients) on_jacobian_[r] = objective.weight[b];
  }
  if (use_.gradients) score_down(false);
}

// Down from the readout: with the score's cotangent given as rows, or (without) as (v_m . s) / M along each v_m.
template <class T>
void Lane<T>::score_down(bool with_score) {
  const int64_t samples = tile_.samples, tangents = tile_.tangents, width = pad(model_.readout.in);
  const int64_t dim = model_.problem.dim;
  const Weights<T>& readout = model_.weights.back();
  const Rows h = top(), bars = bars_below(depth());
  T *share = coefficients_, *along = coefficients_ + samples;  // dLoss/d(v_m^T J v_m), dLoss/d(v_m . s)
  for (int64_t r = 0; r < samples; r++) {
    share[r] = on_jacobian_[r] / averaged();
    for (int64_t m = 0; m < tangents; m++) along[m * samples + r] = share[r] * projected_[m * samples + r];
  }
  if (with_score) readout.down(samples, on_score_.p, on_score_.ld, bars.p, bars.ld, false, scratch_);
  typename Sums<T>::Of& sum = sums_.readout;
  if (with_score && sum.weight) {
    kernels_.transpose(samples, pad(dim), on_score_.p, on_score_.ld, turned_, turned_ld());
    readout.outer(samples, turned_, turned_ld(), h.p, h.ld, sum.weight, sum.started, scratch_);
    sum.started = true;
    std::fill_n(energy_, samples, T(1));
    if (sum.bias) kernels_.weighted_sum(samples, pad(dim), on_score_.p, on_score_.ld, energy_, sum.bias);
  }
  for (int64_t m = 0; m < tangents; m++) {
    T* u = lifted_.p + m * samples * lifted_.ld;
    const T *hd = h.p + (m + 1) * samples * h.ld, *c = along + m * samples;
    if (!with_score) kernels_.scaled(samples, width, u, lifted_.ld, c, bars.p, bars.ld, m > 0);
    if (depth() > 0)
      kernels_.scaled(samples, width, u, lifted_.ld, share, bars.p + (m + 1) * samples * bars.ld, bars.ld, false);
    kernels_.scaled(samples, width, hd, h.ld, share, u, lifted_.ld, false);  // from here on, the adjoint of u
    if (!with_score) kernels_.scaled(samples, width, h.p, h.ld, c, u, lifted_.ld, true);
  }
  if (sum.weight && tangents > 0) {
    kernels_.transpose(tangents * samples, pad(dim), direction(0), first_.ld, turned_, turned_ld());
    readout.outer(tangents * samples, turned_, turned_ld(), lifted_.p, lifted_.ld, sum.weight, sum.started, scratch_);
    sum.started = true;
    if (sum.bias && !with_score)
      kernels_.weighted_sum(tangents * samples, pad(dim), direction(0), first_.ld, along, sum.bias);
  }
  for (int64_t l = depth() - 1; l >= 0; l--) {
    const Stage& s = stages_[l];
    const int64_t passed = l == 0 ? 1 : tangents + 1;
    const bool kept = keep_above(l, passed);
    kernels_.down_score({s.shape, s.z, s.d2, s.bars, bias_sum(l)});
    collect(l, tangents + 1);
    below(l, passed, kept);
  }
  leave();
}

template void Lane<float>::score_up(bool);
template void Lane<double>::score_up(bool);
template void Lane<float>::score_sliced(const Objective<float>&);
template void Lane<double>::score_sliced(const Objective<double>&);
template void Lane<float>::score_down(bool);
template void Lane<double>::score_down(bool);

}  // namespace fastssm::cpu
