// The sweeps of the whole-net path for energies.
#pragma once

#include "small.cuh"

namespace fastssm::cuda {

template <class T>
struct SmallEnergy : SmallBlock<T> {
  using Layer = SmallLayer<T>;
  using Tile = SmallTile<T>;
  using Tile::memory;
  using Tile::p;
  using Tile::samples;
  using Tile::tangents;

  using SmallBlock<T>::SmallBlock;

  FASTSSM_DEVICE void sweep() {
    if (p.variance_reduced) {
      merged();
    } else {
      sliced();
    }
  }

  // -E2 / M + mean_m E1_m^2 / 2, with the curvature carried up.
  FASTSSM_DEVICE void sliced() {
    const int kinds = tangents + 2;
    for (int l = 0; l < p.depth; l++) {
      this->product_up(p.layers[l], 0, (kinds - (l == 0)) * samples);
      this->template activate<3>(p.layers[l], true, l == 0);
    }
    this->read_energies(kinds * samples);
    this->sliced_top();
    if (!p.gradients) return;
    const Layer& top = p.layers[p.depth - 1];
    this->add_rows(p.at_readout_sum, top.out, memory + top.at_out + samples * top.ld, top.ld,
                   memory + p.at_energy + samples, (kinds - 1) * samples);
    this->scale_readout(top.at_out, memory + p.at_energy, kinds * samples);
    for (int l = p.depth - 1; l >= 0; l--) {
      const Layer& s = p.layers[l];
      this->activation_down(s, l == 0);
      this->collect(s, (kinds - (l == 0)) * samples);
      if (l > 0 || p.on_x) this->product_down(s, memory + s.at_z, l > 0 ? kinds * samples : samples, s.at_in, s.at_out);
    }
    this->store_input_gradients();
  }

  // -E2 / M + |dE/dx|^2 / 2: the chain g = dE/dh down, its cotangent up as the curvature, then all adjoints down.
  FASTSSM_DEVICE void merged() {
    const int curve = Tile::curvature_row();
    for (int l = 0; l < p.depth; l++) {
      this->product_up(p.layers[l], 0, curve);
      this->template activate<3>(p.layers[l], false, l == 0);
    }
    this->read_energies(samples);
    this->scale_readout(p.layers[p.depth - 1].at_chain, nullptr, samples);
    for (int l = p.depth - 1; l >= 0; l--) {
      const Layer& s = p.layers[l];
      this->chain(s, l == p.depth - 1);
      this->product_down(s, memory + s.at_z + curve * s.ld, samples,
                   l > 0 ? p.layers[l - 1].at_chain : s.at_in + curve * s.ld_in, s.at_chain);
    }
    this->merged_top();
    if (!p.gradients) return;
    for (int l = 0; l < p.depth; l++) {
      this->product_up(p.layers[l], curve, samples);
      this->curvature_up(p.layers[l]);
    }
    const Layer& top = p.layers[p.depth - 1];
    this->add_rows(p.at_readout_sum, top.out, memory + top.at_out + curve * top.ld, top.ld, nullptr, samples);
    for (int i = threadIdx.x; i < curve * top.ld; i += kSmallThreads) memory[top.at_out + i] = T(0);
    __syncthreads();
    for (int l = p.depth - 1; l >= 0; l--) {
      const Layer& s = p.layers[l];
      this->activation_down(s, false);
      this->collect(s, curve + samples);
      if (l > 0 || p.on_x) this->product_down(s, memory + s.at_z, l > 0 ? curve : samples, s.at_in, s.at_out);
    }
    this->store_input_gradients();
  }
};

template <class T>
FASTSSM_DEVICE void small_objective(const Small<T>& p) {
  FASTSSM_SHARED(T, memory);
  SmallEnergy<T> block(p, memory);
  block.run([&] { block.sweep(); });
}

}  // namespace fastssm::cuda
