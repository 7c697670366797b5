// All kernels, by the names that host code starts them with. nvcc, NVRTC and the emulator compile this file.
#include "gemm.cuh"
#include "gemm_split.cuh"
#include "gemm_up.cuh"
#include "gemm_wgmma.cuh"
#include "narrow.cuh"
#include "pointwise.cuh"
#include "random.cuh"
#include "rows.cuh"
#include "small_energy.cuh"
#include "small_score.cuh"
#include "tops.cuh"

#define FASTSSM_LAYER_KERNEL(name, ...) FASTSSM_CROWDED_KERNEL(kThreads, 2, name, __VA_ARGS__)

namespace fastssm::cuda {

FASTSSM_LAYER_KERNEL(rademacher_float, Rademacher) { rademacher_rows<float>(parameters); }
FASTSSM_LAYER_KERNEL(rademacher_double, Rademacher) { rademacher_rows<double>(parameters); }
FASTSSM_LAYER_KERNEL(rademacher_bfloat16, Rademacher) { rademacher_rows<Bfloat16>(parameters); }
FASTSSM_LAYER_KERNEL(rademacher_int8, Rademacher) { rademacher_rows<int8_t>(parameters); }

#define FASTSSM_UP(ID, name, T) \
  FASTSSM_LAYER_KERNEL(up_##name##_##T, Up<T>) { up_rows<ID>(parameters); }

#define FASTSSM_KERNELS(T)                                                                           \
  FASTSSM_FOR_EACH_ACTIVATION(FASTSSM_UP, T)                                                         \
  FASTSSM_LAYER_KERNEL(enter_##T, Enter<T>) { enter_rows(parameters); }                              \
  FASTSSM_LAYER_KERNEL(leave_##T, Leave<T>) { leave_rows(parameters); }                              \
  FASTSSM_LAYER_KERNEL(identity_##T, Identity<T>) { identity_rows(parameters); }                     \
  FASTSSM_LAYER_KERNEL(down_##T, Down<T>) { down_rows(parameters); }                                 \
  FASTSSM_LAYER_KERNEL(down_score_##T, Back<T>) { down_score_rows(parameters); }                     \
  FASTSSM_LAYER_KERNEL(chain_##T, Chain<T>) { chain_rows(parameters); }                              \
  FASTSSM_LAYER_KERNEL(curve_##T, Curve<T>) { curve_rows(parameters); }                              \
  FASTSSM_LAYER_KERNEL(sliced_top_##T, SlicedTop<T>) { sliced_top_rows(parameters); }                \
  FASTSSM_LAYER_KERNEL(score_top_##T, ScoreTop<T>) { score_top_rows(parameters); }                   \
  FASTSSM_LAYER_KERNEL(terms_top_##T, TermsTop<T>) { terms_top_rows(parameters); }                   \
  FASTSSM_LAYER_KERNEL(given_##T, Given<T>) { given_rows(parameters); }                              \
  FASTSSM_LAYER_KERNEL(score_seed_##T, ScoreSeed<T>) { score_seed_rows(parameters); }                \
  FASTSSM_LAYER_KERNEL(weighted_sum_##T, WeightedSum<T>) { weighted_sum_rows(parameters); }          \
  FASTSSM_LAYER_KERNEL(finish_##T, Finish<T>) { finish_rows(parameters); }                           \
  FASTSSM_LAYER_KERNEL(total_##T, Total<T>) { total_rows(parameters); }                              \
  FASTSSM_KERNEL(kSmallThreads, small_objective_##T, Small<T>) { small_objective(parameters); }      \
  FASTSSM_KERNEL(kSmallThreads, small_score_##T, Small<T>) { small_score(parameters); }              \
  FASTSSM_KERNEL(kReducers * kWarp, small_reduce_##T, Small<T>) { small_reduce(parameters); }

FASTSSM_KERNELS(float)
FASTSSM_KERNELS(double)

FASTSSM_KERNEL(kProductThreads, product_tf32, Product) { product<Tf32>(parameters); }
FASTSSM_KERNEL(kProductThreads, product_bf16, Product) { product<Bf16>(parameters); }
FASTSSM_KERNEL(kSplitThreads, product_split, SplitProduct) { split_product(parameters); }
FASTSSM_CROWDED_KERNEL(kSplitThreads, 1, product_up, SplitUp) { split_product_up(parameters); }
FASTSSM_LAYER_KERNEL(product_sum, SplitProduct) { sum_slices(parameters); }
FASTSSM_LAYER_KERNEL(narrow_weights, NarrowedWeights) { narrow_lines(parameters); }

}  // namespace fastssm::cuda
