// Plain views of a network, a call of the engine and its results: pointers and sizes, nothing owned.
#pragma once

#include <cstdint>

namespace fastssm {

enum class Kind { energy, score };

// One layer: z = scale * (W h + b) + shift, h' = f(z) (+ h where it skips). Rows of W are contiguous.
template <class T>
struct Layer {
  const T* weight;  // [out, in]
  const T* bias;    // [out], or null
  const T* scale;   // [samples, out], or null
  const T* shift;   // [samples, out], or null
  int64_t in;
  int64_t out;
  int activation;  // row of the table of activations
  const T* constants;
  bool skip;
};

constexpr int kIdentity = 0;  // row of the table of activations

// Whether a layer is a bare affine map: the top of a sweep is linear in what enters such a readout.
template <class T>
bool plain(const Layer<T>& layer) {
  return layer.activation == kIdentity && !layer.skip && !layer.scale && !layer.shift;
}

// Where the gradients of one layer go; null where not needed.
template <class T>
struct LayerGradient {
  T* weight;
  T* bias;
  T* scale;
  T* shift;
};

// M directions per sample: given (v), regenerated from a seed, or the scaled basis (neither). Without any, the terms are
// the score alone, and an objective is not defined.
template <class T>
struct Directions {
  int64_t count;
  const T* v;  // [count, samples, dim], or null
  bool seeded;
  uint64_t seed;
  T averaged() const { return T(count > 0 ? count : 1); }  // what sums over directions are divided by
};

// What every caller of the engine gives.
template <class T>
struct Problem {
  Kind kind;
  const Layer<T>* layers;
  int64_t depth;
  const T* x;        // [samples, dim]
  const T* columns;  // [samples, extra], conditioning columns of the first layer
  int64_t samples;
  int64_t dim;
  int64_t extra;
  Directions<T> directions;
};

// The gradients of a call; inputs and layers are null where not needed.
template <class T>
struct Gradients {
  T* x;        // [samples, dim]
  T* columns;  // [samples, extra]
  const LayerGradient<T>* layers;
};

// The sliced loss: what to weigh its samples with, and where its two terms per sample go.
template <class T>
struct Objective {
  bool variance_reduced;
  const T* weight;  // [samples]
  T* jacobian;      // [samples]: mean_m v_m^T J v_m
  T* square;        // [samples]: mean_m (v_m . s)^2 / 2, or |s|^2 / 2
};

// The terms of every sample, or the cotangents of them.
template <class T>
struct Terms {
  T* projected;  // [count, samples]: v_m . s
  T* jacobian;   // [samples]: mean_m v_m^T J v_m
  T* score;      // [samples, dim]: s
  bool each = false;  // jacobian is [count, samples]: v_m^T J v_m
};

}  // namespace fastssm
