// Activations and their derivatives from what a layer's product gave: recomputed wherever they are needed, because that
// moves fewer bytes than to store them.
#pragma once

#include "../../maths/activations.h"
#include "pack.cuh"

namespace fastssm::cuda {

template <int ID>
struct Row {
  static constexpr int id = ID;
};

// f(Row<id>) for row `id` of the table of activations: a few branches, which all threads take in the same way.
template <int FIRST = 0, int COUNT = activation_count, class F>
FASTSSM_DEVICE void with_activation(int id, const F& f) {
  constexpr int half = COUNT / 2;
  if constexpr (COUNT == 1) f(Row<FIRST>{});
  else if (id < FIRST + half) with_activation<FIRST, half>(id, f);
  else with_activation<FIRST + half, COUNT - half>(id, f);
}

template <int ORDER, class T>
FASTSSM_DEVICE Jet<T> jet_of(int id, T z, const T* c) {
  Jet<T> found;
  with_activation(id, [&](auto row) { found = jet<decltype(row)::id, ORDER>(z, c); });
  return found;
}

// The bias of some columns, or zeros.
template <class T>
FASTSSM_DEVICE Pack<T> bias_of(const Activated<T>& a, int64_t width, int64_t column) {
  return a.bias ? load_given(a.bias + column, width - column) : all(T(0));
}

// The scale of some columns of a sample, or ones.
template <class T>
FASTSSM_DEVICE Pack<T> scale_of(const Activated<T>& a, int64_t sample, int64_t width, int64_t column) {
  return a.scale ? load_given(a.scale + sample * width + column, width - column) : all(T(1));
}

// What enters the activation, scale (W h + b) + shift.
template <class T>
FASTSSM_DEVICE Pack<T> modulated(const Activated<T>& a, const Pack<T>& raw, const Pack<T>& scale, int64_t sample,
                                 int64_t width, int64_t column) {
  const Pack<T> z = raw * scale;
  return a.shift ? z + load_given(a.shift + sample * width + column, width - column) : z;
}

// A pack of a layer's columns: W h + b, its scale, and f', f'' and with ORDER 3 f''' of what enters the activation.
template <class T>
struct Recomputed {
  Pack<T> value, scale, d1, d2, d3;
};

// Derivatives are computed lane after lane, so that the code of all activations is there once.
template <int ORDER, class T>
FASTSSM_DEVICE Recomputed<T> recomputed(const Activated<T>& a, const Pack<T>& product, int64_t sample, int64_t width,
                                        int64_t column) {
  Recomputed<T> out;
  out.value = product + bias_of(a, width, column), out.scale = scale_of(a, sample, width, column);
  const Pack<T> z = modulated(a, out.value, out.scale, sample, width, column);
#pragma unroll 1
  for (int lane = 0; lane < kLanes<T>; lane++) {
    T entry = z.lane[0];
    FASTSSM_UNROLL
    for (int i = 1; i < kLanes<T>; i++) entry = i == lane ? z.lane[i] : entry;
    const Jet<T> found = jet_of<ORDER>(a.activation, entry, a.constants);
    FASTSSM_UNROLL
    for (int i = 0; i < kLanes<T>; i++)
      if (i == lane) out.d1.lane[i] = found.d1, out.d2.lane[i] = found.d2, out.d3.lane[i] = found.d3;
  }
  return out;
}

}  // namespace fastssm::cuda
