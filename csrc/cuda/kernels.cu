// Every kernel, by the name that host code starts it with: nvcc and NVRTC compile this file, the emulator includes it.
#include "pointwise.cuh"
#include "random.cuh"
#include "rows.cuh"
#include "tops.cuh"

namespace fastssm::cuda {

FASTSSM_KERNEL(kThreads, rademacher_float, Rademacher) { rademacher_rows<float>(parameters); }
FASTSSM_KERNEL(kThreads, rademacher_double, Rademacher) { rademacher_rows<double>(parameters); }
FASTSSM_KERNEL(kThreads, rademacher_bfloat16, Rademacher) { rademacher_rows<Bfloat16>(parameters); }
FASTSSM_KERNEL(kThreads, rademacher_int8, Rademacher) { rademacher_rows<int8_t>(parameters); }

#define FASTSSM_UP(ID, name, T) \
  FASTSSM_KERNEL(kThreads, up_##name##_##T, Up<T>) { up_rows<ID>(parameters); }

#define FASTSSM_KERNELS(T)                                                                             \
  FASTSSM_FOR_EACH_ACTIVATION(FASTSSM_UP, T)                                                           \
  FASTSSM_KERNEL(kThreads, enter_##T, Enter<T>) { enter_rows(parameters); }                            \
  FASTSSM_KERNEL(kThreads, leave_##T, Leave<T>) { leave_rows(parameters); }                            \
  FASTSSM_KERNEL(kThreads, identity_##T, Identity<T>) { identity_rows(parameters); }                   \
  FASTSSM_KERNEL(kThreads, down_##T, Down<T>) { down_rows(parameters); }                               \
  FASTSSM_KERNEL(kThreads, down_score_##T, Back<T>) { down_score_rows(parameters); }                   \
  FASTSSM_KERNEL(kThreads, chain_##T, Chain<T>) { chain_rows(parameters); }                            \
  FASTSSM_KERNEL(kThreads, curve_##T, Curve<T>) { curve_rows(parameters); }                            \
  FASTSSM_KERNEL(kThreads, sliced_top_##T, SlicedTop<T>) { sliced_top_rows(parameters); }              \
  FASTSSM_KERNEL(kThreads, score_top_##T, ScoreTop<T>) { score_top_rows(parameters); }                 \
  FASTSSM_KERNEL(kThreads, terms_top_##T, TermsTop<T>) { terms_top_rows(parameters); }                 \
  FASTSSM_KERNEL(kThreads, given_##T, Given<T>) { given_rows(parameters); }                            \
  FASTSSM_KERNEL(kThreads, score_seed_##T, ScoreSeed<T>) { score_seed_rows(parameters); }              \
  FASTSSM_KERNEL(kThreads, weighted_sum_##T, WeightedSum<T>) { weighted_sum_rows(parameters); }        \
  FASTSSM_KERNEL(kThreads, finish_##T, Finish<T>) { finish_rows(parameters); }                         \
  FASTSSM_KERNEL(kThreads, total_##T, Total<T>) { total_rows(parameters); }

FASTSSM_KERNELS(float)
FASTSSM_KERNELS(double)

}  // namespace fastssm::cuda
