// The sliced loss of an energy and all its gradients by the CPU engine without PyTorch, on one thread: bench/engine.py.
#include <chrono>
#include <cmath>
#include <random>
#include <vector>

#include "cpu/engine.h"
#include "cpu/model.h"

namespace {

using namespace fastssm;

enum Part { kMultiply, kOuter, kFirst, kUp, kDown, kPack, kParts };  // what a call consists of

struct Share {
  double seconds, operations;
} shares[kParts];
const cpu::Kernels<float>* plain_kernels;

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

template <class Run>
void timed(Part part, double operations, const Run& run) {
  const double begin = now();
  run();
  shares[part].seconds += now() - begin;
  shares[part].operations += operations;
}

// The kernels, each timed.
cpu::Kernels<float> timed_kernels() {
  cpu::Kernels<float> out = *plain_kernels;
  out.multiply = [](int64_t m, int64_t n, int64_t k, const float* a, int64_t lda, const float* b, float* c, int64_t ldc,
                    bool accumulate) {
    timed(k <= 4 ? kFirst : kMultiply, 2.0 * double(m * n * k),
          [&] { plain_kernels->multiply(m, n, k, a, lda, b, c, ldc, accumulate); });
  };
  out.multiply_transposed = [](int64_t m, int64_t n, int64_t k, const float* a, int64_t lda, const float* b, int64_t ldb,
                               float* c, bool accumulate) {
    timed(kOuter, 2.0 * double(m * n * k),
          [&] { plain_kernels->multiply_transposed(m, n, k, a, lda, b, ldb, c, accumulate); });
  };
  out.up = [](const cpu::Up<float>& a) { timed(kUp, 0, [&] { plain_kernels->up(a); }); };
  out.down = [](const cpu::Down<float>& a) { timed(kDown, 0, [&] { plain_kernels->down(a); }); };
  out.transpose = [](int64_t rows, int64_t columns, const float* a, int64_t lda, float* to, int64_t ldo) {
    timed(kPack, 0, [&] { plain_kernels->transpose(rows, columns, a, lda, to, ldo); });
  };
  return out;
}

// A softplus energy, its data, and where its gradients go.
struct Case {
  std::mt19937 random{0};  // first: what follows draws from it
  std::vector<std::vector<float>> numbers;
  std::vector<Layer<float>> layers;
  std::vector<LayerGradient<float>> gradients;
  std::vector<float> x, weight, jacobian, square;
  std::vector<float> constants{1, 20};
  Problem<float> problem{};
  Objective<float> objective{};

  Case(int64_t dim, int64_t width, int64_t depth, int64_t samples, int64_t directions, bool merged)
      : x(normal(samples * dim, 1)), weight(samples, 1 / float(samples)), jacobian(samples), square(samples) {
    for (int64_t l = 0; l <= depth; l++) {
      const int64_t in = l == 0 ? dim : width, out = l == depth ? 1 : width;
      const float* w = keep(normal(in * out, 1 / std::sqrt(float(in))));
      layers.push_back({.weight = w, .bias = keep(normal(out, 0.1f)), .in = in, .out = out,
                        .activation = l == depth ? kIdentity : SOFTPLUS, .constants = constants.data()});
      float* dw = keep(std::vector<float>(in * out));
      gradients.push_back({dw, keep(std::vector<float>(out)), nullptr, nullptr});
    }
    problem = {.kind = Kind::energy, .layers = layers.data(), .depth = depth + 1, .x = x.data(), .samples = samples,
               .dim = dim, .directions = {.count = directions, .seeded = true, .seed = 7}};
    objective = {.variance_reduced = merged, .weight = weight.data(), .projected_jacobian = jacobian.data(),
                 .square = square.data()};
  }
  std::vector<float> normal(int64_t count, float scale) {
    std::normal_distribution<float> draw(0, scale);
    std::vector<float> out(count);
    for (float& value : out) value = draw(random);
    return out;
  }
  float* keep(std::vector<float> values) {
    numbers.push_back(std::move(values));
    return numbers.back().data();
  }
  void run(const cpu::Kernels<float>& kernels) {
    const cpu::Runtime<float> runtime{.kernels = kernels, .narrow = {}, .threads = 1, .run = {}};
    cpu::objective<float>(problem, objective, {.layers = gradients.data()}, runtime);
  }
};

}  // namespace

extern "C" {
#define EXPORT __attribute__((visibility("default")))

EXPORT void* make(int64_t dim, int64_t width, int64_t depth, int64_t samples, int64_t directions, bool merged) {
  plain_kernels = &cpu::kernels<float>(cpu::level());
  return new Case(dim, width, depth, samples, directions, merged);
}
EXPORT void destroy(void* made) { delete static_cast<Case*>(made); }
EXPORT void run(void* made) { static_cast<Case*>(made)->run(*plain_kernels); }

// Writes the loss, and then for each layer the sum of its weights' gradients, each times a number of its own.
EXPORT void results(void* made, double* out) {
  const Case& c = *static_cast<Case*>(made);
  *out = 0;
  for (size_t i = 0; i < c.square.size(); i++) *out += double(c.weight[i]) * double(c.jacobian[i] + c.square[i]);
  for (size_t l = 0; l < c.layers.size(); l++) {
    *++out = 0;
    for (int64_t i = 0; i < c.layers[l].in * c.layers[l].out; i++)
      *out += std::cos(double(i)) * double(c.gradients[l].weight[i]);
  }
}

// Runs once, and writes the seconds of the call, then seconds and operations of each of its parts.
EXPORT void parts(void* made, double* out) {
  static const cpu::Kernels<float> kernels = timed_kernels();
  for (Share& share : shares) share = {};
  const double begin = now();
  static_cast<Case*>(made)->run(kernels);
  *out = now() - begin;
  for (const Share& share : shares) *++out = share.seconds, *++out = share.operations;
}
}
