#include "weights.h"

#include <algorithm>
#include <cstring>

namespace fastssm::cpu {
namespace {

constexpr int64_t kNarrowest = 32;   // smaller products stay in full precision, as they cost little
constexpr int64_t kPackRows = 32;    // of a panel, narrowed at a time; an even number
constexpr int64_t kMostColumns = 64;  // of a panel of bfloat16

template <class T>
constexpr bool kSingle = sizeof(T) == sizeof(float);  // the dtype whose products can be narrowed

}  // namespace

template <class T>
Weights<T>::Weights(const Layer<T>& layer, bool downward, const NarrowProducts& narrow, const Kernels<T>& kernels)
    : products_(narrow),
      kernels_(kernels),
      weight_(layer.weight),
      in_(layer.in),
      out_(layer.out),
      downward_(downward),
      narrow_(kSingle<T> && narrow.multiply && std::min(layer.in, layer.out) >= kNarrowest),
      panel_(narrow_ ? narrow.panel : kernels.panel) {}

template <class T>
void Weights<T>::allocate(Arena& arena) {
  up_ = arena.take<T>(pad(out_) * in_);
  if (downward_) down_ = arena.take<T>(pad(in_) * out_);
  if (!narrow_) return;
  narrow_up_ = arena.take<uint16_t>(pad(out_) * products_.deep(in_));
  if (downward_) narrow_down_ = arena.take<uint16_t>(pad(in_) * products_.deep(out_));
}

// A panel as bfloat16, some rows at a time.
template <class T>
void Weights<T>::narrow_panel(int64_t depth, int64_t columns, const T* panel, uint16_t* out) const {
  if constexpr (kSingle<T>) {
    uint16_t rows[kPackRows * kMostColumns];
    for (int64_t k = 0, deep = products_.deep(depth); k < deep; k += kPackRows) {
      const int64_t some = std::clamp<int64_t>(depth - k, 0, kPackRows);
      kernels_.narrow(some, columns, panel + k * columns, columns, rows, columns);
      kernels_.interleave(some, std::min(kPackRows, deep - k), columns, rows, columns, out + k * columns);
    }
  }
}

// Pieces are the panels of W^T, then those of W. For bfloat16, a panel is narrowed right after it is packed.
template <class T>
void Weights<T>::pack(int64_t piece) const {
  const bool upward = piece < panels(out_);
  if (!upward) piece -= panels(out_);
  const int64_t width = upward ? out_ : in_, depth = upward ? in_ : out_, first = piece * panel_;
  const int64_t columns = std::min(panel_, pad(width) - first), filled = std::clamp<int64_t>(width - first, 0, columns);
  T* panel = (upward ? up_ : down_) + first * depth;
  if (filled < columns) std::fill(panel, panel + depth * columns, T(0));
  if (upward) {
    kernels_.transpose(filled, depth, weight_ + first * in_, in_, panel, columns);
  } else {
    for (int64_t k = 0; k < depth; k++) std::memcpy(panel + k * columns, weight_ + k * in_ + first, filled * sizeof(T));
  }
  if constexpr (kSingle<T>) {
    uint16_t* out = upward ? narrow_up_ : narrow_down_;
    if (narrow_) narrow_panel(depth, columns, panel, out + first * products_.deep(depth));
  }
}

template <class T>
Rows<T> Weights<T>::narrowed(int64_t rows, int64_t width, Rows<T> a, const NarrowScratch& scratch) const {
  if constexpr (kSingle<T>) {
    const int64_t deep = products_.deep(width);
    if (!a.narrow) kernels_.narrow(rows, width, a.p, a.ld, scratch.rows, deep), a = {nullptr, deep, scratch.rows};
  }
  return a;
}

template <class T>
void Weights<T>::multiply(int64_t rows, int64_t depth, int64_t width, Rows<T> a, const T* packed,
                          const uint16_t* narrow_packed, Rows<T> c, bool accumulate,
                          const NarrowScratch& scratch) const {
  if (rows == 0) return;
  if constexpr (kSingle<T>) {
    if (narrow_) {
      a = narrowed(rows, depth, a, scratch);
      return products_.multiply(rows, pad(width), products_.deep(depth), a.narrow, a.ld, narrow_packed, c.p, c.ld,
                                accumulate);
    }
  }
  kernels_.multiply(rows, pad(width), depth, a.p, a.ld, packed, c.p, c.ld, accumulate);
}

template <class T>
void Weights<T>::unit(int64_t k, T factor, int64_t depth, int64_t width, const T* packed, T* c) const {
  for (int64_t j = 0; j < pad(width); j += panel_) {
    const int64_t columns = std::min(panel_, pad(width) - j);
    kernels_.scaled(1, columns, packed + j * depth + k * columns, 0, &factor, c + j, 0, false);
  }
}

template <class T>
void Weights<T>::up(int64_t rows, Rows<T> a, T* c, int64_t ldc, const NarrowScratch& scratch) const {
  multiply(rows, in_, out_, a, up_, narrow_up_, {c, ldc}, false, scratch);
}

template <class T>
void Weights<T>::down(int64_t rows, Rows<T> a, Rows<T> c, bool accumulate, const NarrowScratch& scratch) const {
  multiply(rows, out_, in_, a, down_, narrow_down_, c, accumulate, scratch);
}

template <class T>
void Weights<T>::outer(int64_t rows, Rows<T> a, Rows<T> b, T* sum, bool accumulate,
                       const NarrowScratch& scratch) const {
  if constexpr (kSingle<T>) {
    if (narrow_) {
      const int64_t deep = products_.deep(rows);
      a = narrowed(rows, out_, a, scratch);
      kernels_.transpose_narrow(rows, deep, out_, a.narrow, a.ld, scratch.transposed);
      b = narrowed(rows, in_, b, scratch);
      for (int64_t j = 0; j < in_; j += panel_) {
        const int64_t columns = std::min(panel_, in_ - j);
        kernels_.interleave(rows, deep, columns, b.narrow + j, b.ld, scratch.interleaved);
        products_.multiply(out_, columns, deep, scratch.transposed, deep, scratch.interleaved, sum + at(0, j),
                           at(1, j) - at(0, j), accumulate);
      }
      return;
    }
  }
  kernels_.multiply_transposed(out_, pad(in_), rows, a.p, a.ld, b.p, b.ld, sum, accumulate);
}

template <class T>
void Weights<T>::add_row(int64_t k, const T* row, T* sum) const {
  for (int64_t j = 0; j < in_; j += panel_) kernels_.add(std::min(panel_, in_ - j), row + j, sum + at(k, j));
}

template <class T>
void Weights<T>::add_column(int64_t k, const T* column, T* sum) const {
  const int64_t j = k / panel_ * panel_;
  for (int64_t i = 0; i < out_; i++) sum[at(i, j) + k - j] += column[i];
}

template <class T>
void Weights<T>::total(int64_t first, int64_t rows, const std::vector<const T*>& sums, T* matrix) const {
  const int64_t together = at(1, 0) == in_ ? rows : 1;  // all, where they follow one another in the sum too
  for (int64_t i = first; i < first + rows; i += together)
    for (int64_t j = 0; j < in_; j += panel_) {
      const int64_t columns = together * std::min(panel_, in_ - j);
      T* out = matrix + i * in_ + j;
      if (sums.empty()) std::fill_n(out, columns, T(0));
      else std::copy_n(sums[0] + at(i, j), columns, out);
      for (size_t other = 1; other < sums.size(); other++) kernels_.add(columns, sums[other] + at(i, j), out);
    }
}

template class Weights<float>;
template class Weights<double>;

}  // namespace fastssm::cpu
