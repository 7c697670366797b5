// The instructions of tensor cores: products of float32, one warp's D = A B + C at a time, accumulated in float32, and
// what brings their operands. Devices before 8.0 have none of them. The emulator has the same by the layouts of the PTX
// ISA, "Warp-level matrix instructions".
#pragma once

#include "shared.cuh"

#if !defined(FASTSSM_EMULATOR) && (!defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800)
#define FASTSSM_TENSOR_ASM 1
#endif

namespace fastssm::cuda {

// A [16, depth] row by row, B [depth, 8] column by column, D [16, 8]. With g = lane / 4 and t = lane % 4, word i of a
// lane's A is of row g + 8 (i % 2) and half i / 2 of the depth, word i of its B of column g and half i, and entry i of
// its D is of row g + 8 (i / 2) and column 2 t + i % 2. The format defines what a word holds.
struct Tf32 {
  static constexpr int depth = 8;

  // The word of a half of a row (or column), whose elements lie `stride` apart: one number with 10 bits of mantissa.
  static FASTSSM_DEVICE uint32_t word(const float* row, int stride, int t, int half) {
    const float x = row[(t + 4 * half) * stride];
#if defined(FASTSSM_EMULATOR)
    return emulator::round_to_tf32(x);
#elif defined(FASTSSM_TENSOR_ASM)
    uint32_t y;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(y) : "f"(x));
    return y;
#else
    return static_cast<uint32_t>(x);
#endif
  }

  static FASTSSM_DEVICE void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if defined(FASTSSM_EMULATOR)
    emulator::mma_m16n8k8_tf32(d, a, b, d);
#elif defined(FASTSSM_TENSOR_ASM)
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
  }
};

struct Bf16 {
  static constexpr int depth = 16;

  // Two numbers with 7 bits of mantissa, the first one in the lower half.
  static FASTSSM_DEVICE uint32_t word(const float* row, int stride, int t, int half) {
    return packed(row[(2 * t + 8 * half) * stride], row[(2 * t + 8 * half + 1) * stride]);
  }

  static FASTSSM_DEVICE uint32_t packed(float low, float high) {
#if defined(FASTSSM_EMULATOR)
    return emulator::pack_bf16(low, high);
#elif defined(FASTSSM_TENSOR_ASM)
    uint32_t y;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
    return y;
#else
    return static_cast<uint32_t>(low + high);
#endif
  }

  static FASTSSM_DEVICE void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if defined(FASTSSM_EMULATOR)
    emulator::mma_m16n8k16_bf16(d, a, b, d);
#elif defined(FASTSSM_TENSOR_ASM)
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
  }
};

// Word i of a lane is of matrix i, of 8 rows of 16 bytes in shared memory: two bfloat16 numbers of row lane / 4, or
// with `transposed` of column lane / 4, the first of them at 2 (lane % 4). Lane l gives row l % 8 of matrix l / 8.
template <bool transposed>
FASTSSM_DEVICE void load_matrices(uint32_t (&words)[4], const uint16_t* row) {
#if defined(FASTSSM_EMULATOR)
  emulator::ldmatrix_x4(words, row, transposed);
#elif defined(FASTSSM_TENSOR_ASM)
  const unsigned from = shared_address(row);
  if constexpr (transposed)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                 : "r"(from)
                 : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                 : "r"(from)
                 : "memory");
#endif
}

// Starts a copy to shared memory of 4 or 16 bytes: the first `given` from `from`, then zeros.
template <int size>
FASTSSM_DEVICE void copy_async(float* to, const float* from, int given) {
  static_assert(size == 4 || size == 16);
#if defined(FASTSSM_EMULATOR)
  emulator::copy_async(to, from, size, given);
#elif defined(FASTSSM_TENSOR_ASM)
  if constexpr (size == 16)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(given)
                 : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(to)), "l"(from), "r"(given)
                 : "memory");
#endif
}

// Ends a group of this thread's copies.
FASTSSM_DEVICE void commit_copies() {
#if defined(FASTSSM_EMULATOR)
  emulator::commit_copies();
#elif defined(FASTSSM_TENSOR_ASM)
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until at most `left` of this thread's latest groups are under way.
template <int left>
FASTSSM_DEVICE void wait_for_copies() {
#if defined(FASTSSM_EMULATOR)
  emulator::wait_for_copies(left);
#elif defined(FASTSSM_TENSOR_ASM)
  asm volatile("cp.async.wait_group %0;" ::"n"(left) : "memory");
#endif
}

}  // namespace fastssm::cuda
