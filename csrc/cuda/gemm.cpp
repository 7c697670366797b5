#include "gemm.h"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>

#include "kernels/gemm_params.h"
#include "launch.h"

namespace fastssm::cuda {
namespace {

constexpr int kTensorCapability = 80;
constexpr int kFastCapability = 80;  // whose tensor cores are 16 times as fast as its units of float32
constexpr size_t kShared = 2 * 2 * kProductTile * (kProductDepth + 4) * sizeof(float);  // two stages of either side
constexpr size_t kSplitShared = 2 * size_t(kSplitTile) * kSplitDepth *  // stages, and two sets of parts, of either side
                                (kSplitStages * sizeof(float) + 2 * kSplitParts * sizeof(uint16_t));
constexpr size_t kWgmmaShared = 2 * (size_t(kSplitTile) * kSplitDepth * kSplitStages * sizeof(float) +
                                     2 * size_t(kSplitParts) * kCoreRoom * sizeof(uint16_t));  // the same
constexpr int kWgmmaCapability = 90;  // of the only devices that have it
#if defined(FASTSSM_WGMMA)
constexpr bool kHasWgmma = true;
#else
constexpr bool kHasWgmma = false;
#endif
constexpr int kIdleRows = 16;  // a tile's rows over those that may be idle, where it has all kinds of its samples
constexpr int64_t kSliceDepth = 128;  // of a split product at least, for which a block is worth while
constexpr int64_t kSumCycles = 5000;  // of a launch that adds up slices: 3.5 us, as short launches take on an H200

// A product whose C has contiguous rows: C^T = B^T A^T where its columns are.
template <class T>
struct Operands {
  View<const T> a, b;
  View<float> c;

  Operands(View<const T> left, View<const T> right, View<float> out) : a(left), b(right), c(out) {
    if (c.column_stride == 1) return;
    c = transposed(c);
    std::swap(a, b);
    a = transposed(a);
    b = transposed(b);
  }
};

// A side whose rows run along C, and whose columns run along the depth.
Side side(const View<const float>& v) {
  const bool along_depth = v.column_stride == 1;
  return {.p = v.p, .stride = along_depth ? v.row_stride : v.column_stride, .along_depth = along_depth};
}

Product product(const Operands<float>& of, bool accumulate) {
  return {.a = side(of.a),
          .b = side(transposed(of.b)),
          .c = of.c.p,
          .c_stride = of.c.row_stride,
          .m = of.c.rows,
          .n = of.c.columns,
          .k = of.a.columns,
          .accumulate = accumulate};
}

const char* name(Precision precision) {
  return precision == Precision::bf16 ? "bf16" : precision == Precision::tf32 ? "tf32" : "split";
}

void require(int capability, Precision precision) {
  if (capability >= kTensorCapability) return;
  const std::string has = std::to_string(capability / 10) + "." + std::to_string(capability % 10);
  throw std::runtime_error(std::string("precision=\"") + name(precision) +
                           "\" needs tensor cores of compute capability 8.0 or later, and this device has " + has +
                           ": pass precision=\"full\"");
}

// ---- float32 split in three ------------------------------------------------------------------------------------

int64_t tiles_of(int64_t m, int64_t n) { return divided_up(m, kSplitTile) * divided_up(n, kSplitTile); }

// How the depth is divided where there are too few tiles for all multiprocessors.
struct Slices {
  int64_t depth, count;
};
Slices slices_of(const Limits& limits, int64_t m, int64_t n, int64_t k) {
  const int64_t idle = limits.multiprocessors / tiles_of(m, n);  // blocks that a tile may have
  const int64_t wanted = std::clamp<int64_t>(idle, 1, divided_up(k, kSliceDepth));
  const int64_t depth = divided_up(divided_up(k, wanted), kSplitDepth) * kSplitDepth;
  return {.depth = depth, .count = divided_up(k, depth)};
}

bool by_wgmma(const Limits& limits) { return kHasWgmma && limits.capability == kWgmmaCapability; }

// Cycles of a multiprocessor for 16 of the depth of a tile, and its multiply-adds of float32 in a cycle.
struct Rates {
  int64_t step, float32;
};

// A step takes 1536 cycles of the tensor cores, or 768 by wgmma. Its other instructions, at most 734 or 516 as nvcc
// compiles them, are issued for two warps by each scheduler. The sum is the time if nothing overlaps. On other devices
// the tensor cores are too slow by mma, compared with the units of float32.
Rates rates_of(const Limits& limits) {
  if (limits.capability == kFastCapability) return {.step = 1536 + 2 * 734, .float32 = 64};
  if (by_wgmma(limits)) return {.step = 768 + 2 * 516, .float32 = 128};
  return {.step = 0, .float32 = 1};
}

bool splits(const Runtime<float>& runtime, const Product& p) {
  if (runtime.precision != Precision::full) return runtime.precision == Precision::split;
  const Predicted cycles = predicted(runtime.launcher.limits(), p.m, p.n, p.k);
  return cycles.split < cycles.float32;
}

void split_product(const Runtime<float>& runtime, const Product& p) {
  const Limits& limits = runtime.launcher.limits();
  const Slices slices = slices_of(limits, p.m, p.n, p.k);
  SplitProduct s{.product = p, .partials = nullptr, .depth = slices.depth, .slices = int(slices.count)};
  if (s.slices > 1) s.partials = static_cast<float*>(runtime.scratch(sizeof(float) * s.slices * p.m * p.n));
  const Grid grid{static_cast<unsigned>(tiles_of(p.m, p.n)), static_cast<unsigned>(s.slices)};
  const bool wgmma = by_wgmma(limits);
  const Launch how{.grid = grid, .threads = kSplitThreads, .shared = wgmma ? kWgmmaShared : kSplitShared};
  runtime.launcher(wgmma ? "product_split_wgmma" : "product_split", how, s, runtime.stream);
  if (s.slices == 1) return;
  const Grid entries{static_cast<unsigned>(divided_up(p.m * p.n, kThreads))};
  runtime.launcher("product_sum", {.grid = entries, .threads = kThreads}, s, runtime.stream);
}

// ---- cuBLAS ----------------------------------------------------------------------------------------------------

constexpr int kFloat32 = 0, kBfloat16 = 14;             // cudaDataType_t
constexpr int kComputeFloat32 = 68, kComputeTf32 = 77;  // cublasComputeType_t
constexpr int kDefaultAlgorithm = -1, kPlain = 0, kTransposed = 1;

// An operand in cuBLAS's column-major words: a matrix of contiguous rows is its transpose there.
struct Operand {
  const void* p;
  int transpose;
  int64_t lines, length, ld;
};

template <class T>
Operand operand(const View<T>& v) {
  const bool rows = v.column_stride == 1;
  const int64_t lines = rows ? v.rows : v.columns, length = rows ? v.columns : v.rows;
  const int64_t ld = rows ? v.row_stride : v.column_stride;
  // a single line may have any stride, and cuBLAS refuses a small one
  return {.p = v.p,
          .transpose = rows ? kPlain : kTransposed,
          .lines = lines,
          .length = length,
          .ld = std::max(ld, length)};
}

// C^T = B^T A^T, as cuBLAS sees it.
template <class T>
void cublas_product(const Runtime<float>& runtime, const Operands<T>& of, bool accumulate) {
  constexpr bool narrow = sizeof(T) < sizeof(float);
  constexpr int type = narrow ? kBfloat16 : kFloat32, compute = narrow ? kComputeFloat32 : kComputeTf32;
  const Operand a = operand(of.a), b = operand(of.b);
  const float one = 1, before = accumulate;
  const auto size = [](int64_t n) { return static_cast<int>(n); };
  const int failed = runtime.cublas.gemm(
      runtime.cublas.handle, b.transpose, a.transpose, size(of.c.columns), size(of.c.rows), size(of.a.columns), &one,
      b.p, type, size(b.ld), a.p, type, size(a.ld), &before, of.c.p, kFloat32, size(operand(of.c).ld), compute,
      kDefaultAlgorithm);
  if (failed) throw std::runtime_error("cublasGemmEx failed with status " + std::to_string(failed));
}

// Whether cuBLAS takes a product of operands that it rounds to tf32: its sizes are of 32 bits.
bool suits_cublas(const Runtime<float>& runtime, const Operands<float>& of) {
  if (runtime.precision != Precision::tf32 || !runtime.cublas.gemm) return false;
  const int64_t m = of.c.rows, n = of.c.columns, k = of.a.columns;
  for (int64_t size : {m, n, k, operand(of.a).ld, operand(of.b).ld, of.c.row_stride})
    if (size > std::numeric_limits<int>::max()) return false;
  return true;
}

}  // namespace

Predicted predicted(const Limits& limits, int64_t m, int64_t n, int64_t k) {
  const Rates rates = rates_of(limits);
  if (rates.step == 0) return {};
  const Slices slices = slices_of(limits, m, n, k);
  const int64_t turns = divided_up(tiles_of(m, n) * slices.count, limits.multiprocessors);
  const int64_t split = turns * slices.depth / kSplitDepth * rates.step + kSumCycles * (slices.count > 1);
  return {.split = split, .float32 = m * n * k / (limits.multiprocessors * rates.float32)};
}

void bfloat16_product(const Runtime<float>& runtime, View<const uint16_t> a, View<const uint16_t> b, View<float> c,
                      bool accumulate) {
  require(runtime.launcher.limits().capability, runtime.precision);
  cublas_product(runtime, Operands<uint16_t>(a, b, c), accumulate);
}

bool product_and_up(const Runtime<float>& runtime, View<const float> in, View<const float> weight, View<float> out,
                    const Up<float>& up) {
  const Limits& limits = runtime.launcher.limits();
  const Product p = product(Operands<float>(in, transposed(weight), out), false);
  if (!splits(runtime, p) || by_wgmma(limits)) return false;
  require(limits.capability, runtime.precision);
  const int kinds = static_cast<int>(p.m / up.shape.samples), samples = kSplitTile / kinds;
  const bool wasteful = kIdleRows * (kSplitTile - kinds * samples) > kSplitTile;
  if (wasteful || slices_of(limits, p.m, p.n, p.k).count > 1) return false;
  const int64_t tiles = divided_up(up.shape.samples, samples) * divided_up(p.n, kSplitTile);
  const SplitUp s{.product = p, .up = up, .kinds = kinds, .samples = samples};
  const Launch how{.grid = {static_cast<unsigned>(tiles)}, .threads = kSplitThreads, .shared = kSplitShared};
  runtime.launcher("product_up", how, s, runtime.stream);
  return true;
}

bool tensor_product(const Runtime<float>& runtime, View<const float> a, View<const float> b, View<float> c,
                    bool accumulate) {
  const Operands<float> operands(a, b, c);
  const Product p = product(operands, accumulate);
  const bool split = splits(runtime, p);
  if (!split && !rounds(runtime.precision)) return false;
  require(runtime.launcher.limits().capability, runtime.precision);
  if (split) return split_product(runtime, p), true;
  if (suits_cublas(runtime, operands)) return cublas_product(runtime, operands, accumulate), true;
  const int64_t tiles = divided_up(p.m, kProductTile) * divided_up(p.n, kProductTile);
  const Launch how{.grid = {static_cast<unsigned>(tiles)}, .threads = kProductThreads, .shared = kShared};
  runtime.launcher(runtime.precision == Precision::bf16 ? "product_bf16" : "product_tf32", how, p, runtime.stream);
  return true;
}

}  // namespace fastssm::cuda
