// A product of a warpgroup, D = A B twice over, for the emulator alone: right, or wrong in one way that it must find.
#include "wgmma_samples.h"

#include "cuda/kernels/portable.cuh"

FASTSSM_KERNEL(128, sample_wgmma, SampleWgmma) {
  FASTSSM_SHARED(float, memory);
  const auto is = [&](Mistake mistake) { return parameters.mistake == int(mistake); };
  for (int64_t i = threadIdx.x; i < parameters.count; i += blockDim.x) memory[i] = parameters.operands[i];
  if (!is(Mistake::no_async_fence)) emulator::fence_proxy_async();
  __syncthreads();
  float d[32], early = 0;
  for (float& entry : d) entry = -1;
  if (!is(Mistake::no_fence)) emulator::wgmma_fence();
  const uint64_t a = parameters.a + (is(Mistake::different_warps) ? threadIdx.x / 32 : 0);
  for (int turn = 0; turn < 2; turn++)
    emulator::wgmma_bf16(d, a, parameters.b, turn > 0, parameters.a_transposed, parameters.b_transposed);
  if (!is(Mistake::no_commit)) emulator::wgmma_commit();
  if (is(Mistake::overwritten_operand) && threadIdx.x == 0) memory[0] += 1;
  if (is(Mistake::early_use)) early = d[0];
  if (is(Mistake::early_write)) d[0] = 1;
  emulator::wgmma_wait(0);
  d[0] += early;
  if (is(Mistake::no_second_fence))
    emulator::wgmma_bf16(d, a, parameters.b, true, parameters.a_transposed, parameters.b_transposed);
  const unsigned row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4, column = 2 * (threadIdx.x % 4);
  for (unsigned i = 0; i < 32; i++)
    parameters.d[(row + i / 2 % 2 * 8) * 64 + i / 4 * 8 + column + i % 2] = d[i];
}
