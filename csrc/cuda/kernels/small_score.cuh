// The sweep of the whole-net path for scores, s(x) itself: value and tangents alone. The readout s = W h + b is applied
// to the directions instead: with the pullback u_m = W^T v_m, v_m^T J v_m = u_m . hd_m and v_m . s = u_m . h + v_m . b.
// Only |s|^2 needs s.
#pragma once

#include "small.cuh"

namespace fastssm::cuda {

template <class T>
struct SmallScore : SmallBlock<T> {
  using Layer = SmallLayer<T>;
  using Tile = SmallTile<T>;
  using Tile::direction;
  using Tile::memory;
  using Tile::p;
  using Tile::samples;
  using Tile::tangents;

  using SmallBlock<T>::SmallBlock;

  FASTSSM_DEVICE void sweep() {
    const int rows = (tangents + 1) * samples;
    for (int l = 0; l < p.depth; l++) {
      this->product_up(p.layers[l], 0, rows);
      this->template activate<2>(p.layers[l], false, false);
    }
    this->product_down(readout(), directions(), tangents * samples, p.at_pullback, 0);
    if (p.variance_reduced) {
      this->product_up(readout(), 0, samples);
      reduced_top();
    } else {
      sliced_top();
    }
    if (!p.gradients) return;
    readout_down();
    for (int l = p.depth - 1; l >= 0; l--) {
      const Layer& s = p.layers[l];
      score_activation_down(s);
      this->collect(s, rows);
      if (l > 0 || p.on_x) this->product_down(s, memory + s.at_z, l > 0 ? rows : samples, s.at_in, s.at_out);
    }
    this->store_input_gradients();
  }

  // ---- the layout of shared memory -----------------------------------------------------------------------------

  FASTSSM_DEVICE const Layer& top() const { return p.layers[p.depth - 1]; }
  FASTSSM_DEVICE const Layer& readout() const { return p.layers[p.depth]; }
  FASTSSM_DEVICE T* directions() const { return memory + p.at_first + samples * readout().ld; }
  FASTSSM_DEVICE T* pullback(int m, int r) const { return memory + p.at_pullback + (m * samples + r) * top().ld; }
  FASTSSM_DEVICE T* out(int kind, int r) const { return memory + top().at_out + (kind * samples + r) * top().ld; }

  // ---- at the top ----------------------------------------------------------------------------------------------

  // first . second, in every lane of a warp.
  FASTSSM_DEVICE T dot(const T* first, const T* second, int width) const {
    T sum(0);
    for (int j = threadIdx.x % kWarp; j < width; j += kWarp) sum = add_inner(sum, first[j], second[j]);
    return warp_sum(sum);
  }

  // The terms, a warp for each sample, and the cotangent of each v_m . s.
  FASTSSM_DEVICE void sliced_top() {
    const T* bias = memory + readout().at_bias;
    for (int r = threadIdx.x / kWarp; r < samples; r += kSmallThreads / kWarp) {
      T jacobian(0), square(0);
      for (int m = 0; m < tangents; m++) {
        const T *u = pullback(m, r), *v = directions() + (m * samples + r) * readout().ld;
        const T projected = dot(u, out(0, r), top().out) + dot(v, bias, p.dim);
        jacobian += dot(u, out(m + 1, r), top().out) / T(p.count) + projected * T(0);  // NaN where s is not finite
        square += projected * projected / T(2 * p.count);
        if (threadIdx.x % kWarp == 0) memory[p.at_energy + m * samples + r] = share(r) * projected;
      }
      if (threadIdx.x % kWarp == 0) this->add_terms(r, jacobian, square);
    }
    __syncthreads();
  }

  // The terms, a warp for each sample. The bias is added to s, which is then replaced by its cotangent.
  FASTSSM_DEVICE void reduced_top() {
    const T* bias = memory + readout().at_bias;
    for (int r = threadIdx.x / kWarp; r < samples; r += kSmallThreads / kWarp) {
      T jacobian(0), norm(0), nan_flag(0), *s = memory + readout().at_z + r * readout().ld;
      for (int m = 0; m < tangents; m++) jacobian += dot(pullback(m, r), out(m + 1, r), top().out) / T(p.count);
      for (int j = threadIdx.x % kWarp; j < p.dim; j += kWarp) {
        const T value = s[j] + bias[j];
        norm = add_square(norm, value);
        nan_flag += value * T(0);
        s[j] = direction == 0 ? memory[p.at_weights + r] * value : T(0);
      }
      norm = warp_sum(norm);
      nan_flag = warp_sum(nan_flag);
      if (threadIdx.x % kWarp == 0) this->add_terms(r, jacobian + nan_flag, direction == 0 ? norm / T(2) : T(0));
    }
    __syncthreads();
  }

  // dLoss/d(v_m^T J v_m)
  FASTSSM_DEVICE T share(int r) const { return memory[p.at_weights + r] / T(p.count); }

  // ---- down ----------------------------------------------------------------------------------------------------

  // The readout's gradients, dW = sb^T h + sum_m v_m^T ub_m, and the adjoints of h and hd_m in place of these.
  FASTSSM_DEVICE void readout_down() {
    const Layer& s = readout();
    if (p.variance_reduced) {
      this->collect(s, samples);
      this->product_down(s, memory + s.at_z, samples, top().at_out, 0);
    }
    top_adjoints();
    this->outer(s, directions(), memory + p.at_pullback, tangents * samples);
    if (!p.variance_reduced)
      this->add_rows(s.at_bias_sum, s.out, directions(), s.ld, memory + p.at_energy, tangents * samples);
  }

  // u_m, hd_m and h become their own adjoints, where the loss depends on u_m . hd_m, and for SSM also on v_m . s.
  FASTSSM_DEVICE void top_adjoints() {
    const int width = top().out;
    for (int i = threadIdx.x; i < samples * width; i += kSmallThreads) {
      const int r = i / width, j = i % width;
      const T h = out(0, r)[j];
      T hb(0);
      for (int m = 0; m < tangents; m++) {
        T &u = pullback(m, r)[j], &hd = out(m + 1, r)[j], ub = share(r) * hd;
        hd = share(r) * u;
        if (!p.variance_reduced) {
          const T along = memory[p.at_energy + m * samples + r];
          ub = add_inner(ub, along, h);
          hb = add_inner(hb, along, u);
        }
        u = ub;
      }
      if (!p.variance_reduced) out(0, r)[j] = hb;
    }
    __syncthreads();
  }

  // hb, hdb_m become zb, zdb_m, in place of z, zd_m. Their padding stays zero.
  FASTSSM_DEVICE void score_activation_down(const Layer& s) {
    const int stride = samples * s.ld, width = s.out;
    T *z = memory + s.at_z, *adjoints = memory + s.at_out;
    for (int i = threadIdx.x; i < samples * width; i += kSmallThreads) {
      const int r = i / width, j = i % width, at = r * s.ld + j;
      const T d1 = z[at];
      T inner(0);
      for (int m = 1; m <= tangents; m++) {
        const T zd = z[m * stride + at], hdb = adjoints[m * stride + at];
        inner = add_inner(inner, hdb, zd);
        z[m * stride + at] = tangent(d1, hdb);
      }
      z[at] = value_down(d1, adjoints[at], memory[s.at_d2 + at], inner);
    }
    __syncthreads();
  }
};

template <class T>
FASTSSM_DEVICE void small_score(const Small<T>& p) {
  FASTSSM_SHARED(T, memory);
  SmallScore<T> block(p, memory);
  block.run([&] { block.sweep(); });
}

}  // namespace fastssm::cuda
