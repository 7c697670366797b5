// The terms of either kind of network, the loss that combines them, and the way down from their cotangents.
#include "launch.h"
#include "pass.h"

namespace fastssm::cuda {
namespace {

constexpr int64_t kTotalled = 64;  // samples that a thread adds up before there is a second block

}  // namespace

template <class T>
void Pass<T>::find_terms(bool values) {
  if (energy()) {
    merged_up(values);
  } else {
    score_up(values);
  }
}

// The results of a tile's sweep up. The caller adds which terms it wants.
template <class T>
TermsTop<T> Pass<T>::terms_top() const {
  TermsTop<T> top{};
  top.samples = tile_.samples, top.tangents = tile_.tangents, top.dim = problem_.dim;
  top.rows = score_.p, top.rows_ld = score_.ld;
  top.v = first_.p + tile_.samples * first_.ld, top.v_ld = first_.ld;
  top.count = count(), top.add = !tile_.leading();
  top.h = this->top().p, top.h_ld = this->top().ld, top.h_width = readout_.in;
  if (energy()) {
    top.sign = T(-1);
    top.readout = readout_.weight, top.constant = readout_.bias;
    if (depth() > 0) top.e2 = e2_;
    else top.rows = readout_.weight, top.rows_ld = 0;
  } else {
    top.sign = T(1);
    top.bias = readout_.bias;
    top.pullback = pullback_.p, top.pullback_ld = pullback_.ld;
  }
  return top;
}

template <class T>
void Pass<T>::terms_down() {
  if (energy()) {
    merged_down();
  } else {
    score_down(true);
  }
}

template <class T>
void Pass<T>::objective(const Objective<T>& objective) {
  if (!objective.variance_reduced) return energy() ? sliced(objective) : score_sliced(objective);
  find_terms(true);
  TermsTop<T> top = terms_top();
  top.projected_jacobian = of_tile(objective.projected_jacobian, 1), top.square = of_tile(objective.square, 1);
  if (options_.gradients) {
    top.weight = weight(objective);
    top.on_score = on_score().p, top.narrow = on_score().narrow, top.coefficients = coefficients_;
  }
  over_samples(runtime_, "terms_top", tile_.samples, tile_.tangents + 1, top);
  if (options_.gradients) terms_down();
}

template <class T>
void Pass<T>::terms(const Terms<T>& out) {
  find_terms(true);
  TermsTop<T> top = terms_top();
  top.projected = out.projected + tile_.direction * problem_.samples + tile_.first;
  top.projected_stride = problem_.samples;
  top.projected_jacobian = of_tile(out.projected_jacobian, 1), top.score = of_tile(out.score, problem_.dim);
  over_samples(runtime_, "terms_top", tile_.samples, tile_.tangents + 1, top);
}

template <class T>
void Pass<T>::terms_backward(const Terms<T>& cotangents) {
  find_terms(false);
  Given<T> given{};
  given.shape = shape(problem_.dim + problem_.extra, first_.ld);
  given.dim = problem_.dim;
  given.sign = T(energy() ? -1 : 1), given.count = count();
  given.v = direction(0).p;
  given.projected = cotangents.projected + tile_.direction * problem_.samples + tile_.first;
  given.projected_stride = problem_.samples;
  given.projected_jacobian = of_tile(cotangents.projected_jacobian, 1);
  given.score = tile_.leading() ? of_tile(cotangents.score, problem_.dim) : nullptr;
  given.rows = on_score().p, given.narrow = on_score().narrow, given.coefficients = coefficients_;
  over_rows(runtime_, "given", tile_.samples, tile_.samples, first_.ld, given, given.walk);
  terms_down();
}

template <class T>
void Pass<T>::total(const Objective<T>& objective, T* loss) {
  const int64_t blocks = std::max<int64_t>(1, std::min(kBlocks, divided_up(problem_.samples, kTotalled * kThreads)));
  Total<T> total{.samples = problem_.samples,
                 .projected_jacobian = objective.projected_jacobian,
                 .square = objective.square,
                 .weight = {objective.weight, objective.factor},
                 .partial = nullptr,
                 .partials = 0,
                 .loss = loss};
  if (blocks > 1) total.partial = static_cast<double*>(runtime_.allocate(blocks * sizeof(double)));
  const size_t shared = kThreads / kWarp * 2 * sizeof(double);
  start(runtime_, "total", {.grid = {static_cast<unsigned>(blocks)}, .threads = kThreads, .shared = shared}, total);
  if (blocks == 1) return;
  total.partials = blocks;
  start(runtime_, "total", {.grid = {}, .threads = kThreads, .shared = shared}, total);
}

#define FASTSSM_INSTANTIATE(T)                            \
  template void Pass<T>::objective(const Objective<T>&);  \
  template void Pass<T>::terms(const Terms<T>&);          \
  template void Pass<T>::terms_backward(const Terms<T>&); \
  template void Pass<T>::total(const Objective<T>&, T* loss);
FASTSSM_INSTANTIATE(float)
FASTSSM_INSTANTIATE(double)

}  // namespace fastssm::cuda
