#include "gemm.h"

#include <stdexcept>
#include <string>
#include <utility>

#include "kernels/gemm_params.h"

namespace fastssm::cuda {
namespace {

constexpr int kTensorCapability = 80;
constexpr size_t kShared = 2 * 2 * kProductTile * (kProductDepth + 4) * sizeof(float);  // two stages of either side

// A side whose rows run along C, and whose columns run along the depth.
Side side(const View<const float>& v) {
  const bool along_depth = v.column_stride == 1;
  return {.p = v.p, .stride = along_depth ? v.row_stride : v.column_stride, .along_depth = along_depth};
}

void require(int capability, const char* precision) {
  if (capability >= kTensorCapability) return;
  const std::string has = std::to_string(capability / 10) + "." + std::to_string(capability % 10);
  throw std::runtime_error(std::string("precision=\"") + precision +
                           "\" needs tensor cores of compute capability 8.0 or later, and this device has " + has +
                           ": pass precision=\"full\"");
}

}  // namespace

void tensor_product(const Runtime<float>& runtime, View<const float> a, View<const float> b, View<float> c,
                    bool accumulate) {
  const bool narrow = runtime.precision == Precision::bf16;
  require(runtime.launcher.limits().capability, narrow ? "bf16" : "tf32");
  if (c.column_stride != 1) {  // compute C^T = B^T A^T, whose rows are contiguous
    c = transposed(c);
    std::swap(a, b);
    a = transposed(a);
    b = transposed(b);
  }
  const Product p{.a = side(a),
                  .b = side(transposed(b)),
                  .c = c.p,
                  .c_stride = c.row_stride,
                  .m = c.rows,
                  .n = c.columns,
                  .k = a.columns,
                  .accumulate = accumulate};
  const auto tiles = [](int64_t n) { return (n + kProductTile - 1) / kProductTile; };
  const Grid grid{static_cast<unsigned>(tiles(p.m) * tiles(p.n))};
  const Launch how{.grid = grid, .threads = kProductThreads, .shared = kShared};
  runtime.launcher(narrow ? "product_bf16" : "product_tf32", how, p, runtime.stream);
}

}  // namespace fastssm::cuda
