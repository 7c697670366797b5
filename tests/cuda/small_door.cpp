// The whole-net path and the tensor-core products for ctypes (host.py), on whatever device Python gives.
#include <cstdlib>
#include <cstring>
#include <exception>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda/engine.h"
#include "cuda/gemm.h"

using namespace fastssm;
using namespace fastssm::cuda;

namespace {

using Start = int (*)(const char* kernel, unsigned x, unsigned y, unsigned z, unsigned threads, size_t shared,
                      const void* parameters, size_t size);

std::string error;

class Host : public Launcher {
 public:
  Limits given;
  Start start;
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
    for (void* p : held_) std::free(p);
  }
  void* take(size_t bytes) {
    void* p = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
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
int small(const Problem<T>* problem, const int64_t* seed, const Objective<T>* out, T* loss,
          const Gradients<T>* gradients, int precision) {
  Memory memory;
  const auto allocate = [&](size_t bytes) { return memory.take(bytes); };
  const Runtime<T> runtime{host, nullptr, {}, allocate, static_cast<Precision>(precision)};
  return guarded([&] { return small_objective(*problem, seed, *out, loss, *gradients, runtime); });
}

}  // namespace

extern "C" {

void fastssm_host(Start start, size_t shared_per_block, int multiprocessors, int capability) {
  host.start = start;
  host.given = {shared_per_block, multiprocessors, capability};
}

const char* fastssm_host_error() { return error.c_str(); }

int fastssm_small_float(const Problem<float>* problem, const int64_t* seed, const Objective<float>* out, float* loss,
                        const Gradients<float>* gradients, int precision) {
  return small(problem, seed, out, loss, gradients, precision);
}

int fastssm_small_double(const Problem<double>* problem, const int64_t* seed, const Objective<double>* out,
                         double* loss, const Gradients<double>* gradients, int precision) {
  return small(problem, seed, out, loss, gradients, precision);
}

int fastssm_tensor_product(const View<const float>* a, const View<const float>* b, const View<float>* c,
                           bool accumulate, int precision) {
  const Runtime<float> runtime{host, nullptr, {}, {}, static_cast<Precision>(precision)};
  return guarded([&] { return tensor_product(runtime, *a, *b, *c, accumulate), 1; });
}
}
