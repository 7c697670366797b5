// Products of float32 on the tensor cores of compute capability 9.0, as gemm_split.cuh has them for all: the same parts
// and terms, copied and split the same way, multiplied by wgmma. The build flag FASTSSM_WGMMA=1 adds this kernel.
//
// A block of two warpgroups computes 128 x 128 entries, each of them 64 rows. The next stage is split while the tensor
// cores work on this one.
#pragma once

#include "gemm_split.cuh"
#include "wgmma.cuh"

namespace fastssm::cuda {

// Where a part has its number `along` of a line, for wgmma: in matrices of 8 lines of 8 numbers.
template <bool along_depth>
struct CoreMatrices {
  static constexpr int room = kCoreRoom;
  FASTSSM_DEVICE static int at(int line, int along) {
    const int of_lines = along_depth ? kCoreApart : kCoreDeep, of_along = along_depth ? kCoreDeep : kCoreApart;
    return line / 8 * of_lines + along / 8 * of_along + line % 8 * 8 + along % 8;
  }
};

// Starts a warpgroup's 64 x 128 entries of one set of parts.
template <bool a_along_depth, bool b_along_depth, class A, class B>
FASTSSM_DEVICE void start_terms(const A& a, const B& b, int set, float (&term)[wgmma::kEntries]) {
  constexpr int number = sizeof(uint16_t), down = wgmma::kRows / 8 * kCoreApart;
  const int group = threadIdx.x / wgmma::kThreads;
  const auto described = [](const uint16_t* p) {
    return wgmma::descriptor(p, number * kCoreApart, number * kCoreDeep);
  };
  wgmma::fence();
  FASTSSM_UNROLL
  for (int t = 0; t < kSplitTerms; t++)
    wgmma::multiply<a_along_depth, b_along_depth>(term, described(a.part(set, term_of(t).a) + group * down),
                                                  described(b.part(set, term_of(t).b)), t > 0);
  wgmma::commit();
}

template <bool a_along_depth, bool b_along_depth>
FASTSSM_DEVICE void product_wgmma(const SplitProduct& s) {
  FASTSSM_SHARED(float, memory);
  using A = SplitSide<a_along_depth, CoreMatrices<a_along_depth>>;
  using B = SplitSide<b_along_depth, CoreMatrices<b_along_depth>>;
  const Product& p = s.product;
  const int64_t across = (p.n + kSplitTile - 1) / kSplitTile;
  const int64_t row = blockIdx.x / across * kSplitTile, column = blockIdx.x % across * kSplitTile;
  const int64_t begin = int64_t(blockIdx.y) * s.depth, end = least(begin + s.depth, p.k);
  const A a(p.a, {row, p.m}, memory);
  const B b(p.b, {column, p.n}, memory + A::room);
  const auto fetch = [&](int64_t k, int stage) {
    if (k < end) a.fetch(k, end, stage), b.fetch(k, end, stage);
    commit_copies();
  };
  const auto divide = [&](int stage, int set) {
    wait_for_copies<kSplitStages - 2>();
    a.divide(stage, set);
    b.divide(stage, set);
    wgmma::fence_async();
  };
  float sum[1][wgmma::kEntries / 4][4] = {}, term[wgmma::kEntries] = {};
  FASTSSM_UNROLL
  for (int ahead = 0; ahead + 1 < kSplitStages; ahead++) fetch(begin + ahead * kSplitDepth, ahead);
  divide(0, 0);
  __syncthreads();
  int stage = 0, set = 0;
  for (int64_t k = begin; k < end; k += kSplitDepth) {
    start_terms<a_along_depth, b_along_depth>(a, b, set, term);
    fetch(k + (kSplitStages - 1) * kSplitDepth, (stage + kSplitStages - 1) % kSplitStages);
    stage = (stage + 1) % kSplitStages;
    set ^= 1;
    if (k + kSplitDepth < end) divide(stage, set);  // no warp reads this set: all have waited for it
    wgmma::wait(term);
    FASTSSM_UNROLL
    for (int e = 0; e < wgmma::kEntries; e++) sum[0][e / 4][e % 4] += term[e];
    __syncthreads();
  }
  store_entries(s, row + threadIdx.x / 32 * 16, column, sum);
}

#if defined(FASTSSM_WGMMA)
FASTSSM_KERNEL(kSplitThreads, product_split_wgmma, SplitProduct) {
  const bool a = parameters.product.a.along_depth, b = parameters.product.b.along_depth;
  if (a && b) product_wgmma<true, true>(parameters);
  else if (a) product_wgmma<true, false>(parameters);
  else if (b) product_wgmma<false, true>(parameters);
  else product_wgmma<false, false>(parameters);
}
#endif

}  // namespace fastssm::cuda
