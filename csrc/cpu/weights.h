// A layer's matrix, packed for the products of the sweeps, and these products.
#pragma once

#include "../engine/network.h"
#include "arena.h"
#include "kernels/kernels.h"
#include "narrow.h"

namespace fastssm::cpu {

template <class T>
class Weights {
 public:
  Weights(const Layer<T>& layer, const NarrowProducts& narrow, const Kernels<T>& kernels);

  // Panels to pack, in any order and by any thread, after `allocate`.
  int64_t pieces() const { return panels(out_) + panels(in_); }
  void allocate(Arena& arena);
  void pack(int64_t piece) const;

  // c = factor W e_k, and factor W^T e_k, in full padded rows: the products below for a unit vector.
  void column(int64_t k, T factor, T* c) const { unit(k, factor, in_, out_, up_, c); }
  void row(int64_t k, T factor, T* c) const { unit(k, factor, out_, in_, down_, c); }
  // c = rows W^T, in full padded rows.
  void up(int64_t rows, const T* a, int64_t lda, T* c, int64_t ldc, const NarrowScratch& scratch) const;
  // c (+)= rows W, in full padded rows.
  void down(int64_t rows, const T* a, int64_t lda, T* c, int64_t ldc, bool accumulate,
            const NarrowScratch& scratch) const;
  // c [out, in] (+)= a^T b of a [rows, out] and b [rows, in], both in full padded rows.
  void outer(int64_t rows, const T* a, int64_t lda, const T* b, int64_t ldb, T* c, bool accumulate,
             const NarrowScratch& scratch) const;

  bool narrow() const { return narrow_; }

 private:
  void unit(int64_t k, T factor, int64_t depth, int64_t width, const T* packed, T* c) const;
  int64_t panels(int64_t width) const { return (pad(width) + panel_ - 1) / panel_; }
  void multiply(int64_t rows, int64_t depth, int64_t width, const T* a, int64_t lda, const T* packed,
                const uint16_t* narrow_packed, T* c, int64_t ldc, bool accumulate, const NarrowScratch& scratch) const;

  const NarrowProducts& products_;
  const Kernels<T>& kernels_;
  const T* weight_;
  int64_t in_, out_;
  bool narrow_;
  int64_t panel_;
  T* up_ = nullptr;                   // panels [out / panel][in][panel] of W^T
  T* down_ = nullptr;                 // panels [in / panel][out][panel] of W
  uint16_t* narrow_up_ = nullptr;     // the same in interleaved pairs
  uint16_t* narrow_down_ = nullptr;
};

}  // namespace fastssm::cpu
