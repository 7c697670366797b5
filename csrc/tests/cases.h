// Cases that test any engine without torch: every value and gradient against reference.h.
#pragma once

#include <cstdio>
#include <string>

#include "../engine/network.h"
#include "../maths/philox.h"
#include "reference.h"

namespace cases {

using namespace fastssm;
using reference::Blocks;
using reference::Complex;

inline int failures = 0;

// Compares with a tolerance relative to the largest number of a block, or of all blocks where that is small.
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

inline double largest(const Blocks<double>& blocks) {
  double out = 1e-3;
  for (const auto& block : blocks)
    for (double value : block) out = std::max(out, std::abs(value));
  return out;
}

// ---- a call of an engine ----------------------------------------------------------------------------------------

enum class Loss { sliced, reduced, terms, each };

struct Cotangents {
  std::vector<double> weight, projected, projected_jacobian, score, each;
};

template <class T>
struct Found {
  std::vector<T> first, second, third;  // projected_jacobian and square, or the three terms, with v_m^T J v_m of each
  Blocks<T> gradients;
};

template <class T, class S>
std::vector<T> as(const std::vector<S>& values) {
  return {values.begin(), values.end()};
}

// The numbers of a problem as T, and the structs of network.h that point to them and to gradients.
template <class T>
struct Views {
  Blocks<T> values, constants, gradients;
  std::vector<T> v;
  std::vector<Layer<T>> layers;
  std::vector<LayerGradient<T>> layer_gradients;

  explicit Views(const reference::Problem& p) : v(as<T>(p.v)) {
    for (const auto& block : p.values) values.push_back(as<T>(block)), gradients.emplace_back(block.size(), T(-99));
    for (const auto& layer : p.network.layers) constants.push_back(as<T>(layer.constants));
    int64_t width = p.network.dim + p.network.extra;
    for (size_t l = 0; l < p.network.layers.size(); l++) {
      add(l, p.network.layers[l], width);
      width = p.network.layers[l].out;
    }
  }
  Views(const Views&) = delete;
  Views& operator=(const Views&) = delete;

  // Directions: 0 as given, 1 from the seed 7, 2 the basis.
  Problem<T> problem(const reference::Problem& p, int directions) {
    const T* given = directions == 0 ? v.data() : nullptr;
    return {.kind = p.network.energy ? Kind::energy : Kind::score,
            .layers = layers.data(),
            .depth = int64_t(layers.size()),
            .x = values[0].data(),
            .columns = p.network.extra ? values[1].data() : nullptr,
            .samples = p.samples,
            .dim = p.network.dim,
            .extra = p.network.extra,
            .directions = {.count = p.count, .v = given, .seeded = directions == 1, .seed = 7}};
  }

 private:
  void add(size_t l, const reference::Layer& layer, int64_t width) {
    const auto at = [&](Blocks<T>& blocks, int which, bool there) {
      return there ? blocks[reference::block_of(l, which)].data() : nullptr;
    };
    layers.push_back({.weight = at(values, 0, true),
                      .bias = at(values, 1, layer.bias),
                      .scale = at(values, 2, layer.scale),
                      .shift = at(values, 3, layer.shift),
                      .in = width,
                      .out = layer.out,
                      .activation = layer.activation,
                      .constants = constants[l].data(),
                      .skip = layer.skip});
    layer_gradients.push_back({.weight = at(gradients, 0, true),
                               .bias = at(gradients, 1, layer.bias),
                               .scale = at(gradients, 2, layer.scale),
                               .shift = at(gradients, 3, layer.shift)});
  }
};

// Calls an engine, which has the three entry points for both dtypes. `directions` is as for Views::problem.
template <class T, class Engine>
Found<T> evaluate(const Engine& engine, const reference::Problem& p, Loss loss, const Cotangents& on,
                  int directions = 0, bool inputs = true, bool tensors = true) {
  Found<T> out;
  Views<T> views(p);
  const std::vector<T> weight = as<T>(on.weight);
  const bool each = loss == Loss::each, terms = each || loss == Loss::terms;
  std::vector<T> cotangents[] = {as<T>(on.projected), as<T>(each ? on.each : on.projected_jacobian), as<T>(on.score)};
  const Problem<T> problem = views.problem(p, directions);
  const Gradients<T> gradients{.x = inputs ? views.gradients[0].data() : nullptr,
                               .columns = inputs && p.network.extra ? views.gradients[1].data() : nullptr,
                               .layers = tensors ? views.layer_gradients.data() : nullptr};
  out.first.resize(terms ? p.count * p.samples : p.samples);
  out.second.resize(each ? p.count * p.samples : p.samples);
  out.third.resize(terms ? p.samples * p.network.dim : 0);
  if (terms) {
    engine.terms(problem, Terms<T>{.projected = out.first.data(),
                                   .projected_jacobian = out.second.data(),
                                   .score = out.third.data(),
                                   .each = each});
    engine.terms_backward(problem,
                          Terms<T>{.projected = cotangents[0].data(),
                                   .projected_jacobian = cotangents[1].data(),
                                   .score = cotangents[2].data(),
                                   .each = each},
                          gradients);
  } else {
    engine.objective(problem,
                     Objective<T>{.variance_reduced = loss == Loss::reduced,
                                  .weight = weight.data(),
                                  .projected_jacobian = out.first.data(),
                                  .square = out.second.data()},
                     gradients);
  }
  out.gradients = std::move(views.gradients);
  return out;
}

// ---- the same by the reference ---------------------------------------------------------------------------------

inline Complex loss_of(const reference::Problem& p, const Blocks<Complex>& values, Loss loss, const Cotangents& on,
                       int b) {
  const reference::SampleTerms t = reference::terms(p, values, b, loss != Loss::sliced);
  Complex square = 0.0, out = 0.0;
  if (loss == Loss::terms || loss == Loss::each) {
    if (loss == Loss::terms) out = on.projected_jacobian[b] * t.projected_jacobian;
    for (int m = 0; loss == Loss::each && m < p.count; m++) out += on.each[m * p.samples + b] * t.each[m];
    for (int m = 0; m < p.count; m++) out += on.projected[m * p.samples + b] * t.projected[m];
    for (int j = 0; j < p.network.dim; j++) out += on.score[b * p.network.dim + j] * t.score[j];
    return out;
  }
  if (loss == Loss::sliced) {
    for (Complex e : t.projected) square += e * e / (2.0 * p.count);
  } else {
    for (Complex s : t.score) square += s * s / 2.0;
  }
  return on.weight[b] * (t.projected_jacobian + square);
}

inline Found<double> expected(const reference::Problem& p, Loss loss, const Cotangents& on) {
  Found<double> out;
  Blocks<Complex> values;
  for (const auto& block : p.values) values.emplace_back(block.begin(), block.end());
  const bool each = loss == Loss::each, terms = each || loss == Loss::terms;
  out.first.resize(terms ? p.count * p.samples : p.samples);
  out.second.resize(each ? p.count * p.samples : p.samples);
  for (int b = 0; b < p.samples; b++) {
    const reference::SampleTerms t = reference::terms(p, values, b, true);
    double sliced = 0.0, norm = 0.0;
    for (Complex e : t.projected) sliced += std::norm(e) / (2.0 * p.count);
    for (Complex s : t.score) norm += std::norm(s) / 2.0;
    for (int m = 0; terms && m < p.count; m++) out.first[m * p.samples + b] = t.projected[m].real();
    for (int m = 0; each && m < p.count; m++) out.second[m * p.samples + b] = t.each[m].real();
    if (!terms) out.first[b] = t.projected_jacobian.real();
    if (!each) out.second[b] = terms ? t.projected_jacobian.real() : loss == Loss::sliced ? sliced : norm;
    for (Complex s : t.score)
      if (terms) out.third.push_back(s.real());
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
inline const std::vector<double> kSoft = {1.5, 20.0};

inline Cotangents cotangents(const reference::Problem& p, unsigned seed) {
  std::mt19937 generator(seed);
  const auto draw = [&](size_t n) { return reference::random(n, 1.0, generator); };
  const size_t pairs = size_t(p.count) * p.samples;
  return {draw(p.samples), draw(pairs), draw(p.samples), draw(p.samples * p.network.dim), draw(pairs)};
}

// Hidden layers of one width, then the readout.
inline reference::Network plain(const char* name, bool energy, int dim, int depth, int width, int activation,
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

inline std::vector<Case> cases() {
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

inline const char* name(Loss loss) {
  return loss == Loss::sliced ? "sliced" : loss == Loss::reduced ? "reduced" : loss == Loss::terms ? "terms" : "each";
}
// What every engine computes.
inline const std::vector<Loss> kLosses = {Loss::sliced, Loss::reduced, Loss::terms};

// ---- tests -----------------------------------------------------------------------------------------------------

template <class Engine>
void test_against_reference(const std::vector<Engine>& engines, const std::vector<Loss>& losses = kLosses) {
  unsigned seed = 1;
  for (const Case& c : cases()) {
    const reference::Problem p = reference::problem(c.network, c.samples, c.count, seed);
    const Cotangents on = cotangents(p, ++seed);
    for (Loss loss : losses) {
      const Found<double> wanted = expected(p, loss, on);
      for (const Engine& engine : engines) {
        const std::string what = std::string(c.network.energy ? "energy, " : "score, ") + c.network.name + ", " +
                                 name(loss) + ", " + engine.name();
        compare(evaluate<double>(engine, p, loss, on), wanted, 1e-11, what);
        compare(evaluate<float>(engine, p, loss, on), wanted, 4e-5, what + ", float");
      }
    }
  }
}

// Drawn directions are those given one by one.
template <class Engine>
void test_directions(const Engine& engine, const std::vector<Loss>& losses = kLosses, int dim = 5) {
  for (bool energy : {true, false}) {
    reference::Problem p = reference::problem(plain("directions", energy, dim, 2, 9, kTanh), 6, dim, 3);
    const Cotangents on = cotangents(p, 4);
    for (int directions : {1, 2}) {
      for (int m = 0; m < p.count; m++)
        for (int b = 0; b < p.samples; b++)
          for (int d = 0; d < p.network.dim; d++)
            p.v[(m * p.samples + b) * p.network.dim + d] =
                directions == 1 ? rademacher<double>(7, b, m, d) : m == d ? std::sqrt(double(p.network.dim)) : 0.0;
      for (Loss loss : losses) {
        const Found<double> given = evaluate<double>(engine, p, loss, on);
        compare(evaluate<double>(engine, p, loss, on, directions), given, 1e-13, "drawn directions");
      }
    }
  }
}

// The score alone: no directions at all, however they would have been made.
template <class Engine>
void test_no_directions(const Engine& engine) {
  for (const Case& c : cases()) {
    const reference::Problem p = reference::problem(c.network, c.samples, 0, 3);
    const Cotangents on = cotangents(p, 5);
    const Found<double> wanted = expected(p, Loss::terms, on);
    for (int directions : {0, 1, 2}) {
      const std::string what = engine.name() + ", " + c.network.name + ", score alone";
      compare(evaluate<double>(engine, p, Loss::terms, on, directions), wanted, 1e-12, what);
    }
    compare(evaluate<float>(engine, p, Loss::terms, on), wanted, 3e-5, std::string(c.network.name) + ", float");
  }
}

// Gradients that are not needed are not written, and the others are the same without them.
template <class Engine>
void test_needs(const Engine& engine, const std::vector<Loss>& losses = kLosses) {
  for (bool energy : {true, false}) {
    const reference::Problem p = reference::problem(plain("needs", energy, 3, 2, 9, kSilu), 6, 2, 5);
    const Cotangents on = cotangents(p, 6);
    for (Loss loss : losses) {
      const Found<double> all = evaluate<double>(engine, p, loss, on);
      for (int needs = 0; needs < 3; needs++) {
        if (needs == 0 && (loss == Loss::terms || loss == Loss::each)) continue;
        Found<double> found = evaluate<double>(engine, p, loss, on, 0, needs == 1, needs == 2);
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

// A NaN or an infinity in any input or parameter makes the loss NaN.
template <class Engine>
void test_not_finite(const Engine& engine) {
  for (const Case& c : cases()) {
    if (c.count > 10) continue;
    const reference::Problem p = reference::problem(c.network, c.samples, c.count, 11);
    const Cotangents on = cotangents(p, 12);
    for (double nan_flag : {std::nan(""), double(INFINITY), -double(INFINITY)})
      for (size_t k = 0; k < p.values.size(); k++) {
        if (p.values[k].empty()) continue;
        reference::Problem q = p;
        q.values[k].back() = nan_flag;
        for (Loss loss : {Loss::sliced, Loss::reduced}) {
          const Found<float> found = evaluate<float>(engine, q, loss, on);
          double sum = 0.0;
          for (int b = 0; b < p.samples; b++) sum += double(found.first[b]) + double(found.second[b]);
          if (!std::isnan(sum) && failures++ < 20)
            std::printf("%s, %s: %g in block %zu gave %g\n", c.network.name, name(loss), nan_flag, k, sum);
        }
      }
  }
}

}  // namespace cases
