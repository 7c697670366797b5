// The whole engine, without torch: products and threads of its own, every value and gradient against reference.h.
// Arguments name the levels to test; without any, all that the processor has.
#include <cstdio>
#include <cstring>
#include <string>
#include <thread>

#include "../activations.h"
#include "../cpu/engine.h"
#include "../philox.h"
#include "reference.h"

using namespace fastssm;
using reference::Blocks;
using reference::Complex;

namespace {

int failures = 0;

// Compare with what the largest number of a block, or of all of them where it is small, permits.
template <class T>
void expect_close(const std::vector<T>& found, const std::vector<double>& expected, double least, double tolerance,
                  const std::string& what) {
  double scale = least, worst = 0.0;
  for (double e : expected) scale = std::max(scale, std::abs(e));
  for (size_t i = 0; i < expected.size(); i++)
    if (const double off = std::abs(double(found[i]) - expected[i]); !(off <= worst)) worst = off;
  if (found.size() == expected.size() && worst <= tolerance * scale) return;
  if (failures++ < 20) std::printf("%s: off by %.2e of %.2e, tolerance %.0e\n", what.c_str(), worst, scale, tolerance);
}

double largest(const Blocks<double>& blocks) {
  double out = 1e-3;
  for (const auto& block : blocks)
    for (double value : block) out = std::max(out, std::abs(value));
  return out;
}

// ---- products and threads --------------------------------------------------------------------------------------

template <class T>
void gemm(int64_t m, int64_t n, int64_t k, const T* a, int64_t lda, const T* b, int64_t ldb, T* c, int64_t ldc,
          bool accumulate) {
  for (int64_t i = 0; i < m; i++) {
    if (!accumulate) std::fill_n(c + i * ldc, n, T(0));
    for (int64_t p = 0; p < k; p++)
      for (int64_t j = 0; j < n; j++) c[i * ldc + j] += a[i * lda + p] * b[p * ldb + j];
  }
}

float widened(uint16_t bits) {
  const uint32_t word = uint32_t(bits) << 16;
  float out;
  std::memcpy(&out, &word, sizeof out);
  return out;
}

void narrow_gemm(int64_t m, int64_t n, int64_t k, const uint16_t* a, int64_t lda, const uint16_t* b, int64_t ldb,
                 float* c, int64_t ldc, bool accumulate) {
  for (int64_t i = 0; i < m; i++) {
    if (!accumulate) std::fill_n(c + i * ldc, n, 0.0f);
    for (int64_t p = 0; p < k; p++)
      for (int64_t j = 0; j < n; j++)
        c[i * ldc + j] += widened(a[i * lda + p]) * widened(b[p / 2 * 2 * ldb + 2 * j + p % 2]);
  }
}

void run_in_threads(int64_t n, const std::function<void(int64_t)>& f) {
  std::vector<std::thread> threads;
  for (int64_t i = 0; i < n; i++) threads.emplace_back(f, i);
  for (std::thread& thread : threads) thread.join();
}

struct How {
  cpu::Level level;
  int64_t panel, threads;
  bool narrow;
};

template <class T>
cpu::Runtime<T> runtime(How how) {
  cpu::Gemms<T> gemms = {"naive", gemm<T>, how.panel, how.narrow ? narrow_gemm : nullptr, nullptr};
  return {cpu::kernels<T>(how.level), gemms, how.threads, run_in_threads};
}

// ---- a call of the engine --------------------------------------------------------------------------------------

enum class Loss { sliced, reduced, terms };

struct Cotangents {
  std::vector<double> weight, projected, jacobian, score;
};

template <class T>
struct Found {
  std::vector<T> first, second, third;  // jacobian and square, or the three terms
  Blocks<T> gradients;
};

template <class T>
std::vector<T> as(const std::vector<double>& values) {
  return {values.begin(), values.end()};
}

// Directions: 0 as given, 1 from the seed 7, 2 the basis.
template <class T>
Found<T> evaluate(const reference::Problem& p, Loss loss, const Cotangents& on, How how, int directions = 0,
                  bool inputs = true, bool tensors = true) {
  Blocks<T> values, constants;
  Found<T> out;
  for (const auto& block : p.values) values.push_back(as<T>(block)), out.gradients.emplace_back(block.size(), T(-99));
  for (const auto& layer : p.network.layers) constants.push_back(as<T>(layer.constants));
  std::vector<Layer<T>> layers;
  std::vector<LayerGradient<T>> layer_gradients;
  int64_t width = p.network.dim + p.network.extra;
  for (size_t l = 0; l < p.network.layers.size(); l++) {
    const reference::Layer& layer = p.network.layers[l];
    const auto at = [&](Blocks<T>& blocks, int which, bool there) {
      return there ? blocks[reference::block_of(l, which)].data() : nullptr;
    };
    layers.push_back({at(values, 0, true), at(values, 1, layer.bias), at(values, 2, layer.scale),
                      at(values, 3, layer.shift), width, layer.out, layer.activation, constants[l].data(), layer.skip});
    layer_gradients.push_back({at(out.gradients, 0, true), at(out.gradients, 1, layer.bias),
                               at(out.gradients, 2, layer.scale), at(out.gradients, 3, layer.shift)});
    width = layer.out;
  }
  const std::vector<T> v = as<T>(p.v), weight = as<T>(on.weight);
  std::vector<T> cotangents[] = {as<T>(on.projected), as<T>(on.jacobian), as<T>(on.score)};
  const Problem<T> problem{p.network.energy ? Kind::energy : Kind::score,
                           layers.data(),
                           int64_t(layers.size()),
                           values[0].data(),
                           p.network.extra ? values[1].data() : nullptr,
                           p.samples,
                           p.network.dim,
                           p.network.extra,
                           {p.count, directions == 0 ? v.data() : nullptr, directions == 1, 7}};
  const Gradients<T> gradients{inputs ? out.gradients[0].data() : nullptr,
                               inputs && p.network.extra ? out.gradients[1].data() : nullptr,
                               tensors ? layer_gradients.data() : nullptr};
  const cpu::Runtime<T> run = runtime<T>(how);
  out.first.resize(loss == Loss::terms ? p.count * p.samples : p.samples);
  out.second.resize(p.samples);
  out.third.resize(loss == Loss::terms ? p.samples * p.network.dim : 0);
  if (loss == Loss::terms) {
    cpu::terms<T>(problem, {out.first.data(), out.second.data(), out.third.data()}, run);
    cpu::terms_backward<T>(problem, {cotangents[0].data(), cotangents[1].data(), cotangents[2].data()}, gradients, run);
  } else {
    cpu::objective<T>(problem, {loss == Loss::reduced, weight.data(), out.first.data(), out.second.data()}, gradients,
                      run);
  }
  return out;
}

// ---- the same by the reference ---------------------------------------------------------------------------------

Complex loss_of(const reference::Problem& p, const Blocks<Complex>& values, Loss loss, const Cotangents& on, int b) {
  const reference::SampleTerms t = reference::terms(p, values, b, loss != Loss::sliced);
  Complex square = 0.0, out = 0.0;
  if (loss == Loss::terms) {
    out = on.jacobian[b] * t.jacobian;
    for (int m = 0; m < p.count; m++) out += on.projected[m * p.samples + b] * t.projected[m];
    for (int j = 0; j < p.network.dim; j++) out += on.score[b * p.network.dim + j] * t.score[j];
    return out;
  }
  if (loss == Loss::sliced) {
    for (Complex e : t.projected) square += e * e / (2.0 * p.count);
  } else {
    for (Complex s : t.score) square += s * s / 2.0;
  }
  return on.weight[b] * (t.jacobian + square);
}

Found<double> expected(const reference::Problem& p, Loss loss, const Cotangents& on) {
  Found<double> out;
  Blocks<Complex> values;
  for (const auto& block : p.values) values.emplace_back(block.begin(), block.end());
  out.first.resize(loss == Loss::terms ? p.count * p.samples : p.samples);
  for (int b = 0; b < p.samples; b++) {
    const reference::SampleTerms t = reference::terms(p, values, b, true);
    double sliced = 0.0, norm = 0.0;
    for (Complex e : t.projected) sliced += std::norm(e) / (2.0 * p.count);
    for (Complex s : t.score) norm += std::norm(s) / 2.0;
    for (int m = 0; loss == Loss::terms && m < p.count; m++) out.first[m * p.samples + b] = t.projected[m].real();
    if (loss != Loss::terms) out.first[b] = t.jacobian.real();
    out.second.push_back(loss == Loss::terms ? t.jacobian.real() : loss == Loss::sliced ? sliced : norm);
    for (Complex s : t.score)
      if (loss == Loss::terms) out.third.push_back(s.real());
  }
  out.gradients = reference::gradient(
      p, [&](int b, const Blocks<Complex>& v) { return loss_of(p, v, loss, on, b); });
  return out;
}

template <class T>
void compare(const Found<T>& found, const Found<double>& wanted, double tolerance, const std::string& what) {
  expect_close(found.first, wanted.first, 1e-3, tolerance, what + ", first values");
  expect_close(found.second, wanted.second, 1e-3, tolerance, what + ", second values");
  expect_close(found.third, wanted.third, 1e-3, tolerance, what + ", third values");
  const double floor = 1e-3 * largest(wanted.gradients);
  for (size_t k = 0; k < wanted.gradients.size(); k++)
    expect_close(found.gradients[k], wanted.gradients[k], floor, tolerance, what + ", gradient " + std::to_string(k));
}

// ---- problems --------------------------------------------------------------------------------------------------

constexpr int kTanh = reference::tanh, kSilu = reference::silu, kSoftplus = reference::softplus,
              kSine = reference::sine, kSigmoid = reference::sigmoid, kNone = reference::identity;
const std::vector<double> kSoft = {1.5, 20.0};

Cotangents cotangents(const reference::Problem& p, unsigned seed) {
  std::mt19937 generator(seed);
  const auto draw = [&](size_t n) { return reference::random(n, 1.0, generator); };
  return {draw(p.samples), draw(size_t(p.count) * p.samples), draw(p.samples), draw(p.samples * p.network.dim)};
}

// Hidden layers of one width, then the readout.
reference::Network plain(const char* name, bool energy, int dim, int depth, int width, int activation,
                         std::vector<double> constants = {}, bool skip = false) {
  reference::Network out{name, energy, dim, 0, {}};
  for (int l = 0; l < depth; l++) out.layers.push_back({width, activation, constants, true, false, false, l && skip});
  out.layers.push_back({energy ? 1 : dim, kNone, {}, true, false, false, false});
  return out;
}

// Networks, and how many samples and directions each is tried with.
struct Case {
  reference::Network network;
  int samples, count;
};

std::vector<Case> cases() {
  std::vector<Case> out;
  for (bool energy : {true, false}) {
    const int last = energy ? 1 : 3;
    out.push_back({plain("depth 0", energy, 3, 0, 0, kNone), 5, 2});
    out.push_back({plain("depth 1", energy, 3, 1, 5, kSoftplus, kSoft), 1, 1});
    out.push_back({plain("depth 3", energy, 3, 3, 17, kTanh), 3, 2});
    out.push_back({plain("skips", energy, 2, 3, 5, kSilu, {}, true), 5, 3});
    out.push_back({plain("wide", energy, 2, 1, 67, kSine, {1.3}), 3, 2});
    out.push_back({plain("several tiles", energy, 2, 2, 4, kTanh), 70, 4});
    out.push_back({plain("directions in turns", energy, 2, 2, 3, kSoftplus, kSoft, true), 2, 300});
    out.push_back({{"modulated columns", energy, 3, 2,
                    {{6, kTanh, {}, true, true, true, false},
                     {6, kSilu, {}, true, true, false, true},
                     {6, kSoftplus, kSoft, false, false, true, true},
                     {last, kNone, {}, false, false, false, false}}},
                   5, 3});
    out.push_back({{"modulated, in turns", energy, 3, 1,
                    {{3, kTanh, {}, true, true, true, false}, {last, kNone, {}, true, false, false, false}}},
                   2, 260});
    out.push_back({{"skip at once, activation last", energy, 3, 0,
                    {{3, kSigmoid, {}, true, false, false, true},
                     {4, kNone, {}, true, false, false, false},
                     {last, kTanh, {}, true, false, false, false}}},
                   6, 2});
    out.push_back({{"modulated activation last", energy, 3, 0,
                    {{4, kSoftplus, kSoft, false, false, false, false}, {last, kTanh, {}, true, true, true, false}}},
                   4, 2});
  }
  return out;
}

const char* name(Loss loss) { return loss == Loss::sliced ? "sliced" : loss == Loss::reduced ? "reduced" : "terms"; }
constexpr int64_t kWhole = int64_t(1) << 40;
constexpr Loss kLosses[] = {Loss::sliced, Loss::reduced, Loss::terms};

void test_against_reference(const std::vector<cpu::Level>& levels) {
  unsigned seed = 1;
  for (const Case& c : cases()) {
    const reference::Problem p = reference::problem(c.network, c.samples, c.count, seed);
    const Cotangents on = cotangents(p, ++seed);
    for (Loss loss : kLosses) {
      const Found<double> wanted = expected(p, loss, on);
      for (cpu::Level level : levels)
        for (int64_t panel : {int64_t(16), kWhole}) {
          const std::string what = std::string(c.network.energy ? "energy, " : "score, ") + c.network.name + ", " +
                                   name(loss) + ", " + cpu::name(level);
          compare(evaluate<double>(p, loss, on, {level, panel, 1, false}), wanted, 1e-11, what);
          compare(evaluate<float>(p, loss, on, {level, panel, 1, false}), wanted, 4e-5, what + ", float");
        }
    }
  }
}

// Drawn directions are those given one by one.
void test_directions(cpu::Level level) {
  for (bool energy : {true, false}) {
    reference::Problem p = reference::problem(plain("directions", energy, 5, 2, 9, kTanh), 6, 5, 3);
    const Cotangents on = cotangents(p, 4);
    for (int directions : {1, 2}) {
      for (int m = 0; m < p.count; m++)
        for (int b = 0; b < p.samples; b++)
          for (int d = 0; d < p.network.dim; d++)
            p.v[(m * p.samples + b) * p.network.dim + d] =
                directions == 1 ? rademacher<double>(7, b, m, d) : m == d ? std::sqrt(double(p.network.dim)) : 0.0;
      for (Loss loss : kLosses) {
        const Found<double> given = evaluate<double>(p, loss, on, {level, 64, 1, false});
        compare(evaluate<double>(p, loss, on, {level, 64, 1, false}, directions), given, 1e-13, "drawn directions");
      }
    }
  }
}

// What nobody asked for is not written, and leaves the rest as it is.
void test_needs(cpu::Level level) {
  for (bool energy : {true, false}) {
    const reference::Problem p = reference::problem(plain("needs", energy, 3, 2, 9, kSilu), 6, 2, 5);
    const Cotangents on = cotangents(p, 6);
    for (Loss loss : kLosses) {
      const Found<double> all = evaluate<double>(p, loss, on, {level, 64, 1, false});
      for (int needs = 0; needs < 3; needs++) {
        if (needs == 0 && loss == Loss::terms) continue;
        Found<double> found = evaluate<double>(p, loss, on, {level, 64, 1, false}, 0, needs == 1, needs == 2);
        for (size_t k = 0; k < found.gradients.size(); k++) {
          const bool asked = k < 2 ? needs == 1 : needs == 2;
          const std::vector<double> untouched(all.gradients[k].size(), -99.0);
          expect_close(found.gradients[k], asked ? all.gradients[k] : untouched, 1e-3, 1e-13, "needs");
        }
        expect_close(found.second, all.second, 1e-3, 1e-13, "values without gradients");
      }
    }
  }
}

// Large enough for several threads, and for their sums in slices; and products of narrow numbers.
void test_threads(cpu::Level level) {
  for (bool energy : {true, false}) {
    for (int width : {50, 400}) {
      const reference::Network network = plain("threads", energy, 6, 2, width, kTanh);
      const reference::Problem p = reference::problem(network, width == 50 ? 150 : 20, 2, 8);
      const Cotangents on = cotangents(p, 9);
      for (Loss loss : kLosses) {
        const Found<double> alone = evaluate<double>(p, loss, on, {level, kWhole, 1, false});
        for (int64_t threads : {2, 3})
          compare(evaluate<double>(p, loss, on, {level, kWhole, threads, false}), alone, 1e-12, "threads");
        compare(evaluate<float>(p, loss, on, {level, 64, 2, true}), alone, 0.03, "narrow products");
      }
    }
  }
}

// A NaN anywhere makes the loss NaN, and an infinity, where no activation saturates, at least not finite.
void test_not_finite(cpu::Level level) {
  for (const Case& c : cases()) {
    if (c.count > 10) continue;
    const reference::Problem p = reference::problem(c.network, c.samples, c.count, 11);
    const Cotangents on = cotangents(p, 12);
    const bool saturates = c.network.layers[0].activation != kSine && c.network.layers.size() > 1;
    for (double broken : {std::nan(""), double(INFINITY), -double(INFINITY)})
      for (size_t k = 0; k < p.values.size(); k++) {
        if (p.values[k].empty() || (saturates && std::isinf(broken))) continue;
        reference::Problem q = p;
        q.values[k].back() = broken;
        for (Loss loss : {Loss::sliced, Loss::reduced}) {
          const Found<float> found = evaluate<float>(q, loss, on, {level, 64, 1, false});
          double sum = 0.0;
          for (int b = 0; b < p.samples; b++) sum += double(found.first[b]) + double(found.second[b]);
          if (!std::isnan(std::isnan(broken) ? sum : sum * 0.0) && failures++ < 20)
            std::printf("%s, %s: %g in block %zu gave %g\n", c.network.name, name(loss), broken, k, sum);
        }
      }
  }
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<cpu::Level> levels;
  for (cpu::Level level : {cpu::Level::baseline, cpu::Level::avx2, cpu::Level::avx512}) {
    bool asked = argc == 1;
    for (int i = 1; i < argc; i++) asked |= std::string(argv[i]) == cpu::name(level);
    if (asked && cpu::supported(level)) levels.push_back(level);
  }
  test_against_reference(levels);
  for (cpu::Level level : levels) {
    test_directions(level);
    test_needs(level);
    test_threads(level);
    test_not_finite(level);
  }
  std::printf("%d failures at %zu level(s)\n", failures, levels.size());
  return failures != 0 || levels.empty();
}
