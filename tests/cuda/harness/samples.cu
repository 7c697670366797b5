// Kernels to try the tools on: each is right, or wrong in one way that a tool must find.
#include <cstdint>

#include "cuda/kernels/portable.cuh"
#include "samples.h"

#if defined(FASTSSM_EMULATOR)
#define MMA_TF32 emulator::mma_m16n8k8_tf32
#define MMA_BF16 emulator::mma_m16n8k16_bf16
#else
#define MMA_TF32 mma_tf32_instruction
#define MMA_BF16 mma_bf16_instruction
#define FASTSSM_MMA(name, instruction)                                                                              \
  __device__ void name(float(&d)[4], const uint32_t(&a)[4], const uint32_t(&b)[2], const float(&c)[4]) {            \
    asm(instruction " {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%11,%12,%13};"                                    \
        : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])                                                            \
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c[0]), "f"(c[1]), "f"(c[2]),        \
          "f"(c[3]));                                                                                               \
  }
FASTSSM_MMA(mma_tf32_instruction, "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32")
FASTSSM_MMA(mma_bf16_instruction, "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32")
#endif

constexpr uint32_t everyone = 0xFFFFFFFF;

// out[block] = sum of the block's share of x.
FASTSSM_KERNEL(256, sample_sum, SampleArrays) {
  FASTSSM_SHARED(float, partial);
  float sum = 0;
  const int64_t first = int64_t(blockIdx.x) * blockDim.x + threadIdx.x, step = int64_t(gridDim.x) * blockDim.x;
  for (int64_t i = first; i < parameters.count; i += step)
    sum += parameters.in[i];
  for (int lanes = 16; lanes > 0; lanes /= 2) sum += __shfl_xor_sync(everyone, sum, lanes);
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x == 0) {
    for (unsigned warp = 1; warp < blockDim.x / 32; warp++) sum += partial[warp];
    parameters.out[blockIdx.x] = sum;
  }
}

// out = x in the reverse order of its block: right with the barrier.
FASTSSM_KERNEL(256, sample_reverse, SampleArrays) {
  FASTSSM_SHARED(float, held);
  held[threadIdx.x] = parameters.in[threadIdx.x];
  __syncthreads();
  parameters.out[threadIdx.x] = held[blockDim.x - 1 - threadIdx.x];
}

FASTSSM_KERNEL(256, sample_missing_barrier, SampleArrays) {
  FASTSSM_SHARED(float, held);
  held[threadIdx.x] = parameters.in[threadIdx.x];
  parameters.out[threadIdx.x] = held[blockDim.x - 1 - threadIdx.x];
}

// A shuffle is no barrier, __syncwarp is.
FASTSSM_KERNEL(32, sample_warp_reverse, SampleArrays) {
  FASTSSM_SHARED(float, held);
  held[threadIdx.x] = parameters.in[threadIdx.x];
  if (parameters.count) __syncwarp();
  parameters.out[threadIdx.x] = held[31 - threadIdx.x] + __shfl_sync(everyone, 0.0f, 0);
}

FASTSSM_KERNEL(256, sample_same_place, SampleArrays) { parameters.out[0] = float(blockIdx.x); }

FASTSSM_KERNEL(256, sample_two_barriers, SampleArrays) {
  if (threadIdx.x % 2)
    __syncthreads();
  else
    __syncthreads();
  parameters.out[threadIdx.x] = parameters.in[threadIdx.x];
}

FASTSSM_KERNEL(256, sample_early_exit, SampleArrays) {
  if (threadIdx.x == 1) return;
  __syncthreads();
  parameters.out[threadIdx.x] = parameters.in[threadIdx.x];
}

// One element past `count`, in shared or global memory.
FASTSSM_KERNEL(256, sample_past_shared, SampleArrays) {
  FASTSSM_SHARED(float, held);
  held[threadIdx.x + 1] = parameters.in[threadIdx.x];
  parameters.out[threadIdx.x] = held[threadIdx.x + 1];
}

FASTSSM_KERNEL(256, sample_past_global, SampleArrays) { parameters.out[threadIdx.x] = parameters.in[threadIdx.x + 1]; }

FASTSSM_KERNEL(256, sample_unwritten, SampleArrays) {
  FASTSSM_SHARED(float, held);
  parameters.out[threadIdx.x] = held[threadIdx.x];
}

// out[i] = in[i stride], as four loads of one or one load of four.
FASTSSM_KERNEL(256, sample_strided, SampleArrays) {
  parameters.out[threadIdx.x] = parameters.in[threadIdx.x * parameters.count];
}

FASTSSM_KERNEL(256, sample_wide, SampleArrays) {
  reinterpret_cast<float4*>(parameters.out)[threadIdx.x] = reinterpret_cast<const float4*>(parameters.in)[threadIdx.x];
}

// D [16, 8] = A B + C; A [16, k] and B [k, 8] row by row, as 32-bit registers.
FASTSSM_KERNEL(32, sample_mma_tf32, SampleProduct) {
  const int group = threadIdx.x / 4, place = threadIdx.x % 4;
  const uint32_t *a = parameters.a + group * 8 + place, *b = parameters.b + place * 8 + group;
  const float* c = parameters.c + group * 8 + 2 * place;
  float* d = parameters.d + group * 8 + 2 * place;
  float out[4];
  MMA_TF32(out, {a[0], a[64], a[4], a[68]}, {b[0], b[32]}, {c[0], c[1], c[64], c[65]});
  d[0] = out[0], d[1] = out[1], d[64] = out[2], d[65] = out[3];
}

FASTSSM_KERNEL(32, sample_mma_bf16, SampleProduct) {
  const int group = threadIdx.x / 4, place = threadIdx.x % 4;
  const uint32_t *a = parameters.a + group * 8 + place, *b = parameters.b + group * 8 + place;  // pairs along the depth
  const float* c = parameters.c + group * 8 + 2 * place;
  float* d = parameters.d + group * 8 + 2 * place;
  float out[4];
  MMA_BF16(out, {a[0], a[64], a[4], a[68]}, {b[0], b[4]}, {c[0], c[1], c[64], c[65]});
  d[0] = out[0], d[1] = out[1], d[64] = out[2], d[65] = out[3];
}
