// A network, a call of an engine and its results, as structs of pointers and sizes. They own nothing.
#pragma once

#include <cstdint>

namespace fastssm {

enum class Kind { energy, score };

// One layer: z = scale * (W h + b) + shift, h' = f(z) (+ h where it skips). Rows of W are contiguous.
template <class T>
struct Layer {
  const T* weight = nullptr;  // [out, in]
  const T* bias = nullptr;    // [out], or null
  const T* scale = nullptr;   // [samples, out], or null
  const T* shift = nullptr;   // [samples, out], or null
  int64_t in = 0;
  int64_t out = 0;
  int activation = 0;  // row of the table of activations
  const T* constants = nullptr;
  bool skip = false;
};

constexpr int kIdentity = 0;  // row of the table of activations

// Whether a layer is a plain affine map. A sweep needs no derivatives of such a readout.
template <class T>
bool plain(const Layer<T>& layer) {
  return layer.activation == kIdentity && !layer.skip && !layer.scale && !layer.shift;
}

// Where the gradients of one layer go. Pointers are null where no gradient is needed.
template <class T>
struct LayerGradient {
  T* weight;
  T* bias;
  T* scale;
  T* shift;
};

// M directions per sample: given as v, generated from a seed, or without both the scaled basis. With M = 0 the terms
// are the score alone, and an objective is not defined.
template <class T>
struct Directions {
  int64_t count;
  const T* v;  // [count, samples, dim], or null
  bool seeded;
  uint64_t seed;
  T averaged() const { return T(count > 0 ? count : 1); }  // divisor of a mean over directions
};

// The input of every call of an engine.
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

// The gradients of a call. `x` and `columns`, or `layers`, are null where no gradient is needed.
template <class T>
struct Gradients {
  T* x;        // [samples, dim]
  T* columns;  // [samples, extra]
  const LayerGradient<T>* layers;
};

// The sliced loss: the weights of its samples, and where its two terms per sample go. With a target it is a denoising
// loss instead, which has no directions.
template <class T>
struct Objective {
  bool variance_reduced;
  const T* weight;        // [samples]; on a GPU null for ones
  T* projected_jacobian;  // [samples]: mean_m v_m^T J v_m
  T* square;              // [samples]: mean_m (v_m . s)^2 / 2, or |s|^2 / 2, or |s - target|^2 / 2
  const T* target = nullptr;  // [samples, dim], with variance_reduced; CPU only
  T factor = T(1);            // of all weights; GPU only
};

// The terms of every sample, or the cotangents of them.
template <class T>
struct Terms {
  T* projected;           // [count, samples]: v_m . s
  T* projected_jacobian;  // [samples]: mean_m v_m^T J v_m
  T* score;               // [samples, dim]: s
  bool each = false;      // projected_jacobian is [count, samples]: v_m^T J v_m
};

}  // namespace fastssm
