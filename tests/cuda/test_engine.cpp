// The whole CUDA engine without torch, on whatever runs kernels: every value and gradient against the reference of
// csrc/tests, memory poisoned with NaN, naive products, and how many kernels a loss starts.
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>

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
      naive::multiply(a, b, c, accumulate);
    };
    call({launcher, nullptr, product, allocate, cuda::Precision::full, whole_net, workspace});
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
      const auto same = [](const std::vector<float>& a, const std::vector<float>& b) {
        if (a.empty() || b.empty()) return a.size() == b.size();
        return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
      };
      bool equal = same(found[0].first, found[1].first) && same(found[0].second, found[1].second) &&
                   same(found[0].third, found[1].third);
      for (size_t k = 0; k < found[0].gradients.size(); k++)
        equal = equal && same(found[0].gradients[k], found[1].gradients[k]);
      if (!equal && failures++ < 20) std::printf("%s: other bits in another order\n", name(loss));
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
