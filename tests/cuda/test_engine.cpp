// The whole CUDA engine without torch, on whatever runs kernels: every value and gradient against the reference of
// csrc/tests, memory poisoned with NaN, naive products, and how many kernels a loss starts.
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>

#include "cublas.h"
#include "cuda/engine.h"
#include "naive.h"
#include "tests/cases.h"

using namespace cases;

namespace {

constexpr int64_t kSeed = 7;  // that of cases.h

// The functions of emulator/entry.cpp, in a library of kernels.
struct Device {
  int (*launch)(const char* kernel, unsigned x, unsigned y, unsigned z, unsigned threads, size_t shared,
                const void* parameters, size_t size);
  void (*schedule)(bool random, uint64_t seed);
  const char* (*error)();
};

// Passes launches on and counts them.
class Counter : public cuda::Launcher {
 public:
  explicit Counter(const Device& device) : device_(device) {}
  const cuda::Limits& limits() const override { return limits_; }
  void launch(const char* kernel, const cuda::Launch& how, const void* parameters, size_t size, void*) override {
    started[kernel]++;
    const cuda::Grid& grid = how.grid;
    if (device_.launch(kernel, grid.x, grid.y, grid.z, how.threads, how.shared, parameters, size))
      throw std::runtime_error(device_.error());
  }
  int total() const {
    int sum = 0;
    for (const auto& [name, count] : started) sum += count;
    return sum;
  }
  std::map<std::string, int> started;

 private:
  const Device& device_;
  const cuda::Limits limits_{99 << 10, 3, 86};
};

struct CudaEngine {
  Counter& launcher;
  bool whole_net;
  size_t workspace = cuda::kWorkspace;
  cuda::Cublas library{};  // with one, products are of bfloat16
  bool rounded = false;    // products round their operands to bfloat16
  mutable int products = 0;
  mutable size_t allocated = 0;  // bytes that the last call took first, for its buffers

  std::string name() const { return "cuda, workspace " + std::to_string(workspace); }
  template <class T>
  void objective(const Problem<T>& problem, const Objective<T>& out, const Gradients<T>& gradients) const {
    T loss(0);
    run<T>([&](const cuda::Runtime<T>& runtime) {
      cuda::objective<T>(problem, seed(problem), out, &loss, gradients, runtime);
    });
    naive::expect_loss(loss, out, problem.samples);
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
    allocated = 0;
    const auto allocate = [&](size_t bytes) {
      const size_t size = (bytes + 255) / 256 * 256;
      if (!allocated) allocated = bytes;
      blocks.emplace_back(std::aligned_alloc(256, size), std::free);
      return std::memset(blocks.back().get(), 0xFF, size);  // NaN
    };
    const auto product = [&](cuda::View<const T> a, cuda::View<const T> b, cuda::View<T> c, bool accumulate) {
      products++;
      if constexpr (sizeof(T) == sizeof(float)) {
        if (rounded) return cublas::rounded(a, b, c, accumulate);
      }
      naive::multiply(a, b, c, accumulate);
    };
    const auto precision = library.gemm ? cuda::Precision::bf16 : cuda::Precision::full;
    call({launcher, nullptr, product, allocate, precision, whole_net, workspace, library});
  }
};

// Buffers keep to their limit, whatever the batch, and the tiles' results are those of all samples at once.
void test_tiles(const Device& device) {
  for (bool energy : {true, false})
    for (Loss loss : kLosses) {
      const reference::Problem p = reference::problem(plain("tiles", energy, 3, 2, 8, kTanh, {}, true), 37, 3, 8);
      const Cotangents on = cotangents(p, 9);
      Counter counter(device);
      const Found<double> whole = evaluate<double>(CudaEngine{counter, false}, p, loss, on);
      for (size_t workspace : {size_t(60000), size_t(30000)}) {
        counter.started.clear();
        const CudaEngine tiled{counter, false, workspace};
        compare(evaluate<double>(tiled, p, loss, on), whole, 1e-13, "tiles");
        if (tiled.allocated <= workspace && counter.started["enter_double"] > 1) continue;
        failures++;
        std::printf("%zu bytes of %zu, in %d tiles\n", tiled.allocated, workspace, counter.started["enter_double"]);
      }
    }
}

// Whether two calls gave the same bits.
bool same(const Found<float>& a, const Found<float>& b) {
  const auto equal = [](const std::vector<float>& a, const std::vector<float>& b) {
    return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
  };
  bool all = equal(a.first, b.first) && equal(a.second, b.second) && equal(a.third, b.third);
  for (size_t k = 0; k < a.gradients.size(); k++) all = all && equal(a.gradients[k], b.gradients[k]);
  return all;
}

// Whether they gave nearly the same numbers.
bool close(const Found<float>& a, const Found<float>& b, double tolerance) {
  Found<double> wanted{as<double>(b.first), as<double>(b.second), as<double>(b.third), {}};
  for (const auto& block : b.gradients) wanted.gradients.push_back(as<double>(block));
  const int before = failures;
  compare(a, wanted, tolerance, "in bfloat16");
  return failures == before;
}

// Products of bfloat16 read what kernels rounded to it: the bits of products that round float32 operands themselves.
// Their rows lie further apart, so long sums over rows run in another order.
void test_narrow(const Device& device) {
  Counter launcher(device);
  const cuda::Cublas library{&cublas::handle, cublas::gemm_ex};
  for (const Case& c : cases::cases()) {
    const reference::Problem p = reference::problem(c.network, c.samples, c.count, 3);
    const Cotangents on = cotangents(p, 4);
    for (Loss loss : kLosses)
      for (size_t workspace : {cuda::kWorkspace, size_t(1)}) {
        const CudaEngine narrow{launcher, false, workspace, library}, wide{launcher, false, workspace, {}, true};
        const Found<float> found = evaluate<float>(narrow, p, loss, on), wanted = evaluate<float>(wide, p, loss, on);
        const bool few = c.samples * c.count < 100;
        if (narrow.products == 0 && (few ? same(found, wanted) : close(found, wanted, 2e-6))) continue;
        if (failures++ < 20) std::printf("%s, %s: other numbers in bfloat16\n", c.network.name, name(loss));
      }
  }
}

// The same bits again, in whatever order blocks and threads run.
void test_determinism(const Device& device) {
  Counter launcher(device);
  for (bool energy : {true, false})
    for (Loss loss : kLosses) {
      const reference::Problem p = reference::problem(plain("bits", energy, 5, 2, 40, kSilu), 70, 3, 10);
      const Cotangents on = cotangents(p, 11);
      Found<float> found[2];
      for (uint64_t order : {0, 1}) {
        device.schedule(order == 1, 5);
        found[order] = evaluate<float>(CudaEngine{launcher, false}, p, loss, on);
      }
      if (!same(found[0], found[1]) && failures++ < 20) std::printf("%s: other bits in another order\n", name(loss));
    }
}

// A network of two hidden layers: what a loss and all gradients of its parameters start.
void test_launches(const Device& device) {
  struct Expected {
    bool whole_net, energy;
    Loss loss;
    int kernels, products;
  };
  for (const Expected& e : {Expected{false, true, Loss::sliced, 10, 5}, Expected{false, true, Loss::reduced, 14, 9},
                            Expected{true, true, Loss::sliced, 2, 0}, Expected{true, true, Loss::reduced, 2, 0},
                            Expected{false, false, Loss::sliced, 11, 7},
                            Expected{false, false, Loss::reduced, 11, 10},
                            Expected{true, false, Loss::sliced, 2, 0}, Expected{true, false, Loss::reduced, 2, 0}}) {
    const reference::Problem p = reference::problem(plain("launches", e.energy, 3, 2, 8, kTanh), 6, 2, 3);
    Counter counter(device);
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

// Return the number of failures, of what runs in order (`seed` 0) or in some random order; `whole_net`: small networks
// in one kernel.
extern "C" int fastssm_test_engine(Device device, uint64_t seed, bool whole_net) {
  failures = 0;
  try {
    device.schedule(seed > 0, seed);
    Counter launcher(device);
    const CudaEngine engine{launcher, whole_net}, sample_by_sample{launcher, whole_net, 1};
    test_against_reference(std::vector<CudaEngine>{engine, sample_by_sample});
    test_directions(engine);
    test_no_directions(engine);
    test_needs(engine);
    test_not_finite(engine);
  } catch (const std::exception& raised) {
    failures++;
    std::printf("%s\n", raised.what());
  }
  std::fflush(stdout);
  return failures;
}

// The same for operands in bfloat16.
extern "C" int fastssm_test_narrow(Device device, uint64_t seed) {
  failures = 0;
  device.schedule(seed > 0, seed);
  test_narrow(device);
  std::fflush(stdout);
  return failures;
}

// The same for what is the engine's own.
extern "C" int fastssm_test_launches(Device device) {
  failures = 0;
  device.schedule(false, 0);
  test_tiles(device);
  test_determinism(device);
  test_launches(device);
  device.schedule(false, 0);
  std::fflush(stdout);
  return failures;
}
