#include "engine.h"

#include "pass.h"

namespace fastssm::cuda {

template <class T>
void objective(const Problem<T>& problem, const int64_t* seed, const Objective<T>& out, T* loss,
               const Gradients<T>& gradients, const Runtime<T>& runtime) {
  if (small_objective(problem, seed, out, loss, gradients, runtime)) return;
  const bool merged = out.variance_reduced && problem.kind == Kind::energy;
  Pass<T> pass(problem, seed, gradients, runtime, {.merged = merged, .gradients = gradients.x || gradients.layers});
  pass.run([&] { pass.objective(out); });
  pass.total(out, loss);
}

template <class T>
void terms(const Problem<T>& problem, const int64_t* seed, const Terms<T>& out, const Runtime<T>& runtime) {
  const Gradients<T> none{};
  Pass<T> pass(problem, seed, none, runtime, {.merged = problem.kind == Kind::energy, .gradients = false});
  pass.run([&] { pass.terms(out); });
}

template <class T>
void terms_backward(const Problem<T>& problem, const int64_t* seed, const Terms<T>& given,
                    const Gradients<T>& gradients, const Runtime<T>& runtime) {
  Pass<T> pass(problem, seed, gradients, runtime, {.merged = problem.kind == Kind::energy, .gradients = true});
  pass.run([&] { pass.terms_backward(given); });
}

#define FASTSSM_INSTANTIATE(T)                                                                                     \
  template void objective(const Problem<T>&, const int64_t*, const Objective<T>&, T*, const Gradients<T>&,         \
                          const Runtime<T>&);                                                                      \
  template void terms(const Problem<T>&, const int64_t*, const Terms<T>&, const Runtime<T>&);                      \
  template void terms_backward(const Problem<T>&, const int64_t*, const Terms<T>&, const Gradients<T>&,            \
                               const Runtime<T>&);
FASTSSM_INSTANTIATE(float)
FASTSSM_INSTANTIATE(double)

}  // namespace fastssm::cuda
