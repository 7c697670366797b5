// The whole CUDA engine on the first GPU without torch, for compute-sanitizer: every value and gradient against the
// reference of csrc/tests.
//
//   device_program [--quick] [--layers | --whole-net] [IMAGE]
//
// IMAGE holds the kernels, and FASTSSM_CUDA_IMAGE names it otherwise. Ends with 0 where all is right, with 1 where a
// result is wrong, with 2 where it cannot run.
#include <cstdlib>
#include <exception>
#include <set>
#include <tuple>

#include "device_engine.h"

using namespace cases;
using on_device::Counter;
using on_device::Engine;

namespace {

constexpr size_t kTiled = 20000;  // bytes of workspace that make several tiles of what is tested here

// A few cases that between them reach every kind of kernel.
void test_some(const std::vector<Engine>& engines) {
  const std::set<std::string> names = {"depth 0", "several tiles", "modulated columns", "modulated, in turns"};
  unsigned seed = 20;
  for (const Case& c : cases::cases()) {
    if (!names.count(c.network.name)) continue;
    const reference::Problem p = reference::problem(c.network, c.samples, c.count, seed);
    const Cotangents on = cotangents(p, ++seed);
    for (Loss loss : kLosses) {
      const Found<double> wanted = expected(p, loss, on);
      for (const Engine& engine : engines) {
        const std::string what = std::string(c.network.name) + ", " + name(loss) + ", " + engine.name();
        compare(evaluate<double>(engine, p, loss, on), wanted, 1e-11, what);
        compare(evaluate<float>(engine, p, loss, on), wanted, 4e-5, what + ", float");
      }
    }
  }
}

// Products on tensor cores stay near those in full precision.
void test_precisions(Counter& launcher) {
  if (launcher.limits().capability < 80) return;
  for (bool energy : {true, false}) {
    const reference::Problem p = reference::problem(plain("precision", energy, 6, 2, 150, kTanh), 40, 2, 8);
    const Cotangents on = cotangents(p, 9);
    for (Loss loss : kLosses) {
      const Found<double> full = evaluate<double>(Engine{launcher, false}, p, loss, on);
      const std::tuple<cuda::Precision, double, const char*> precisions[] = {
          {cuda::Precision::tf32, 0.005, "tf32"}, {cuda::Precision::bf16, 0.03, "bf16"},
          {cuda::Precision::split, 4e-5, "split"}};
      for (const auto& [precision, tolerance, name] : precisions) {
        const Engine engine{launcher, false, 10 * kTiled, precision};
        compare(evaluate<float>(engine, p, loss, on), full, tolerance, name);
      }
    }
  }
}

void test(bool whole_net, bool quick) {
  Counter all, few(3);
  const std::vector<Engine> engines = {{all, whole_net}, {few, whole_net, kTiled}};
  if (quick) {
    test_some(engines);
  } else {
    test_against_reference(engines);
    test_no_directions(engines[1]);
    test_needs(engines[1]);
    test_not_finite(engines[1]);
  }
  for (const Engine& engine : engines) test_directions(engine);
  if (!whole_net) test_precisions(few);
}

void run(const std::set<std::string>& options, const std::string& image) {
  driver::use_device();
  if (const char* why = fastssm_load_kernels(0, image.c_str())) throw std::runtime_error(why);
  const bool quick = options.count("--quick");
  if (!options.count("--whole-net")) test(false, quick);
  if (!options.count("--layers")) test(true, quick);
}

}  // namespace

int main(int count, char** words) {
  const std::set<std::string> known = {"--quick", "--layers", "--whole-net"};
  std::set<std::string> options;
  const char* given = std::getenv("FASTSSM_CUDA_IMAGE");
  std::string image = given ? given : "src/fastssm/_kernels.fatbin";
  for (int i = 1; i < count; i++) {
    if (known.count(words[i])) options.insert(words[i]);
    else image = words[i];
  }
  try {
    run(options, image);
  } catch (const std::exception& error) {
    std::printf("%s\n", error.what());
    return 2;
  }
  int launches = 0;
  for (const auto& [kernel, times] : Counter::started()) launches += times;
  std::printf("%d calls, %d launches of %zu kernels, %d failures\n", Engine::calls(), launches,
              Counter::started().size(), failures);
  return failures != 0;
}
