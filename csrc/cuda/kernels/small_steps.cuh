// The steps of the whole-net kernels on one tile of samples in a block's shared memory.
#pragma once

#include "../../maths/sweep.h"
#include "jets.cuh"
#include "reduce.cuh"
#include "shared.cuh"
#include "small_params.h"

namespace fastssm::cuda {

template <class T>
struct alignas(16) Quad {
  T v[4];
};

template <class T>
FASTSSM_DEVICE Quad<T> quad(const T* p) {
  return *reinterpret_cast<const Quad<T>*>(p);
}

// Stores of four numbers, to shared memory and to device memory.
template <class T>
FASTSSM_DEVICE void put_shared(T* p, const Quad<T>& q) {
  FASTSSM_UNROLL
  for (int i = 0; i < 4; i += kLanes<T>) store_shared(p + i, pack_of<T>([&](int lane) { return q.v[i + lane]; }));
}

template <class T>
FASTSSM_DEVICE void put(T* p, const Quad<T>& q) {
  FASTSSM_UNROLL
  for (int i = 0; i < 4; i += kLanes<T>) store(p + i, pack_of<T>([&](int lane) { return q.v[i + lane]; }));
}

// A tile of samples and some of their directions. Every step ends in a barrier.
template <class T>
struct SmallTile {
  using Layer = SmallLayer<T>;

  const Small<T>& p;
  T* memory;
  T constant;     // the readout's bias
  int64_t first;  // sample
  int samples;
  int direction;  // first one
  int tangents;

  // The first row of the curvature in a stack.
  FASTSSM_DEVICE int curvature_row() const { return (tangents + 1) * samples; }

  // ---- products: four rows and four columns a thread -------------------------------------------------------------

  // How many threads, next to one another, share the depth of a patch where there are too few patches for all threads.
  FASTSSM_DEVICE static int sharers(int patches, int deep) {
    int n = 1;
    while (n < kMaxSharers && 2 * n * patches <= kSmallThreads && 8 * n <= deep) n *= 2;
    return n;
  }

  // The sum over the threads that share a patch.
  FASTSSM_DEVICE static T shared_sum(T part, int n) {
    for (int apart = 1; apart < n; apart *= 2) part += __shfl_xor_sync(0xFFFFFFFF, part, apart);
    return part;
  }

  // z = in W^T of some rows.
  FASTSSM_DEVICE void product_up(const Layer& s, int from, int rows) {
    const T *in = memory + s.at_in + from * s.ld_in, *weight = memory + s.at_weight;
    T* z = memory + s.at_z + from * s.ld;
    const int across = quads(s.out), deep = 4 * quads(s.in), patches = quads(rows) * across;
    const int n = sharers(patches, deep), part = threadIdx.x % n;
    for (int begin = 0; begin < patches; begin += kSmallThreads / n) {
      const int i = begin + threadIdx.x / n, end = i < patches ? deep : 0;
      const int r = i / across * 4, j = i % across;  // columns j, j + across, ...: their weights lie in different banks
      T sum[4][4] = {};
      for (int k = 4 * part; k < end; k += 4 * n) {
        Quad<T> a[4];
        FASTSSM_UNROLL
        for (int q = 0; q < 4; q++) a[q] = quad(in + (r + q < rows ? r + q : rows - 1) * s.ld_in + k);
        FASTSSM_UNROLL
        for (int c = 0; c < 4; c++) {
          const Quad<T> w = quad(weight + (j + c * across) * s.ld_in + k);
          FASTSSM_UNROLL
          for (int q = 0; q < 4; q++)
            FASTSSM_UNROLL
            for (int e = 0; e < 4; e++) sum[q][c] += a[q].v[e] * w.v[e];
        }
      }
      FASTSSM_UNROLL
      for (int q = 0; q < 4; q++)
        FASTSSM_UNROLL
        for (int c = 0; c < 4; c++) {
          const T total = shared_sum(sum[q][c], n);
          if (part == 0 && i < patches && r + q < rows) z[(r + q) * s.ld + j + c * across] = total;
        }
    }
    __syncthreads();
  }

  // below = adjoints W, plus the adjoints from above where the layer skips.
  FASTSSM_DEVICE void product_down(const Layer& s, const T* adjoints, int rows, int at_below, int at_above) {
    const T *weight = memory + s.at_weight, *above = memory + at_above;
    T* below = memory + at_below;
    const int across = quads(s.in), deep = 4 * quads(s.out), patches = quads(rows) * across;
    const int n = sharers(patches, deep), part = threadIdx.x % n;
    for (int begin = 0; begin < patches; begin += kSmallThreads / n) {
      const int i = begin + threadIdx.x / n, end = i < patches ? deep : 0;
      const int r = i / across * 4, j = i % across * 4;
      Quad<T> sum[4] = {};
      FASTSSM_UNROLL
      for (int q = 0; q < 4; q++)
        if (s.skip && part == 0 && i < patches && r + q < rows) sum[q] = quad(above + (r + q) * s.ld + j);
      for (int k = 4 * part; k < end; k += 4 * n) {
        Quad<T> a[4];
        FASTSSM_UNROLL
        for (int q = 0; q < 4; q++) a[q] = quad(adjoints + (r + q < rows ? r + q : rows - 1) * s.ld + k);
        FASTSSM_UNROLL
        for (int e = 0; e < 4; e++) {
          const Quad<T> w = quad(weight + (k + e) * s.ld_in + j);
          FASTSSM_UNROLL
          for (int q = 0; q < 4; q++)
            FASTSSM_UNROLL
            for (int c = 0; c < 4; c++) sum[q].v[c] += a[q].v[e] * w.v[c];
        }
      }
      FASTSSM_UNROLL
      for (int q = 0; q < 4; q++) {
        FASTSSM_UNROLL
        for (int c = 0; c < 4; c++) sum[q].v[c] = shared_sum(sum[q].v[c], n);
        if (part == 0 && i < patches && r + q < rows) put_shared(below + (r + q) * s.ld_in + j, sum[q]);
      }
    }
    __syncthreads();
  }

  // ---- one element after another -------------------------------------------------------------------------------

  // z, zd_m, zk become h, hd_m, k, and f' takes the place of z. ORDER: of the last derivative that is kept.
  template <int ORDER>
  FASTSSM_DEVICE void activate(const Layer& s, bool curved, bool fresh) {
    const int stride = samples * s.ld, curve = this->curvature_row() * s.ld, entered = samples * s.ld_in;
    const T constants[2] = {s.constants[0], s.constants[1]};
    T *z = memory + s.at_z, *out = memory + s.at_out;
    const int width = 4 * quads(s.out);
    for (int i = threadIdx.x; i < samples * width; i += kSmallThreads) {
      const int r = i / width, j = i % width, at = r * s.ld + j;
      const T* in = s.skip ? memory + s.at_in + r * s.ld_in + j : nullptr;
      if (j >= s.out) {
        for (int k = 0; k < tangents + 1 + curved; k++) out[k * stride + at] = T(0);
        continue;
      }
      const T value = z[at] + memory[s.at_bias + j];
      const Jet<T> f = jet_of<ORDER>(s.activation, value, constants);
      T q(0);
      for (int m = 1; m <= tangents; m++) {
        const T zd = z[m * stride + at];
        q = add_square(q, zd);
        out[m * stride + at] = tangent(f.d1, zd) + (in ? in[m * entered] : T(0));
      }
      if (curved) {
        const T k = fresh ? curvature(f.d2, q) : curvature(f.d1, z[curve + at], f.d2, q);
        out[curve + at] = k + (in && !fresh ? in[(tangents + 1) * entered] : T(0));
      }
      out[at] = f.f + value * T(0) + (in ? *in : T(0));  // NaN for an infinity, which a saturated f would hide
      z[at] = f.d1;
      memory[s.at_d2 + at] = f.d2;
      if constexpr (ORDER > 2) memory[s.at_d3 + at] = f.d3;
    }
    __syncthreads();
  }

  // hb, hdb_m, g become zb, zdb_m, zkb, in place of z, zd_m, zk.
  FASTSSM_DEVICE void activation_down(const Layer& s, bool fresh) {
    const int stride = samples * s.ld, curve = this->curvature_row() * s.ld;
    const bool chained = p.variance_reduced;  // g is the chain, and the curvature row carries its cotangent
    T *z = memory + s.at_z, *adjoints = memory + s.at_out;
    const int width = 4 * quads(s.out);
    for (int i = threadIdx.x; i < samples * width; i += kSmallThreads) {
      const int r = i / width, j = i % width, at = r * s.ld + j;
      if (j >= s.out) {
        for (int k = 0; k < tangents + 2; k++) z[k * stride + at] = T(0);
        continue;
      }
      const T d1 = z[at], d2 = memory[s.at_d2 + at], d3 = memory[s.at_d3 + at];
      const T g = chained ? memory[s.at_chain + at] : adjoints[curve + at];
      const T cg = chained ? g * memory[p.at_energy + this->curvature_row() + r] : g, d2_cg = d2 * cg;
      T inner(0), q(0);
      if (!fresh) inner = add_inner(inner, g, z[curve + at]);
      for (int m = 1; m <= tangents; m++) {
        const T zd = z[m * stride + at], hdb = adjoints[m * stride + at];
        q = add_square(q, zd);
        inner = add_inner(inner, hdb, zd);
        z[m * stride + at] = curved_tangent_down(d1, hdb, d2_cg, zd);
      }
      z[at] = curved_value_down(d1, adjoints[at], d2, inner, d3, cg, q);
      z[curve + at] = tangent(d1, g);
    }
    __syncthreads();
  }

  // One layer of the chain: f' g, in place of zk, and E2 += f'' q . g; a warp for each sample.
  FASTSSM_DEVICE void chain(const Layer& s, bool top) {
    const int stride = samples * s.ld, curve = this->curvature_row() * s.ld;
    T* z = memory + s.at_z;
    for (int r = threadIdx.x / kWarp; r < samples; r += kSmallThreads / kWarp) {
      T e2(0);
      for (int j = threadIdx.x % kWarp; j < 4 * quads(s.out); j += kWarp) {
        const int at = r * s.ld + j;
        T q(0), adjoint(0);
        if (j < s.out) {
          const T g = memory[s.at_chain + at];
          for (int m = 1; m <= tangents; m++) q = add_square(q, z[m * stride + at]);
          e2 = add_inner(e2, curvature(memory[s.at_d2 + at], q), g);
          adjoint = tangent(z[at], g);
        }
        z[curve + at] = adjoint;
      }
      e2 = warp_sum(e2);
      T* sum = memory + p.at_energy + this->curvature_row() + r;
      if (threadIdx.x % kWarp == 0) *sum = top ? e2 : *sum + e2;
    }
    __syncthreads();
  }

  // The curvature that carries both cotangents of the chain: k = f' zk + c2 f'' q.
  FASTSSM_DEVICE void curvature_up(const Layer& s) {
    const int stride = samples * s.ld, curve = this->curvature_row() * s.ld;
    const T *z = memory + s.at_z, *in = memory + s.at_in + this->curvature_row() * s.ld_in;
    T* out = memory + s.at_out;
    const int width = 4 * quads(s.out);
    for (int i = threadIdx.x; i < samples * width; i += kSmallThreads) {
      const int r = i / width, j = i % width, at = r * s.ld + j;
      T q(0), k(0);
      for (int m = 1; m <= tangents; m++) q = add_square(q, z[m * stride + at]);
      const T c2 = memory[p.at_energy + this->curvature_row() + r];
      if (j < s.out) k = curvature(z[at], z[curve + at], c2 * memory[s.at_d2 + at], q);
      out[curve + at] = s.skip ? k + in[r * s.ld_in + j] : k;
    }
    __syncthreads();
  }

  // ---- at the top ----------------------------------------------------------------------------------------------

  // w . row, for the first rows of the last hidden layer's output; a warp for each.
  FASTSSM_DEVICE void read_energies(int rows) {
    const Layer& s = p.layers[p.depth - 1];
    for (int r = threadIdx.x / kWarp; r < rows; r += kSmallThreads / kWarp) {
      T e(0);
      for (int j = threadIdx.x % kWarp; j < s.out; j += kWarp)
        e += memory[s.at_out + r * s.ld + j] * memory[p.at_readout + j];
      e = warp_sum(e);
      if (threadIdx.x % kWarp == 0) memory[p.at_energy + r] = e;
    }
    __syncthreads();
  }

  // NaN where the energy is not finite, or zero.
  FASTSSM_DEVICE T nan_flag(T energy) const { return (energy + constant) * T(0); }

  // Adds the terms of a chunk of directions. The first chunk overwrites.
  FASTSSM_DEVICE void add_terms(int r, T jacobian, T square) {
    memory[p.at_projected_jacobian + r] = jacobian + (direction == 0 ? T(0) : memory[p.at_projected_jacobian + r]);
    memory[p.at_square + r] = square + (direction == 0 ? T(0) : memory[p.at_square + r]);
  }

  // Replaces the energies by their cotangents: none on E itself, E1 / M and -1 / M, each times the sample's weight.
  FASTSSM_DEVICE void sliced_top() {
    for (int r = threadIdx.x; r < samples; r += kSmallThreads) {
      T* e = memory + p.at_energy + r;
      T *e2 = e + curvature_row(), squares(0);
      const T share = memory[p.at_weights + r] / T(p.count);
      for (int m = 1; m <= tangents; m++) {
        squares += e[m * samples] * e[m * samples];
        e[m * samples] *= share;
      }
      add_terms(r, nan_flag(*e) - *e2 / T(p.count), squares / T(2 * p.count));
      *e = T(0);
      *e2 = -share;
    }
    __syncthreads();
  }

  // Replaces dE/dx and E2 by their cotangents; a warp for each sample.
  FASTSSM_DEVICE void merged_top() {
    const int ld = p.layers[0].ld_in;
    for (int r = threadIdx.x / kWarp; r < samples; r += kSmallThreads / kWarp) {
      T *u = memory + p.at_first + (curvature_row() + r) * ld, norm(0);
      const T weight = memory[p.at_weights + r];
      for (int j = threadIdx.x % kWarp; j < ld; j += kWarp) {
        if (j < p.dim) norm += u[j] * u[j];
        u[j] = j < p.dim && direction == 0 ? weight * u[j] : T(0);
      }
      norm = warp_sum(norm);
      if (threadIdx.x % kWarp == 0) {
        T *e = memory + p.at_energy + r, *e2 = e + curvature_row();
        add_terms(r, nan_flag(*e) - *e2 / T(p.count), direction == 0 ? norm / T(2) : T(0));
        *e2 = -weight / T(p.count);
      }
    }
    __syncthreads();
  }

  // Adds rows to the sums from `at` on, each times its coefficient if there are any.
  FASTSSM_DEVICE void add_rows(int at, int width, const T* rows, int ld, const T* coefficient, int count) {
    for (int j = threadIdx.x; j < width; j += kSmallThreads) {
      T total(0);
      for (int r = 0; r < count; r++) total += (coefficient ? coefficient[r] : T(1)) * rows[r * ld + j];
      memory[p.at_sums + at + j] += total;
    }
    __syncthreads();
  }

  // Fills rows with the readout, each times its coefficient if there are any.
  FASTSSM_DEVICE void scale_readout(int at, const T* coefficient, int count) {
    const Layer& top = p.layers[p.depth - 1];
    for (int i = threadIdx.x; i < count * top.ld; i += kSmallThreads) {
      const int r = i / top.ld, j = i % top.ld;
      const T w = j < top.out ? memory[p.at_readout + j] : T(0);
      memory[at + i] = coefficient ? coefficient[r] * w : w;
    }
    __syncthreads();
  }
};

}  // namespace fastssm::cuda
