#include "gemm.h"

#include <stdexcept>
#include <string>
#include <utility>

#include "kernels/gemm_params.h"

namespace fastssm::cuda {
namespace {

constexpr int kTensorCapability = 80;
constexpr size_t kShared = 2 * 2 * kProductTile * (kProductDepth + 4) * sizeof(float);  // two stages of either side

template <class T>
View<T> turned(const View<T>& v) {
  return {v.p, v.columns, v.rows, v.column_stride, v.row_stride};
}

// A side whose rows are counted along C and whose columns along the depth.
Side side(const View<const float>& v) {
  const bool along_depth = v.column_stride == 1;
  return {v.p, along_depth ? v.row_stride : v.column_stride, along_depth};
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
  if (c.column_stride != 1) {  // then C^T = B^T A^T has contiguous rows
    c = turned(c);
    std::swap(a, b);
    a = turned(a);
    b = turned(b);
  }
  const Product p{side(a), side(turned(b)), c.p, c.row_stride, c.rows, c.columns, a.columns, accumulate};
  const auto tiles = [](int64_t n) { return (n + kProductTile - 1) / kProductTile; };
  const Launch how{{static_cast<unsigned>(tiles(p.m) * tiles(p.n))}, kProductThreads, kShared};
  runtime.launcher(narrow ? "product_bf16" : "product_tf32", how, p, runtime.stream);
}

}  // namespace fastssm::cuda
