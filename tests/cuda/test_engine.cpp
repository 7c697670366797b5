// The whole CUDA engine on the emulator, without torch: every value and gradient against csrc/tests/reference.h, memory
// poisoned with NaN, naive products, and how many kernels a loss starts.
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>

#include "cuda/engine.h"
#include "emulator/launcher.h"
#include "tests/cases.h"

using namespace cases;

namespace {

constexpr int64_t kSeed = 7;  // that of cases.h

// Passes launches on and counts them.
class Counter : public cuda::Launcher {
 public:
  explicit Counter(cuda::Launcher& device) : device_(device) {}
  const cuda::Limits& limits() const override { return device_.limits(); }
  void launch(const char* kernel, const cuda::Launch& how, const void* parameters, size_t size, void* stream) override {
    started[kernel]++;
    device_.launch(kernel, how, parameters, size, stream);
  }
  int total() const {
    int sum = 0;
    for (const auto& [name, count] : started) sum += count;
    return sum;
  }
  std::map<std::string, int> started;

 private:
  cuda::Launcher& device_;
};

template <class T>
void multiply(cuda::View<const T> a, cuda::View<const T> b, cuda::View<T> c, bool accumulate) {
  if (a.columns != b.rows || a.rows != c.rows || b.columns != c.columns || !a.rows || !a.columns || !b.columns)
    throw std::logic_error("views that do not fit each other");
  for (int64_t i = 0; i < c.rows; i++)
    for (int64_t j = 0; j < c.columns; j++) {
      T sum(0);
      for (int64_t k = 0; k < a.columns; k++)
        sum += a.p[i * a.row_stride + k * a.column_stride] * b.p[k * b.row_stride + j * b.column_stride];
      T& out = c.p[i * c.row_stride + j * c.column_stride];
      out = accumulate ? out + sum : sum;
    }
}

struct CudaEngine {
  cuda::Launcher& launcher;
  bool whole_net;
  mutable int products = 0;

  std::string name() const { return "cuda"; }
  template <class T>
  void objective(const Problem<T>& problem, const Objective<T>& out, const Gradients<T>& gradients) const {
    T loss(0);
    run<T>([&](const cuda::Runtime<T>& runtime) {
      cuda::objective<T>(problem, seed(problem), out, &loss, gradients, runtime);
    });
    double sum = 0, size = 0;
    for (int64_t b = 0; b < problem.samples; b++) {
      const double part = double(out.weight[b]) * (double(out.jacobian[b]) + double(out.square[b]));
      sum += part, size += std::abs(part);
    }
    if (std::isfinite(sum)) expect_close<T>({loss}, {sum}, size, 1e-7, "the loss");
  }
  template <class T>
  void terms(const Problem<T>& problem, const Terms<T>& out) const {
    run<T>([&](const cuda::Runtime<T>& runtime) { cuda::terms<T>(problem, seed(problem), out, runtime); });
  }
  template <class T>
  void terms_backward(const Problem<T>& problem, const Terms<T>& given, const Gradients<T>& gradients) const {
    run<T>([&](const cuda::Runtime<T>& runtime) {
      cuda::terms_backward<T>(problem, seed(problem), given, gradients, runtime);
    });
  }

 private:
  template <class T>
  static const int64_t* seed(const Problem<T>& problem) {
    return problem.directions.seeded ? &kSeed : nullptr;
  }

  template <class T, class Call>
  void run(const Call& call) const {
    std::vector<std::unique_ptr<void, void (*)(void*)>> blocks;
    const auto allocate = [&](size_t bytes) {
      const size_t size = (bytes + 255) / 256 * 256;
      blocks.emplace_back(std::aligned_alloc(256, size), std::free);
      return std::memset(blocks.back().get(), 0xFF, size);  // NaN
    };
    const auto product = [&](cuda::View<const T> a, cuda::View<const T> b, cuda::View<T> c, bool accumulate) {
      products++;
      multiply(a, b, c, accumulate);
    };
    call({launcher, nullptr, product, allocate, cuda::Precision::full, whole_net});
  }
};

// A network of two hidden layers: what a loss and all gradients of its parameters start.
void test_launches() {
  struct Expected {
    bool whole_net, energy;
    Loss loss;
    int kernels, products;
  };
  for (const Expected& e : {Expected{false, true, Loss::sliced, 10, 5}, Expected{false, true, Loss::reduced, 14, 9},
                            Expected{true, true, Loss::sliced, 2, 0}, Expected{true, true, Loss::reduced, 2, 0},
                            Expected{false, false, Loss::sliced, 11, 7}, Expected{false, false, Loss::reduced, 11, 10}}) {
    const reference::Problem p = reference::problem(plain("launches", e.energy, 3, 2, 8, kTanh), 6, 2, 3);
    Counter counter(emulator::launcher());
    const CudaEngine engine{counter, e.whole_net};
    evaluate<float>(engine, p, e.loss, cotangents(p, 4), 1, false, true);
    if (counter.total() == e.kernels && engine.products == e.products) continue;
    failures++;
    std::printf("%s, %s: %d kernels and %d products\n", e.energy ? "energy" : "score", name(e.loss), counter.total(),
                engine.products);
    for (const auto& [kernel, count] : counter.started) std::printf("  %d %s\n", count, kernel.c_str());
  }
}

}  // namespace

// Returns the number of failures; `random` runs threads and blocks in some random order, `whole_net` small networks in
// one kernel.
extern "C" int fastssm_test_engine(bool random, bool whole_net) {
  emulator::schedule = {random, 1};
  failures = 0;
  const CudaEngine engine{emulator::launcher(), whole_net};
  test_against_reference(std::vector<CudaEngine>{engine});
  test_directions(engine);
  test_needs(engine);
  test_not_finite(engine);
  test_launches();
  std::fflush(stdout);
  return failures;
}
