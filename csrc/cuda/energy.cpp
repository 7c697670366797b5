// Energy nets, log p = -E: with E1_m = v_m . dE/dx and E2 = sum_m v_m^T (d2E/dx2) v_m, the score's terms are
// v_m . s = -E1_m and sum_m v_m^T J v_m = -E2.
#include "launch.h"
#include "pass.h"

namespace fastssm::cuda {

// Sliced score matching in three stacked products per layer: -E2 / M + mean_m E1_m^2 / 2.
template <class T>
void Pass<T>::sliced(const Objective<T>& objective) {
  for (int64_t l = 0; l < depth(); l++) layer_up(l, true, false);
  SlicedTop<T> top{};
  top.shape = top_shape(), top.curved = depth() > 0;
  top.h = this->top().p, top.readout = readout_.weight, top.bias = readout_.bias;
  top.count = count(), top.add = !tile_.leading();
  top.weight = weight(objective);
  top.coefficients = options_.gradients ? coefficients_ : nullptr;
  top.projected_jacobian = of_tile(objective.projected_jacobian, 1), top.square = of_tile(objective.square, 1);
  over_samples(runtime_, "sliced_top", tile_.samples, tile_.tangents + 1 + top.curved, top);
  if (options_.gradients) sliced_down();
}

// The cotangents at the top: none on E itself, c1 = E1 / M and c2 = -1 / M, each times the sample's weight.
template <class T>
void Pass<T>::sliced_down() {
  const int64_t samples = tile_.samples, tangents = tile_.tangents;
  const T *c1 = coefficients_ + samples, *c2 = coefficients_ + (tangents + 1) * samples;
  if (given_readout_ && gradients_.layers)
    weighted_sum(readout_sum_, (tangents + (depth() > 0)) * samples, top().from(samples), c1);
  for (int64_t l = depth() - 1; l >= 0; l--) {
    const bool last = l == depth() - 1;
    Down<T> down{};
    down.back = back(l, true);
    down.above = last ? Above::outer : Above::stack;
    down.fresh = l == 0;
    down.c1 = c1, down.c2 = c2, down.readout = last ? readout_.weight : nullptr;
    const int64_t height =
        over_rows(runtime_, "down", samples, largest_.samples, stages_[l].ld, down, down.back.walk, true);
    layer_down(l, down.back, height, tangents + 1 + !down.fresh, down.fresh ? 1 : tangents + 2);
  }
  leave(depth() > 0);
}

// All terms: the chain g = dE/dh runs down right after the sweep up, and gives the score; with `sums` also E2.
template <class T>
void Pass<T>::merged_up(bool sums) {
  for (int64_t l = 0; l < depth(); l++) layer_up(l, false, true);
  for (int64_t l = depth() - 1; l >= 0; l--) chain_step(l, sums);
}

// One layer of the chain, which also adds this layer's part of E2 = sum_l f'' q . g. The first layer's result is dE/dx.
template <class T>
void Pass<T>::chain_step(int64_t l, bool sums) {
  const Layer<T>& layer = hidden_[l];
  const Stage& s = stages_[l];
  const bool last = l == depth() - 1;
  const Rows below = l == 0 ? score_ : Rows{stages_[l - 1].g, stages_[l - 1].ld};
  Chain<T> chain{};
  chain.shape = shape(l);
  chain.g = last ? nullptr : s.g, chain.readout = readout_.weight;
  chain.layer = activated(l), chain.z = s.z, chain.q = s.q;
  const Rows adjoint = adjoints(s).from((tile_.tangents + 1) * tile_.samples);
  chain.adjoint = narrow_ ? nullptr : adjoint.p, chain.narrow = adjoint.narrow;
  chain.kept = layer.skip ? below.p : nullptr;
  chain.e2 = sums ? e2_ : nullptr, chain.add = !last;
  over_samples(runtime_, "chain", tile_.samples, divided_up(s.ld, kLanes<T> * kWarp), chain);
  product_down(l, tile_.samples, adjoint, below, layer.skip);
}

// Carries k <- f' zk + c2 f'' q up, from k = dLoss/du = -dLoss/ds.
template <class T>
void Pass<T>::curvature_step(int64_t l) {
  const Layer<T>& layer = hidden_[l];
  const Stage& s = stages_[l];
  const int64_t carried = (tile_.tangents + 1) * tile_.samples;
  const Rows entered = entering(l).from(carried), left = out(s).from(carried);
  Curve<T> curve{};
  curve.shape = shape(l);
  T* zk = s.z + curve.shape.curvature_offset();
  product_up(l, tile_.samples, entered, {zk, s.ld});
  curve.layer = activated(l), curve.z = s.z, curve.zk = zk, curve.q = s.q;
  curve.c2 = coefficients_;
  curve.entered = layer.skip ? entered.p : nullptr;
  curve.out = left.p, curve.narrow = left.narrow;
  over_rows(runtime_, "curve", tile_.samples, tile_.samples, s.ld, curve, curve.walk);
}

// The gradient of any function of the terms: one curvature row carries both cotangents of the chain.
template <class T>
void Pass<T>::merged_down() {
  const int64_t samples = tile_.samples, tangents = tile_.tangents;
  for (int64_t l = 0; l < depth(); l++) curvature_step(l);
  if (given_readout_ && gradients_.layers)
    weighted_sum(readout_sum_, samples, top().from((tangents + 1) * samples), nullptr);
  for (int64_t l = depth() - 1; l >= 0; l--) {
    const bool last = l == depth() - 1;
    Down<T> down{};
    down.back = back(l, !last);
    down.above = last ? Above::none : Above::stack;
    down.merged = true;
    down.c2 = coefficients_;
    down.readout = last ? readout_.weight : nullptr, down.chain = last ? nullptr : stages_[l].g;
    const int64_t height =
        over_rows(runtime_, "down", samples, largest_.samples, stages_[l].ld, down, down.back.walk, true);
    layer_down(l, down.back, height, tangents + 2, l == 0 ? 1 : tangents + 1);
  }
  leave(depth() > 0);
}

#define FASTSSM_INSTANTIATE(T)                            \
  template void Pass<T>::sliced(const Objective<T>&);     \
  template void Pass<T>::merged_up(bool);                 \
  template void Pass<T>::merged_down();
FASTSSM_INSTANTIATE(float)
FASTSSM_INSTANTIATE(double)

}  // namespace fastssm::cuda
