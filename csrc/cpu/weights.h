// A layer's matrix, packed for the products of the sweeps, these products, and sums of its gradients.
#pragma once

#include <algorithm>
#include <vector>

#include "../engine/network.h"
#include "arena.h"
#include "kernels/kernels.h"
#include "narrow.h"

namespace fastssm::cpu {

// Full padded rows of an operand; where `narrow` is given they are there, as bfloat16 with zeros in their padding.
template <class T>
struct Rows {
  T* p;
  int64_t ld;
  uint16_t* narrow = nullptr;

  Rows from(int64_t row) const { return {p ? p + row * ld : nullptr, ld, narrow ? narrow + row * ld : nullptr}; }
};

template <class T>
class Weights {
 public:
  // Without `downward` there are no products with W itself, which is then not packed.
  Weights(const Layer<T>& layer, bool downward, const NarrowProducts& narrow, const Kernels<T>& kernels);

  // Panels to pack, in any order and by any thread, after `allocate`.
  int64_t pieces() const { return panels(out_) + (downward_ ? panels(in_) : 0); }
  void allocate(Arena& arena);
  void pack(int64_t piece) const;

  // c = factor W e_k, and factor W^T e_k, in full padded rows: the products below for a unit vector.
  void column(int64_t k, T factor, T* c) const { unit(k, factor, in_, out_, up_, c); }
  void row(int64_t k, T factor, T* c) const { unit(k, factor, out_, in_, down_, c); }
  // c = a W^T
  void up(int64_t rows, Rows<T> a, T* c, int64_t ldc, const NarrowScratch& scratch) const;
  // c (+)= a W
  void down(int64_t rows, Rows<T> a, Rows<T> c, bool accumulate, const NarrowScratch& scratch) const;

  bool narrow() const { return narrow_; }

  // A sum of gradients [out, in] lies in panels [in / panel][out][panel]: each product adds to all of it, from memory
  // that the processor fetches ahead.
  int64_t sum_size() const { return pad(in_) * out_; }
  // sum (+)= a^T b of a [rows, out] and b [rows, in]
  void outer(int64_t rows, Rows<T> a, Rows<T> b, T* sum, bool accumulate, const NarrowScratch& scratch) const;
  // sum[k, :] += row, and sum[:, k] += column
  void add_row(int64_t k, const T* row, T* sum) const;
  void add_column(int64_t k, const T* column, T* sum) const;
  // Some rows of a matrix [out, in]: the first sum and then the others, one after another; zeros where there is none.
  void total(int64_t first, int64_t rows, const std::vector<const T*>& sums, T* matrix) const;

 private:
  void unit(int64_t k, T factor, int64_t depth, int64_t width, const T* packed, T* c) const;
  int64_t panels(int64_t width) const { return (pad(width) + panel_ - 1) / panel_; }
  // Where row k begins in the panel of a sum whose first column is j.
  int64_t at(int64_t k, int64_t j) const { return j * out_ + k * std::min(panel_, pad(in_) - j); }
  void multiply(int64_t rows, int64_t depth, int64_t width, Rows<T> a, const T* packed, const uint16_t* narrow_packed,
                Rows<T> c, bool accumulate, const NarrowScratch& scratch) const;
  void narrow_panel(int64_t depth, int64_t columns, const T* panel, uint16_t* out) const;
  Rows<T> narrowed(int64_t rows, int64_t width, Rows<T> a, const NarrowScratch& scratch) const;

  const NarrowProducts& products_;
  const Kernels<T>& kernels_;
  const T* weight_;
  int64_t in_, out_;
  bool downward_, narrow_;
  int64_t panel_;
  T* up_ = nullptr;                   // panels [out / panel][in][panel] of W^T
  T* down_ = nullptr;                 // panels [in / panel][out][panel] of W
  uint16_t* narrow_up_ = nullptr;     // the same in interleaved pairs
  uint16_t* narrow_down_ = nullptr;
};

}  // namespace fastssm::cpu
