// Energy nets, log p = -E: with E1_m = v_m . dE/dx and E2 = sum_m v_m^T (d2E/dx2) v_m, the score's terms are
// v_m . s = -E1_m and sum_m v_m^T J v_m = -E2.
#include <algorithm>

#include "tile_sweep.h"

namespace fastssm::cpu {

// NaN where a number of the sample or a parameter is not finite, else zero.
template <class T>
T TileSweep<T>::nan_flag_of_energy(int64_t r) const {
  return nan_flag_[r] + (energy_[r] + (model_.readout.bias ? model_.readout.bias[0] : T(0))) * T(0);
}

// Sliced score matching in three stacked products per layer: -E2 / M + mean_m E1_m^2 / 2.
template <class T>
void TileSweep<T>::sliced(const Objective<T>& objective) {
  const int64_t samples = tile_.samples, tangents = tile_.tangents;
  const T count = T(model_.problem.directions.count);
  for (int64_t l = 0; l < depth(); l++) layer_up(l, options_.gradients ? 3 : 2, true, false);
  const int64_t kinds = tangents + 1 + (depth() > 0);
  kernels_.dots(kinds * samples, pad(model_.readout.in), top().p, top().ld, model_.readout_row, energy_);
  const T* e2 = energy_ + (tangents + 1) * samples;
  for (int64_t r = 0; r < samples; r++) {
    const int64_t b = tile_.first + r;
    const T nan_flag = nan_flag_of_energy(r);
    T sum(0), squares(0);
    for (int64_t m = 1; m <= tangents; m++) {
      const T e1 = energy_[m * samples + r];
      sum += e1;
      squares += e1 * e1;
    }
    const T jacobian = nan_flag - (depth() > 0 ? e2[r] / count : sum * T(0));
    objective.projected_jacobian[b] = jacobian + (tile_.leading() ? T(0) : objective.projected_jacobian[b]);
    objective.square[b] = squares / (2 * count) + (tile_.leading() ? T(0) : objective.square[b]);
  }
  if (options_.gradients) sliced_down(objective.weight);
}

// The cotangents at the top: none on E itself, c1 = E1 / M and c2 = -1 / M, each times the sample's weight.
template <class T>
void TileSweep<T>::sliced_down(const T* weight) {
  const int64_t samples = tile_.samples, tangents = tile_.tangents, kinds = tangents + 1 + (depth() > 0);
  T *c1 = coefficients_ + samples, *c2 = coefficients_ + (tangents + 1) * samples;
  for (int64_t r = 0; r < samples; r++) {
    const T share = weight[tile_.first + r] / T(model_.problem.directions.count);
    coefficients_[r] = T(0);
    for (int64_t m = 1; m <= tangents; m++) coefficients_[m * samples + r] = energy_[m * samples + r] * share;
    c2[r] = -share;
  }
  if (sums_.readout.weight)
    kernels_.weighted_sum((kinds - 1) * samples, pad(model_.readout.in), top().p + samples * top().ld, top().ld, c1,
                          sums_.readout.weight);
  for (int64_t l = depth() - 1; l >= 0; l--) {
    const Stage& s = stages_[l];
    const bool last = l == depth() - 1, outer = last && !model_.hidden[l].skip, fresh = l == 0;
    if (last && !outer)
      kernels_.scaled(kinds * samples, s.shape.width, model_.readout_row, 0, coefficients_, s.adjoints, s.ld, false);
    const int64_t passed = fresh ? 1 : tangents + 2;
    const bool kept = keep_above(l, passed);
    kernels_.down({.shape = s.shape,
                   .above = outer ? Above::outer : Above::stack,
                   .tangent_coefficient = c1,
                   .curvature_coefficient = c2,
                   .readout = model_.readout_row,
                   .fresh = fresh,
                   .z = s.z,
                   .d2 = s.d2,
                   .d3 = s.d3,
                   .adjoints = s.adjoints,
                   .narrow = s.narrow_adjoints,
                   .bias = bias_sum(l)});
    collect(l, tangents + 1 + !fresh);
    product_down(l, passed, kept);
  }
  if (depth() == 0) std::fill_n(entry_.p, samples * entry_.ld, T(0));
  leave();
}

// All terms: the chain g = dE/dh runs down right after the sweep up, and gives the score. Without tangents that is all,
// and needs one derivative less. The cotangents c2 are known before, so that with one for each direction the sweep up
// adds up c2_m zd_m^2 instead of zd_m^2; that sweep is not asked for the Jacobian's term.
template <class T>
void TileSweep<T>::merged_terms() {
  const int64_t samples = tile_.samples, tangents = tile_.tangents, width = pad(model_.problem.dim);
  const int order = (options_.gradients ? 3 : 2) - (tangents == 0);
  for (int64_t i = 0; options_.gradients && i < jacobian_rows() * samples; i++)
    coefficients_[i] = -on_projected_jacobian_[i] / averaged();
  for (int64_t l = 0; l < depth(); l++)
    layer_up(l, order, false, tangents > 0 && (!options_.each || options_.gradients));
  kernels_.dots(samples, pad(model_.readout.in), top().p, top().ld, model_.readout_row, energy_);
  std::fill_n(projected_jacobian_, jacobian_rows() * samples, T(0));
  for (int64_t l = depth() - 1; l >= 0; l--) chain_step(l);
  for (int64_t r = 0; r < samples; r++) {
    T* s = score_.p + r * score_.ld;
    const T* u = depth() > 0 ? s : model_.readout_row;
    for (int64_t j = 0; j < model_.problem.dim; j++) s[j] = -u[j];
    std::fill(s + model_.problem.dim, s + width, T(0));
  }
  std::fill_n(projected_, tangents * samples, T(0));
  for (int64_t m = 0; m < tangents; m++)
    kernels_.pair_dots(samples, width, direction(m), first_.ld, score_.p, score_.ld, projected_ + m * samples);
  for (int64_t r = 0; r < samples; r++) {
    for (int64_t m = 0; depth() == 0 && m < tangents; m++)
      projected_jacobian_[(options_.each ? m : 0) * samples + r] += projected_[m * samples + r] * T(0);
    for (int64_t m = 0; m < jacobian_rows(); m++)
      projected_jacobian_[m * samples + r] = nan_flag_of_energy(r) - projected_jacobian_[m * samples + r] / averaged();
  }
}

// One layer of the chain, which also adds this layer's part of E2 = sum_l f'' q . g. The first layer's result is dE/dx.
template <class T>
void TileSweep<T>::chain_step(int64_t l) {
  const Layer<T>& layer = model_.hidden[l];
  const Stage& s = stages_[l];
  const bool last = l == depth() - 1;
  const T* g = last ? model_.readout_row : s.g;
  const Rows<T> adjoints = s.adjoint_rows().from((tile_.tangents + 1) * tile_.samples);
  kernels_.chain({.shape = s.shape,
                  .g = g,
                  .g_ld = last ? 0 : s.ld,
                  .z = s.z,
                  .d2 = s.d2,
                  .q = s.q,
                  .adjoint = adjoints.p,
                  .narrow = adjoints.narrow,
                  .e2 = each_down() ? nullptr : projected_jacobian_,
                  .each = options_.each});
  if (layer.scale) {
    std::copy_n(adjoints.p, s.shape.kind_stride(), s.gz);
    for (int64_t r = 0; r < tile_.samples; r++)
      for (int64_t j = 0; j < layer.out; j++)
        adjoints.p[r * s.ld + j] *= layer.scale[(tile_.first + r) * layer.out + j];
  }
  const Rows<T> out = l == 0 ? score_ : Rows<T>{stages_[l - 1].g, stages_[l - 1].ld};
  for (int64_t r = 0; layer.skip && r < tile_.samples; r++)
    std::copy_n(g + (last ? 0 : r * s.ld), s.shape.width, out.p + r * out.ld);
  model_.weights[l].down(tile_.samples, adjoints, out, layer.skip, scratch_);
}

// Carries k <- f' zk + c2 f'' q up, from k = dLoss/du = -dLoss/ds.
template <class T>
void TileSweep<T>::curvature_step(int64_t l) {
  const Layer<T>& layer = model_.hidden[l];
  const Stage& s = stages_[l];
  const int64_t curve = s.shape.curvature_offset();
  const Rows<T> in = entering(l).from((tile_.tangents + 1) * tile_.samples);
  model_.weights[l].up(tile_.samples, in, (layer.scale ? s.raw : s.z) + curve, s.ld, scratch_);
  for (int64_t r = 0; layer.scale && r < tile_.samples; r++) {
    const int64_t at = curve + r * s.ld;
    for (int64_t j = 0; j < layer.out; j++)
      s.z[at + j] = s.raw[at + j] * layer.scale[(tile_.first + r) * layer.out + j];
    std::fill(s.z + at + layer.out, s.z + at + s.shape.width, T(0));
  }
  kernels_.curve({.shape = s.shape,
                  .zk = s.z + curve,
                  .d1 = s.z,
                  .d2 = s.d2,
                  .q = s.q,
                  .c2 = each_down() ? nullptr : coefficients_,
                  .entered = layer.skip ? in.p : nullptr,
                  .out = s.narrow_out ? nullptr : s.out + curve,
                  .narrow = s.narrow_out ? s.narrow_out + curve : nullptr});
}

// The gradient of any function of the terms: one curvature row carries both cotangents of the chain.
template <class T>
void TileSweep<T>::merged_down() {
  const int64_t samples = tile_.samples, tangents = tile_.tangents;
  for (int64_t r = 0; r < samples; r++) {
    const T* from = on_score_.p + r * on_score_.ld;
    std::transform(from, from + first_.ld, direction(tangents) + r * first_.ld, [](T s) { return -s; });
  }
  for (int64_t l = 0; l < depth(); l++) curvature_step(l);
  if (sums_.readout.weight) {
    std::fill_n(energy_, samples, T(1));
    kernels_.weighted_sum(samples, pad(model_.readout.in), top().p + (tangents + 1) * samples * top().ld, top().ld,
                          energy_, sums_.readout.weight);
  }
  for (int64_t l = depth() - 1; l >= 0; l--) {
    const Stage& s = stages_[l];
    const bool last = l == depth() - 1;
    const int64_t passed = l == 0 ? 1 : tangents + 1;
    const bool kept = !last && keep_above(l, passed);
    kernels_.down({.shape = s.shape,
                   .above = last ? Above::none : Above::stack,
                   .merged = true,
                   .chain = last ? model_.readout_row : s.g,
                   .chain_ld = last ? 0 : s.ld,
                   .c2 = coefficients_,
                   .each = options_.each,
                   .z = s.z,
                   .d2 = s.d2,
                   .d3 = s.d3,
                   .adjoints = s.adjoints,
                   .narrow = s.narrow_adjoints,
                   .bias = bias_sum(l)});
    collect(l, tangents + 2);
    product_down(l, passed, kept);
  }
  if (depth() == 0) std::fill_n(entry_.p, samples * entry_.ld, T(0));
  leave();
}

template void TileSweep<float>::sliced(const Objective<float>&);
template void TileSweep<double>::sliced(const Objective<double>&);
template void TileSweep<float>::merged_terms();
template void TileSweep<double>::merged_terms();
template void TileSweep<float>::merged_down();
template void TileSweep<double>::merged_down();

}  // namespace fastssm::cpu
