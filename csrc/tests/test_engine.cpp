// The whole CPU engine, without torch: threads and narrow products of its own. Arguments name the levels to test; without any,
// all that the processor has.
#include <cstring>
#include <thread>

#include "../cpu/engine.h"
#include "cases.h"

using namespace cases;

namespace {

// ---- products and threads --------------------------------------------------------------------------------------

float widened(uint16_t bits) {
  const uint32_t word = uint32_t(bits) << 16;
  float out;
  std::memcpy(&out, &word, sizeof out);
  return out;
}

constexpr int64_t kNarrowPanel = 32;

void narrow_gemm(int64_t m, int64_t n, int64_t k, const uint16_t* a, int64_t lda, const uint16_t* b, float* c,
                 int64_t ldc, bool accumulate) {
  for (int64_t i = 0; i < m; i++) {
    if (!accumulate) std::fill_n(c + i * ldc, n, 0.0f);
    for (int64_t p = 0; p < k; p++)
      for (int64_t j = 0; j < n; j++) {
        const int64_t first = j / kNarrowPanel * kNarrowPanel, width = std::min(kNarrowPanel, n - first);
        c[i * ldc + j] += widened(a[i * lda + p]) * widened(b[first * k + p / 2 * 2 * width + 2 * (j - first) + p % 2]);
      }
  }
}

void run_in_threads(int64_t n, const std::function<void(int64_t)>& f) {
  std::vector<std::thread> threads;
  for (int64_t i = 0; i < n; i++) threads.emplace_back(f, i);
  for (std::thread& thread : threads) thread.join();
}

struct How {
  cpu::Level level;
  int64_t threads;
  bool narrow;
};

template <class T>
cpu::Runtime<T> runtime(How how) {
  const cpu::NarrowProducts narrow{kNarrowPanel, 32, how.narrow ? narrow_gemm : nullptr};
  return {cpu::kernels<T>(how.level), narrow, how.threads, run_in_threads};
}

struct CpuEngine {
  How how;
  std::string name() const { return cpu::name(how.level); }
  template <class T>
  void objective(const Problem<T>& problem, const Objective<T>& out, const Gradients<T>& gradients) const {
    cpu::objective<T>(problem, out, gradients, runtime<T>(how));
  }
  template <class T>
  void terms(const Problem<T>& problem, const Terms<T>& out) const {
    cpu::terms<T>(problem, out, runtime<T>(how));
  }
  template <class T>
  void terms_backward(const Problem<T>& problem, const Terms<T>& given, const Gradients<T>& gradients) const {
    cpu::terms_backward<T>(problem, given, gradients, runtime<T>(how));
  }
};

// What this engine computes: also a term of the Jacobian for every direction.
const std::vector<Loss> kOurs = {Loss::sliced, Loss::reduced, Loss::terms, Loss::each};

// |s - target|^2 / 2 of weighted samples, and its gradients.
template <class T>
Found<T> denoising(const How& how, const reference::Problem& p, const Cotangents& on, const Gradients<T>* none) {
  Found<T> out;
  Views<T> views(p);
  const std::vector<T> weight = as<T>(on.weight), target = as<T>(on.score);
  const Gradients<T> all{.x = views.gradients[0].data(),
                         .columns = p.network.extra ? views.gradients[1].data() : nullptr,
                         .layers = views.layer_gradients.data()};
  out.first.resize(p.samples);
  out.second.resize(p.samples);
  const Objective<T> objective{.variance_reduced = true,
                               .weight = weight.data(),
                               .projected_jacobian = out.first.data(),
                               .square = out.second.data(),
                               .target = target.data()};
  cpu::objective<T>(views.problem(p, 0), objective, none ? *none : all, runtime<T>(how));
  if (!none) out.gradients = std::move(views.gradients);
  return out;
}

void test_denoising(cpu::Level level) {
  const Gradients<double> none{};
  for (const Case& c : cases::cases()) {
    const reference::Problem p = reference::problem(c.network, c.samples, 0, 3);
    const Cotangents on = cotangents(p, 5);
    const auto square = [&](int b, const Blocks<Complex>& values) {
      const std::vector<Complex> s = reference::terms(p, values, b, true).score;
      Complex sum = 0.0;
      for (int j = 0; j < p.network.dim; j++) {
        const Complex off = s[j] - on.score[b * p.network.dim + j];
        sum += off * off / 2.0;
      }
      return sum;
    };
    Found<double> wanted;
    Blocks<Complex> values;
    for (const auto& block : p.values) values.emplace_back(block.begin(), block.end());
    wanted.first.resize(p.samples);
    for (int b = 0; b < p.samples; b++) wanted.second.push_back(square(b, values).real());
    const Found<double> alone = denoising<double>({level, 1, false}, p, on, &none);
    expect_close(alone.second, wanted.second, 1e-3, 1e-12, std::string(c.network.name) + ", denoising, value alone");
    wanted.gradients =
        reference::gradient(p, [&](int b, const Blocks<Complex>& v) { return on.weight[b] * square(b, v); });
    const std::string what = std::string(c.network.name) + ", denoising";
    for (int64_t threads : {1, 2})
      compare(denoising<double>({level, threads, false}, p, on, nullptr), wanted, 1e-11, what);
    compare(denoising<float>({level, 1, false}, p, on, nullptr), wanted, 4e-5, what + ", float");
  }
}

// Large enough for several threads, and for their sums in slices; and products of narrow numbers.
void test_threads(cpu::Level level) {
  for (bool energy : {true, false}) {
    for (int width : {50, 400}) {
      const reference::Network network = plain("threads", energy, 6, 2, width, kTanh);
      const reference::Problem p = reference::problem(network, width == 50 ? 150 : 20, 2, 8);
      const Cotangents on = cotangents(p, 9);
      for (Loss loss : kOurs) {
        const Found<double> alone = evaluate<double>(CpuEngine{{level, 1, false}}, p, loss, on);
        for (int64_t threads : {2, 3})
          compare(evaluate<double>(CpuEngine{{level, threads, false}}, p, loss, on), alone, 1e-12, "threads");
        compare(evaluate<float>(CpuEngine{{level, 2, true}}, p, loss, on), alone, 0.03, "narrow products");
      }
    }
  }
}

// Layers whose rows are narrowed by the pass before, and layers whose rows are not: with a skip, with a modulation, with a
// width that is no whole number of vectors.
void test_narrow_layers(cpu::Level level) {
  for (bool energy : {true, false}) {
    reference::Network network = plain("narrow layers", energy, 40, 6, 48, kTanh);
    network.layers[1].out = 40;
    network.layers[2].scale = network.layers[2].shift = true;
    network.layers[4].skip = true;
    const reference::Problem p = reference::problem(network, 21, 2, 8);
    const Cotangents on = cotangents(p, 9);
    for (Loss loss : kOurs) {
      const Found<double> full = evaluate<double>(CpuEngine{{level, 1, false}}, p, loss, on);
      compare(evaluate<float>(CpuEngine{{level, 1, true}}, p, loss, on), full, 0.03, "narrow layers");
    }
  }
}

void test_one_thread(const std::vector<cpu::Level>& levels) {
  std::vector<CpuEngine> engines;
  for (cpu::Level level : levels) engines.push_back({{level, 1, false}});
  test_against_reference(engines, kOurs);
  for (cpu::Level level : levels) {
    const CpuEngine engine{{level, 1, false}};
    test_directions(engine, kOurs);
    test_directions(engine, kOurs, 257);  // in turns
    test_no_directions(engine);
    test_needs(engine, kOurs);
    test_narrow_layers(level);
    test_not_finite(engine);
  }
}

#ifdef __SANITIZE_THREAD__
constexpr bool kRacesAlone = true;
#else
constexpr bool kRacesAlone = false;
#endif

}  // namespace

int main(int argc, char** argv) {
  std::vector<cpu::Level> levels;
  for (cpu::Level level : {cpu::Level::baseline, cpu::Level::avx2, cpu::Level::avx512}) {
    bool asked = argc == 1;
    for (int i = 1; i < argc; i++) asked |= std::string(argv[i]) == cpu::name(level);
    if (asked && cpu::supported(level)) levels.push_back(level);
  }
  for (cpu::Level level : levels) {
    test_denoising(level);
    test_threads(level);
  }
  if (!kRacesAlone) test_one_thread(levels);
  std::printf("%d failures at %zu level(s)\n", failures, levels.size());
  return failures != 0 || levels.empty();
}
