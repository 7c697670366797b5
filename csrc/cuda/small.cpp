// No network is small yet.
#include "engine.h"

namespace fastssm::cuda {

template <class T>
bool small_objective(const Problem<T>&, const int64_t*, const Objective<T>&, T*, const Gradients<T>&,
                     const Runtime<T>&) {
  return false;
}

template bool small_objective(const Problem<float>&, const int64_t*, const Objective<float>&, float*,
                              const Gradients<float>&, const Runtime<float>&);
template bool small_objective(const Problem<double>&, const int64_t*, const Objective<double>&, double*,
                              const Gradients<double>&, const Runtime<double>&);

}  // namespace fastssm::cuda
