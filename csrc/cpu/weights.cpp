#include "weights.h"

#include <algorithm>
#include <cstring>

namespace fastssm::cpu {
namespace {

constexpr int64_t kNarrowest = 32;   // smaller products stay in full precision, as they cost little
constexpr int64_t kNarrowPanel = 64;  // columns of a panel of bfloat16
constexpr int64_t kOuterRows = 256;   // block of a narrow gradient, small enough for the second-level cache
constexpr int64_t kOuterColumns = 64;

int64_t even(int64_t n) { return n + n % 2; }

template <class T>
constexpr bool kSingle = sizeof(T) == sizeof(float);  // the dtype whose products can be narrowed

}  // namespace

template <class T>
Weights<T>::Weights(const Layer<T>& layer, const NarrowProducts& narrow, const Kernels<T>& kernels)
    : products_(narrow),
      kernels_(kernels),
      weight_(layer.weight),
      in_(layer.in),
      out_(layer.out),
      narrow_(kSingle<T> && narrow.multiply && std::min(layer.in, layer.out) >= kNarrowest),
      panel_(narrow_ ? kNarrowPanel : kernels.panel) {}

template <class T>
void Weights<T>::allocate(Arena& arena) {
  up_ = arena.take<T>(pad(out_) * in_);
  down_ = arena.take<T>(pad(in_) * out_);
  if (narrow_) {
    narrow_up_ = arena.take<uint16_t>(pad(out_) * even(in_));
    narrow_down_ = arena.take<uint16_t>(pad(in_) * even(out_));
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
    uint16_t* packed = (upward ? narrow_up_ : narrow_down_) + first * even(depth);
    if (narrow_) kernels_.interleave(depth, columns, panel, columns, packed, columns);
  }
}

template <class T>
void Weights<T>::multiply(int64_t rows, int64_t depth, int64_t width, const T* a, int64_t lda, const T* packed,
                          const uint16_t* narrow_packed, T* c, int64_t ldc, bool accumulate,
                          const NarrowScratch& scratch) const {
  if (rows == 0) return;
  const int64_t all = pad(width), deep = even(depth);
  if constexpr (kSingle<T>) {
    if (narrow_) {
      kernels_.narrow(rows, depth, a, lda, scratch.a, deep);
      for (int64_t j = 0; j < all; j += panel_)
        products_.multiply(rows, std::min(panel_, all - j), deep, scratch.a, deep, narrow_packed + j * deep,
                           std::min(panel_, all - j), c + j, ldc, accumulate);
      return;
    }
  }
  kernels_.multiply(rows, all, depth, a, lda, packed, c, ldc, accumulate);
}

template <class T>
void Weights<T>::unit(int64_t k, T factor, int64_t depth, int64_t width, const T* packed, T* c) const {
  for (int64_t j = 0; j < pad(width); j += panel_) {
    const int64_t columns = std::min(panel_, pad(width) - j);
    kernels_.scaled(1, columns, packed + j * depth + k * columns, 0, &factor, c + j, 0, false);
  }
}

template <class T>
void Weights<T>::up(int64_t rows, const T* a, int64_t lda, T* c, int64_t ldc, const NarrowScratch& scratch) const {
  multiply(rows, in_, out_, a, lda, up_, narrow_up_, c, ldc, false, scratch);
}

template <class T>
void Weights<T>::down(int64_t rows, const T* a, int64_t lda, T* c, int64_t ldc, bool accumulate,
                      const NarrowScratch& scratch) const {
  multiply(rows, out_, in_, a, lda, down_, narrow_down_, c, ldc, accumulate, scratch);
}

template <class T>
void Weights<T>::outer(int64_t rows, const T* a, int64_t lda, const T* b, int64_t ldb, T* c, bool accumulate,
                       const NarrowScratch& scratch) const {
  if constexpr (kSingle<T>) {
    if (narrow_) {
      const int64_t deep = even(rows);
      kernels_.transpose(rows, out_, a, lda, scratch.transposed, deep);
      kernels_.narrow(out_, rows, scratch.transposed, deep, scratch.a, deep);
      kernels_.interleave(rows, in_, b, ldb, scratch.b, in_);
      for (int64_t j = 0; j < in_; j += kOuterColumns)
        for (int64_t i = 0; i < out_; i += kOuterRows)
          products_.multiply(std::min(kOuterRows, out_ - i), std::min(kOuterColumns, in_ - j), deep,
                             scratch.a + i * deep, deep, scratch.b + 2 * j, in_, c + i * in_ + j, in_, accumulate);
      return;
    }
  }
  kernels_.multiply_transposed(out_, in_, rows, a, lda, b, ldb, c, in_, accumulate);
}

template class Weights<float>;
template class Weights<double>;

}  // namespace fastssm::cpu
