// Matrix products of every instruction set that the processor has, or of the one that is named, against loops: each size of a register block and of
// what is left beside it, each depth around the pieces that a product is split into, and what lies around the operands.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "../cpu/kernels/kernels.h"
#include "check.h"

using namespace fastssm;

namespace {

constexpr int64_t kMost = 67;      // more than two blocks of any level, and a prime number
constexpr double kAround = 12345;  // what lies around a result, and must stay there

// Numbers whose products and sums of a few thousand terms are exact in any type, so that results compare as equal.
template <class T>
std::vector<T> numbers(int64_t count, unsigned seed) {
  std::minstd_rand random(seed);
  std::vector<T> out(count);
  for (T& value : out) value = T(int(random() % 17) - 8);
  return out;
}

struct Size {
  int64_t m, n, k;
};

template <class T>
struct Operands {
  Size size;
  std::vector<T> a, b;  // [m, k] and [k, n], dense
  std::vector<T> c;     // [m, n], what a product is added to

  explicit Operands(Size s)
      : size(s), a(numbers<T>(s.m * s.k, 1)), b(numbers<T>(s.k * s.n, 2)), c(numbers<T>(s.m * s.n, 3)) {}

  T expected(int64_t i, int64_t j, bool accumulate) const {
    T total = accumulate ? c[i * size.n + j] : T(0);
    for (int64_t p = 0; p < size.k; p++) total += a[i * size.k + p] * b[p * size.n + j];
    return total;
  }

  // Whether `out` holds the product in its first n columns, and `around` from column `kept` on.
  bool right(const std::vector<T>& out, int64_t ld, int64_t kept, bool accumulate) const {
    for (int64_t i = 0; i < size.m; i++) {
      for (int64_t j = 0; j < size.n; j++)
        if (out[i * ld + j] != expected(i, j, accumulate)) return false;
      for (int64_t j = kept; j < ld; j++)
        if (out[i * ld + j] != T(kAround)) return false;
    }
    return true;
  }

  std::vector<T> start(int64_t ld) const {
    std::vector<T> out(size.m * ld, T(kAround));
    for (int64_t i = 0; i < size.m; i++) std::copy_n(&c[i * size.n], size.n, &out[i * ld]);
    return out;
  }
};

// Columns filled up to whole vectors, of which a panel has at least two: products take such widths, engines padded ones.
int64_t whole(int64_t n, int64_t panel) {
  const int64_t vector = std::min(cpu::kAlign, panel / 2);
  return (n + vector - 1) / vector * vector;
}

// Where a number of a matrix [rows, n] lies in panels.
int64_t in_panels(int64_t rows, int64_t n, int64_t panel, int64_t i, int64_t j) {
  const int64_t first = j / panel * panel;
  return first * rows + i * std::min(panel, whole(n, panel) - first) + j - first;
}

// A matrix [rows, n] in panels, padded with zeros.
template <class T>
std::vector<T> packed(const std::vector<T>& matrix, int64_t rows, int64_t n, int64_t panel) {
  std::vector<T> out(whole(n, panel) * rows, T(0));
  for (int64_t i = 0; i < rows; i++)
    for (int64_t j = 0; j < n; j++) out[in_panels(rows, n, panel, i, j)] = matrix[i * n + j];
  return out;
}

template <class T>
bool multiplies(const cpu::Kernels<T>& kernels, Size size, bool accumulate) {
  const Operands<T> given(size);
  const int64_t lda = size.k + 3, n = whole(size.n, kernels.panel), ldc = n + 5;
  std::vector<T> a(size.m * lda, std::numeric_limits<T>::quiet_NaN());
  for (int64_t i = 0; i < size.m; i++) std::copy_n(&given.a[i * size.k], size.k, &a[i * lda]);
  std::vector<T> out = given.start(ldc);
  for (int64_t i = 0; i < size.m; i++) std::fill(&out[i * ldc + size.n], &out[i * ldc + n], T(0));
  const std::vector<T> b = packed(given.b, size.k, size.n, kernels.panel);
  kernels.multiply(size.m, n, size.k, a.data(), lda, b.data(), out.data(), ldc, accumulate);
  return given.right(out, ldc, n, accumulate);
}

template <class T>
bool multiplies_transposed(const cpu::Kernels<T>& kernels, Size size, bool accumulate, int64_t apart) {
  const Operands<T> given(size);
  const T nan = std::numeric_limits<T>::quiet_NaN();  // in the padding: no result may depend on it
  const int64_t lda = size.m + 3, n = whole(size.n, kernels.panel), ldb = n + apart;
  std::vector<T> a(size.k * lda, nan), b(size.k * ldb, nan);
  for (int64_t p = 0; p < size.k; p++) {
    for (int64_t i = 0; i < size.m; i++) a[p * lda + i] = given.a[i * size.k + p];
    std::copy_n(&given.b[p * size.n], size.n, &b[p * ldb]);
  }
  std::vector<T> out = packed(given.c, size.m, size.n, kernels.panel), found(size.m * size.n);
  out.push_back(T(kAround));
  kernels.multiply_transposed(size.m, n, size.k, a.data(), lda, b.data(), ldb, out.data(), accumulate);
  for (int64_t i = 0; i < size.m; i++)
    for (int64_t j = 0; j < size.n; j++)
      found[i * size.n + j] = out[in_panels(size.m, size.n, kernels.panel, i, j)];
  return out.back() == T(kAround) && given.right(found, size.n, size.n, accumulate);
}

template <class T>
void test_size(const cpu::Kernels<T>& kernels, Size size) {
  for (bool accumulate : {false, true}) {
    const bool plain = multiplies(kernels, size, accumulate);
    const bool near = multiplies_transposed(kernels, size, accumulate, 1);
    const bool far = size.m <= kMost || multiplies_transposed(kernels, size, accumulate, 512);  // such rows are copied
    CHECK(plain && near && far);
    if (!plain || !near || !far)
      std::printf("m = %d, n = %d, k = %d, %d bytes\n", int(size.m), int(size.n), int(size.k), int(sizeof(T)));
  }
}

template <class T>
void test_sizes(cpu::Level level) {
  const cpu::Kernels<T>& kernels = cpu::kernels<T>(level);
  for (int64_t m = 1; m <= kMost; m++)
    for (int64_t n = 1; n <= kMost; n++) test_size<T>(kernels, {m, n, 1 + (m + n) % 3});
  for (int64_t k = 1; k <= kMost; k++) test_size<T>(kernels, {17, 35, k});
  for (int64_t k : {255, 256, 257, 511, 512, 513, 769}) test_size<T>(kernels, {5, 33, k});
  for (int64_t m : {150, 400}) test_size<T>(kernels, {m, 33, 1100});  // in parts that stay in a cache
  kernels.multiply(0, 16, 4, nullptr, 4, nullptr, nullptr, 16, false);  // no rows: nothing is read
}

// A number that is not finite reaches the results of its own row, and of no other.
template <class T>
void test_not_finite(cpu::Level level) {
  const cpu::Kernels<T>& kernels = cpu::kernels<T>(level);
  const int64_t rows = 20, width = 48;
  std::vector<T> a(rows * width, T(1)), b(width * width, T(1)), out(rows * width);
  a[7 * width + 3] = std::numeric_limits<T>::quiet_NaN();
  a[9 * width + 5] = std::numeric_limits<T>::infinity();
  kernels.multiply(rows, width, width, a.data(), width, b.data(), out.data(), width, false);
  for (int64_t i = 0; i < rows; i++)
    for (int64_t j = 0; j < width; j++) {
      const T found = out[i * width + j];
      CHECK(i == 7 ? std::isnan(found) : i == 9 ? std::isinf(found) : found == T(width));
    }
}

}  // namespace

int main(int argc, char** argv) {
  for (cpu::Level level : {cpu::Level::baseline, cpu::Level::avx2, cpu::Level::avx512}) {
    if (!cpu::supported(level) || (argc > 1 && std::strcmp(argv[1], cpu::name(level)) != 0)) continue;
    test_sizes<float>(level);
    test_sizes<double>(level);
    test_not_finite<float>(level);
    test_not_finite<double>(level);
  }
  return CHECKED();
}
