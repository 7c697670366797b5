// Score matching written out naively, for tests: second-order series along one direction at a time, in complex numbers.
// The derivative in any variable is then the imaginary part after a step of i 1e-100, to full precision: nothing of the
// engine's rules is repeated here, not even the derivatives of activations.
#pragma once

#include <cmath>
#include <complex>
#include <cstdint>
#include <random>
#include <stdexcept>
#include <vector>

namespace reference {

using Complex = std::complex<double>;

// A value and its first two derivatives along a direction.
struct Series {
  Complex f, d1, d2;
};

inline Series operator+(Series a, Series b) { return {a.f + b.f, a.d1 + b.d1, a.d2 + b.d2}; }
inline Series operator*(Complex c, Series a) { return {c * a.f, c * a.d1, c * a.d2}; }
inline Series operator*(Series a, Series b) {
  return {a.f * b.f, a.d1 * b.f + a.f * b.d1, a.d2 * b.f + 2.0 * a.d1 * b.d1 + a.f * b.d2};
}
inline Series through(Series z, Complex f, Complex d1, Complex d2) {
  return {f, d1 * z.d1, d1 * z.d2 + d2 * z.d1 * z.d1};
}
inline Series constant(double c) { return {c, 0.0, 0.0}; }
inline Series exp(Series z) { return through(z, std::exp(z.f), std::exp(z.f), std::exp(z.f)); }
inline Series log(Series z) { return through(z, std::log(z.f), 1.0 / z.f, -1.0 / (z.f * z.f)); }
inline Series sin(Series z) { return through(z, std::sin(z.f), std::cos(z.f), -std::sin(z.f)); }
inline Series inverse(Series z) { return through(z, 1.0 / z.f, -1.0 / (z.f * z.f), 2.0 / (z.f * z.f * z.f)); }

// Rows of the table of activations; the first is row 0, and so on.
enum Activation { identity, softplus = 3, sigmoid = 5, tanh = 6, silu = 7, sine = 14 };

inline Series activate(int activation, const std::vector<double>& c, Series z) {
  const Series one = constant(1.0);
  switch (activation) {
    case identity: return z;
    case softplus: return 1.0 / c[0] * log(one + exp(c[0] * z));
    case sigmoid: return inverse(one + exp(-1.0 * z));
    case tanh: return constant(-1.0) + 2.0 * inverse(one + exp(-2.0 * z));
    case silu: return z * inverse(one + exp(-1.0 * z));
    case sine: return sin(c[0] * z);
  }
  throw std::invalid_argument("no such activation");
}

struct Layer {
  int out;
  int activation;
  std::vector<double> constants;
  bool bias, scale, shift, skip;
};

struct Network {
  const char* name;
  bool energy;
  int dim, extra;
  std::vector<Layer> layers;
};

// All numbers that a loss depends on: x, the columns, and for each layer its weight, bias, scale and shift.
template <class S>
using Blocks = std::vector<std::vector<S>>;
inline size_t block_of(size_t layer, int which) { return 2 + 4 * layer + which; }

struct Problem {
  Network network;
  int samples, count;
  Blocks<double> values;
  std::vector<double> v;  // [count, samples, dim]
};

// Random numbers that are the same in either precision.
inline std::vector<double> random(size_t n, double scale, std::mt19937& generator) {
  std::normal_distribution<double> normal;
  std::vector<double> out(n);
  for (double& value : out) value = double(float(scale * normal(generator)));
  return out;
}

inline Problem problem(const Network& network, int samples, int count, unsigned seed) {
  std::mt19937 generator(seed);
  Problem p{network, samples, count, {}, {}};
  p.values.push_back(random(samples * network.dim, 0.7, generator));
  p.values.push_back(random(samples * network.extra, 1.0, generator));
  int width = network.dim + network.extra;
  for (const Layer& layer : network.layers) {
    p.values.push_back(random(layer.out * width, 1.0 / std::sqrt(width), generator));
    p.values.push_back(random(layer.bias ? layer.out : 0, 0.4, generator));
    p.values.push_back(random(layer.scale ? samples * layer.out : 0, 1.0, generator));
    p.values.push_back(random(layer.shift ? samples * layer.out : 0, 0.5, generator));
    width = layer.out;
  }
  p.v = random(size_t(count) * samples * network.dim, 1.0, generator);
  return p;
}

// Whether the rows of a block belong to samples.
inline bool per_sample(size_t block) { return block < 2 || (block - 2) % 4 >= 2; }

inline std::vector<Series> run(const Problem& p, const Blocks<Complex>& values, int b, const double* v) {
  std::vector<Series> h;
  for (int j = 0; j < p.network.dim; j++) h.push_back({values[0][b * p.network.dim + j], v[j], 0.0});
  for (int j = 0; j < p.network.extra; j++) h.push_back({values[1][b * p.network.extra + j], 0.0, 0.0});
  for (size_t l = 0; l < p.network.layers.size(); l++) {
    const Layer& layer = p.network.layers[l];
    const auto at = [&](int which, size_t i) { return values[block_of(l, which)][i]; };
    std::vector<Series> out;
    for (int i = 0; i < layer.out; i++) {
      Series z = layer.bias ? Series{at(1, i), 0.0, 0.0} : constant(0.0);
      for (size_t j = 0; j < h.size(); j++) z = z + at(0, i * h.size() + j) * h[j];
      if (layer.scale) z = at(2, b * layer.out + i) * z;
      if (layer.shift) z.f += at(3, b * layer.out + i);
      const Series f = activate(layer.activation, layer.constants, z);
      out.push_back(layer.skip ? f + h[i] : f);
    }
    h = out;
  }
  return h;
}

struct SampleTerms {
  std::vector<Complex> projected;  // [count]
  std::vector<Complex> each;       // [count]: v_m^T J v_m
  Complex projected_jacobian;
  std::vector<Complex> score;  // [dim]
};

inline SampleTerms terms(const Problem& p, const Blocks<Complex>& values, int b, bool with_score) {
  const int dim = p.network.dim;
  SampleTerms out{{}, {}, 0.0, std::vector<Complex>(dim)};
  for (int m = 0; m < p.count; m++) {
    const double* v = p.v.data() + (static_cast<size_t>(m) * p.samples + b) * dim;
    const std::vector<Series> y = run(p, values, b, v);
    Complex along = 0.0, curved = 0.0;
    for (int j = 0; j < (p.network.energy ? 0 : dim); j++) along += v[j] * y[j].f, curved += v[j] * y[j].d1;
    out.projected.push_back(p.network.energy ? -y[0].d1 : along);
    out.each.push_back(p.network.energy ? -y[0].d2 : curved);
    out.projected_jacobian += out.each.back() / double(p.count);
    for (int j = 0; j < (p.network.energy ? 0 : dim); j++) out.score[j] = y[j].f;
  }
  for (int j = 0; p.count == 0 && !p.network.energy && j < dim; j++)
    out.score[j] = run(p, values, b, std::vector<double>(dim, 0.0).data())[j].f;
  for (int j = 0; with_score && p.network.energy && j < dim; j++) {
    std::vector<double> unit(dim, 0.0);
    unit[j] = 1.0;
    out.score[j] = -run(p, values, b, unit.data())[0].d1;
  }
  return out;
}

// The gradient of sum_b f(b, values) in every variable, by complex steps.
template <class F>
Blocks<double> gradient(const Problem& p, const F& f) {
  Blocks<Complex> values;
  Blocks<double> out;
  for (const std::vector<double>& block : p.values) values.emplace_back(block.begin(), block.end());
  for (size_t k = 0; k < values.size(); k++) {
    out.emplace_back();
    for (size_t i = 0; i < values[k].size(); i++) {
      const Complex before = values[k][i];
      const int owner = per_sample(k) ? int(i / (values[k].size() / p.samples)) : 0;
      double sum = 0.0;
      values[k][i] += Complex(0.0, 1e-100);
      for (int b = owner; b < (per_sample(k) ? owner + 1 : p.samples); b++) sum += std::imag(f(b, values)) / 1e-100;
      values[k][i] = before;
      out[k].push_back(sum);
    }
  }
  return out;
}

}  // namespace reference
