// The engine on the first GPU, as csrc/tests/cases.h calls engines: every array of a call is an allocation of its own
// there, of just its size, so that compute-sanitizer sees whatever leaves it.
#pragma once

#include <deque>
#include <map>
#include <type_traits>
#include <utility>

#include "cuda/driver.h"
#include "driver_memory.h"
#include "naive.h"

namespace on_device {

using namespace fastssm;

constexpr double kLossTolerance = 4e-7;  // of a whole net's, added up in its dtype over as many blocks as samples

// Passes launches on and counts them; `multiprocessors` in place of the device's own, if any, make blocks take more
// than a sample each.
class Counter : public cuda::Launcher {
 public:
  explicit Counter(int multiprocessors = 0) : limits_(cuda::launcher(0).limits()) {
    if (multiprocessors) limits_.multiprocessors = multiprocessors;
  }
  const cuda::Limits& limits() const override { return limits_; }
  void launch(const char* kernel, const cuda::Launch& how, const void* parameters, size_t size, void* stream) override {
    started()[kernel]++;
    cuda::launcher(0).launch(kernel, how, parameters, size, stream);
  }
  static std::map<std::string, int>& started() {
    static std::map<std::string, int> counts;
    return counts;
  }

 private:
  cuda::Limits limits_;
};

// The arrays of one call.
class Arrays {
 public:
  template <class T>
  const T* in(const T* host, int64_t count) {
    if (!host) return nullptr;
    T* copy = take<T>(count);
    driver::to_device(copy, host, count * sizeof(T));
    return copy;
  }
  // Full of NaN, and brought back to `host` in the end.
  template <class T>
  T* out(T* host, int64_t count) {
    if (!host) return nullptr;
    T* result = take<T>(count);
    results_.push_back({host, result, count * sizeof(T)});
    return result;
  }
  void* take(size_t bytes) { return held_.emplace_back(bytes).address(); }
  void bring() const {
    for (const Result& r : results_) driver::to_host(r.host, r.device, r.bytes);
  }

 private:
  struct Result {
    void* host;
    const void* device;
    size_t bytes;
  };
  template <class T>
  T* take(int64_t count) {
    return static_cast<T*>(take(count * sizeof(T)));
  }
  std::deque<driver::DeviceMemory> held_;
  std::vector<Result> results_;
};

// A problem and where its gradients go.
template <class T>
class Call {
 public:
  explicit Call(const Problem<T>& host) : host_(host), problem_(host) {
    const int64_t b = host.samples, directions = host.directions.count;
    for (const Layer<T>* l = host.layers; l != host.layers + host.depth; l++)
      layers_.push_back({arrays.in(l->weight, l->out * l->in), arrays.in(l->bias, l->out),
                         arrays.in(l->scale, b * l->out), arrays.in(l->shift, b * l->out), l->in, l->out,
                         l->activation, l->constants, l->skip});
    problem_.layers = layers_.data();
    problem_.x = arrays.in(host.x, b * host.dim);
    problem_.columns = arrays.in(host.columns, b * host.extra);
    problem_.directions.v = arrays.in(host.directions.v, directions * b * host.dim);
    if (!host.directions.seeded) return;
    const int64_t seed = static_cast<int64_t>(host.directions.seed);
    seed_ = arrays.in(&seed, 1);
  }
  const Problem<T>& problem() const { return problem_; }
  const int64_t* seed() const { return seed_; }

  Gradients<T> gradients(const Gradients<T>& host) {
    const int64_t b = host_.samples;
    for (int64_t l = 0; host.layers && l < host_.depth; l++) {
      const LayerGradient<T>& g = host.layers[l];
      const auto& [in, out] = std::pair(host_.layers[l].in, host_.layers[l].out);
      layer_gradients_.push_back({arrays.out(g.weight, out * in), arrays.out(g.bias, out), arrays.out(g.scale, b * out),
                                  arrays.out(g.shift, b * out)});
    }
    return {arrays.out(host.x, b * host_.dim), arrays.out(host.columns, b * host_.extra),
            host.layers ? layer_gradients_.data() : nullptr};
  }

  Arrays arrays;

 private:
  const Problem<T>& host_;
  Problem<T> problem_;
  const int64_t* seed_ = nullptr;
  std::vector<Layer<T>> layers_;
  std::vector<LayerGradient<T>> layer_gradients_;
};

template <class T>
int64_t span(const cuda::View<T>& v) {
  return (v.rows - 1) * v.row_stride + (v.columns - 1) * v.column_stride + 1;
}

// All that lies between the first and the last element of a view.
template <class T>
std::vector<std::remove_const_t<T>> brought(const cuda::View<T>& v) {
  std::vector<std::remove_const_t<T>> copy(span(v));
  driver::to_host(copy.data(), v.p, copy.size() * sizeof(T));
  return copy;
}

// The naive product, on the host.
template <class T>
void multiply(cuda::View<const T> a, cuda::View<const T> b, cuda::View<T> c, bool accumulate) {
  const std::vector<T> left = brought(a), right = brought(b);
  std::vector<T> out = brought(c);
  T* const result = c.p;
  a.p = left.data(), b.p = right.data(), c.p = out.data();
  naive::multiply<T>(a, b, c, accumulate);
  driver::to_device(result, out.data(), out.size() * sizeof(T));
}

struct Engine {
  Counter& launcher;
  bool whole_net;
  size_t workspace = cuda::kWorkspace;
  cuda::Precision precision = cuda::Precision::full;

  static int& calls() {
    static int count = 0;
    return count;
  }
  std::string name() const {
    return std::string(whole_net ? "whole nets" : "layer by layer") + ", workspace " + std::to_string(workspace);
  }

  template <class T>
  void objective(const Problem<T>& problem, const Objective<T>& out, const Gradients<T>& gradients) const {
    T loss(0);
    Call<T> call(problem);
    Arrays& arrays = call.arrays;
    const Objective<T> there{out.variance_reduced, arrays.in(out.weight, problem.samples),
                             arrays.out(out.projected_jacobian, problem.samples),
                             arrays.out(out.square, problem.samples)};
    const Gradients<T> wanted = call.gradients(gradients);
    cuda::objective<T>(call.problem(), call.seed(), there, arrays.out(&loss, 1), wanted, runtime<T>(arrays));
    arrays.bring();
    naive::expect_loss(loss, out, problem.samples, kLossTolerance);
  }
  template <class T>
  void terms(const Problem<T>& problem, const Terms<T>& out) const {
    Call<T> call(problem);
    Arrays& arrays = call.arrays;
    const Terms<T> there{arrays.out(out.projected, problem.directions.count * problem.samples),
                         arrays.out(out.projected_jacobian, problem.samples),
                         arrays.out(out.score, problem.samples * problem.dim)};
    cuda::terms<T>(call.problem(), call.seed(), there, runtime<T>(arrays));
    arrays.bring();
  }
  template <class T>
  void terms_backward(const Problem<T>& problem, const Terms<T>& given, const Gradients<T>& gradients) const {
    Call<T> call(problem);
    Arrays& arrays = call.arrays;
    const auto in = [&](T* p, int64_t count) { return const_cast<T*>(arrays.in<T>(p, count)); };
    const Terms<T> there{in(given.projected, problem.directions.count * problem.samples),
                         in(given.projected_jacobian, problem.samples), in(given.score, problem.samples * problem.dim)};
    const Gradients<T> wanted = call.gradients(gradients);
    cuda::terms_backward<T>(call.problem(), call.seed(), there, wanted, runtime<T>(arrays));
    arrays.bring();
  }

 private:
  template <class T>
  cuda::Runtime<T> runtime(Arrays& arrays) const {
    calls()++;
    const auto allocate = [&arrays](size_t bytes) { return arrays.take(bytes); };
    return {launcher, nullptr, multiply<T>, allocate, precision, whole_net, workspace};
  }
};

}  // namespace on_device
