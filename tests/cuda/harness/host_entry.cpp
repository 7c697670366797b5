// The engine's objective, its whole-net path alone, and the tensor-core products for ctypes (host.py), on whatever device
// Python gives. Products in full precision are naive loops, and started as a kernel called "product"; those of the
// stand-in for cuBLAS as "gemm_ex".
#include <cstring>
#include <exception>
#include <stdexcept>
#include <string>
#include <vector>

#include "cublas.h"
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
  host.start("product", size(c.rows), size(c.columns), size(a.columns), accumulate, sizeof(T), nullptr, 0);
  for (int64_t i = 0; i < c.rows; i++)
    for (int64_t j = 0; j < c.columns; j++) {
      T& out = c.p[i * c.row_stride + j * c.column_stride];
      T sum = accumulate ? out : T(0);
      for (int64_t k = 0; k < a.columns; k++)
        sum += a.p[i * a.row_stride + k * a.column_stride] * b.p[k * b.row_stride + j * b.column_stride];
      out = sum;
    }
}

// The objective, or with `small` the whole-net path alone.
template <class T>
int run(const Problem<T>* problem, const int64_t* seed, const Objective<T>* out, T* loss,
        const Gradients<T>* gradients, int precision, bool small, bool library) {
  Memory memory;
  const auto allocate = [&](size_t bytes) { return memory.take(bytes); };
  Runtime<T> runtime{host, nullptr, multiply<T>, allocate, static_cast<Precision>(precision), small};
  if (library) runtime.cublas = {&cublas::handle, cublas::gemm_ex};
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
  cublas::handle.seen = [](int m, int n, int k, bool accumulate, size_t bytes) {
    host.start("gemm_ex", m, n, k, accumulate, bytes, nullptr, 0);
  };
}

void fastssm_host_memory(Allocate allocate, Free free) {
  host.allocate = allocate;
  host.free = free;
}

const char* fastssm_host_error() { return error.c_str(); }

int fastssm_objective_float(const Problem<float>* problem, const int64_t* seed, const Objective<float>* out,
                            float* loss, const Gradients<float>* gradients, int precision, bool small, bool library) {
  return run(problem, seed, out, loss, gradients, precision, small, library);
}

int fastssm_objective_double(const Problem<double>* problem, const int64_t* seed, const Objective<double>* out,
                             double* loss, const Gradients<double>* gradients, int precision, bool small, bool library) {
  return run(problem, seed, out, loss, gradients, precision, small, library);
}

int fastssm_tensor_product(const View<const float>* a, const View<const float>* b, const View<float>* c,
                           bool accumulate, int precision, bool library) {
  Memory memory;
  const auto allocate = [&](size_t bytes) { return memory.take(bytes); };
  Runtime<float> runtime{host, nullptr, {}, allocate, static_cast<Precision>(precision)};
  if (library) runtime.cublas = {&cublas::handle, cublas::gemm_ex};
  return guarded([&] { return tensor_product(runtime, *a, *b, *c, accumulate); });
}

void fastssm_predicted(int64_t m, int64_t n, int64_t k, Predicted* out) { *out = predicted(host.given, m, n, k); }
}
