// The engine's objective, its whole-net path alone, and the tensor-core products for ctypes (host.py), on whatever device
// Python gives. Products in full precision are naive loops, and started as a kernel called "product".
#include <cstring>
#include <exception>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "cuda/engine.h"
#include "cuda/gemm.h"

using namespace fastssm;
using namespace fastssm::cuda;

namespace {

using Start = int (*)(const char* kernel, unsigned x, unsigned y, unsigned z, unsigned threads, size_t shared,
                      const void* parameters, size_t size);
using Allocate = void* (*)(size_t bytes);
using Free = void (*)(void*);

std::string error;

class Host : public Launcher {
 public:
  Limits given;
  Start start;
  Allocate allocate;
  Free free;
  const Limits& limits() const override { return given; }
  void launch(const char* kernel, const Launch& how, const void* parameters, size_t size, void*) override {
    const Grid& g = how.grid;
    if (start(kernel, g.x, g.y, g.z, how.threads, how.shared, parameters, size)) throw std::runtime_error(kernel);
  }
};

Host host;

// Memory as a device gives it: full of NaN.
class Memory {
 public:
  ~Memory() {
    for (void* p : held_) host.free(p);
  }
  void* take(size_t bytes) {
    void* p = host.allocate(bytes);
    if (!p) throw std::runtime_error("no memory");
    held_.push_back(std::memset(p, 0xff, bytes));
    return p;
  }

 private:
  std::vector<void*> held_;
};

// 1 and 0 for true and false, -1 where `body` raises.
template <class Body>
int guarded(const Body& body) {
  try {
    return body();
  } catch (const std::exception& raised) {
    error = raised.what();
    return -1;
  }
}

template <class T>
void multiply(View<const T> a, View<const T> b, View<T> c, bool accumulate) {
  const auto size = [](int64_t n) { return static_cast<unsigned>(n); };
  host.start("product", size(c.rows), size(c.columns), size(a.columns), accumulate, 0, nullptr, 0);
  for (int64_t i = 0; i < c.rows; i++)
    for (int64_t j = 0; j < c.columns; j++) {
      T& out = c.p[i * c.row_stride + j * c.column_stride];
      T sum = accumulate ? out : T(0);
      for (int64_t k = 0; k < a.columns; k++)
        sum += a.p[i * a.row_stride + k * a.column_stride] * b.p[k * b.row_stride + j * b.column_stride];
      out = sum;
    }
}

// One entry of a column-major matrix, as cuBLAS's documentation numbers them, in float64.
double entry(const void* p, int type, int transpose, int ld, int row, int column) {
  if (transpose == 1) std::swap(row, column);
  const size_t at = size_t(column) * ld + row;
  if (type == 0) return static_cast<const float*>(p)[at];
  const uint32_t word = uint32_t(static_cast<const uint16_t*>(p)[at]) << 16;
  float value;
  std::memcpy(&value, &word, sizeof value);
  return value;
}

// Stands in for cublasGemmEx, and is started as a kernel called "gemm_ex". Returns cuBLAS's status for what it refuses.
int gemm_ex(void* handle, int transpose_a, int transpose_b, int m, int n, int k, const void* alpha, const void* a,
            int type_a, int lda, const void* b, int type_b, int ldb, const void* beta, void* c, int type_c, int ldc,
            int compute, int algorithm) {
  constexpr int invalid = 7, not_supported = 15;
  const int rows_a = transpose_a ? k : m, rows_b = transpose_b ? n : k;
  if (handle != &host || lda < rows_a || ldb < rows_b || ldc < m || algorithm != -1) return invalid;
  const bool tf32 = type_a == 0 && compute == 77, bf16 = type_a == 14 && compute == 68;
  if (type_a != type_b || type_c != 0 || !(tf32 || bf16)) return not_supported;
  host.start("gemm_ex", m, n, k, 0, 0, nullptr, 0);
  float* out = static_cast<float*>(c);
  const float factor = *static_cast<const float*>(alpha), before = *static_cast<const float*>(beta);
  for (int i = 0; i < m; i++)
    for (int j = 0; j < n; j++) {
      double sum = 0;
      for (int l = 0; l < k; l++)
        sum += entry(a, type_a, transpose_a, lda, i, l) * entry(b, type_b, transpose_b, ldb, l, j);
      float& to = out[size_t(j) * ldc + i];
      to = float(factor * sum) + (before == 0 ? 0 : before * to);
    }
  return 0;
}

// The objective, or with `small` the whole-net path alone.
template <class T>
int run(const Problem<T>* problem, const int64_t* seed, const Objective<T>* out, T* loss,
        const Gradients<T>* gradients, int precision, bool small) {
  Memory memory;
  const auto allocate = [&](size_t bytes) { return memory.take(bytes); };
  const Runtime<T> runtime{host, nullptr, multiply<T>, allocate, static_cast<Precision>(precision), small};
  return guarded([&] {
    if (small) return small_objective(*problem, seed, *out, loss, *gradients, runtime);
    return objective(*problem, seed, *out, loss, *gradients, runtime), true;
  });
}

}  // namespace

extern "C" {

void fastssm_host(Start start, size_t shared_per_block, int multiprocessors, int capability) {
  host.start = start;
  host.given = {shared_per_block, multiprocessors, capability};
}

void fastssm_host_memory(Allocate allocate, Free free) {
  host.allocate = allocate;
  host.free = free;
}

const char* fastssm_host_error() { return error.c_str(); }

int fastssm_objective_float(const Problem<float>* problem, const int64_t* seed, const Objective<float>* out,
                            float* loss, const Gradients<float>* gradients, int precision, bool small) {
  return run(problem, seed, out, loss, gradients, precision, small);
}

int fastssm_objective_double(const Problem<double>* problem, const int64_t* seed, const Objective<double>* out,
                             double* loss, const Gradients<double>* gradients, int precision, bool small) {
  return run(problem, seed, out, loss, gradients, precision, small);
}

int fastssm_tensor_product(const View<const float>* a, const View<const float>* b, const View<float>* c,
                           bool accumulate, int precision, bool library) {
  Memory memory;
  const auto allocate = [&](size_t bytes) { return memory.take(bytes); };
  Runtime<float> runtime{host, nullptr, {}, allocate, static_cast<Precision>(precision)};
  if (library) runtime.cublas = {&host, gemm_ex};
  return guarded([&] { return tensor_product(runtime, *a, *b, *c, accumulate), 1; });
}
}
