// The tensor cores of compute capability 9.0: wgmma, a product D = A B or += of a warpgroup, four warps, of operands in
// shared memory. Only sm_90a has it. The emulator has the same by the PTX ISA, "Asynchronous warpgroup level matrix
// instructions".
//
//   store operands, fence_async(), a barrier; fence(), multiply() ..., commit(); wait(d)
//
// Between the first multiply() and wait(d) nobody may touch d, nor write to the operands.
#pragma once

#include "mma.cuh"

#if !defined(FASTSSM_EMULATOR) && defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define FASTSSM_WGMMA_ASM 1
#endif

namespace fastssm::cuda::wgmma {

constexpr int kThreads = 128;  // of a warpgroup
constexpr int kRows = 64, kColumns = 128, kDepth = 16;
constexpr int kEntries = kRows * kColumns / kThreads;  // of D, for each thread

FASTSSM_DEVICE uint32_t address_of(const void* p) {
#if defined(FASTSSM_EMULATOR)
  return emulator::shared_address(p);
#else
  return shared_address(p);
#endif
}

// An operand in shared memory, not swizzled: matrices of 8 lines of 16 bytes, `apart` bytes from one to the next along
// C and `deep` along the depth.
FASTSSM_DEVICE uint64_t descriptor(const void* p, int apart, int deep) {
  const auto field = [](uint64_t bytes) { return (bytes & 0x3FFFF) >> 4; };
  return field(address_of(p)) | field(deep) << 16 | field(apart) << 32;
}

// Makes this thread's stores to shared memory visible to wgmma, after the next barrier.
FASTSSM_DEVICE void fence_async() {
#if defined(FASTSSM_EMULATOR)
  emulator::fence_proxy_async();
#elif defined(FASTSSM_WGMMA_ASM)
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

// Orders what this thread did with registers before multiply().
FASTSSM_DEVICE void fence() {
#if defined(FASTSSM_EMULATOR)
  emulator::wgmma_fence();
#elif defined(FASTSSM_WGMMA_ASM)
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}

// Ends a group of products.
FASTSSM_DEVICE void commit() {
#if defined(FASTSSM_EMULATOR)
  emulator::wgmma_commit();
#elif defined(FASTSSM_WGMMA_ASM)
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}

#define FASTSSM_FOUR(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define FASTSSM_SIXTEEN(d, i) \
  FASTSSM_FOUR(d, i), FASTSSM_FOUR(d, i + 4), FASTSSM_FOUR(d, i + 8), FASTSSM_FOUR(d, i + 12)
#define FASTSSM_ENTRIES(d) \
  FASTSSM_SIXTEEN(d, 0), FASTSSM_SIXTEEN(d, 16), FASTSSM_SIXTEEN(d, 32), FASTSSM_SIXTEEN(d, 48)

// Waits for all groups, whose results are in d.
FASTSSM_DEVICE void wait(float (&d)[kEntries]) {
#if defined(FASTSSM_EMULATOR)
  emulator::wgmma_wait(0);
#elif defined(FASTSSM_WGMMA_ASM)
  asm volatile("wgmma.wait_group.sync.aligned 0;" : FASTSSM_ENTRIES(d) : : "memory");
#endif
}

// Starts D = A B, or += with `add`, of bfloat16 numbers: A [64, 16], B [16, 128]. A side that is not `along_depth` has
// lines along C. Entry i of a lane's d is of row 16 (warp % 4) + lane / 4 + 8 (i / 2 % 2) and column
// 8 (i / 4) + 2 (lane % 4) + i % 2.
template <bool a_along_depth, bool b_along_depth>
FASTSSM_DEVICE void multiply(float (&d)[kEntries], uint64_t a, uint64_t b, bool add) {
#if defined(FASTSSM_EMULATOR)
  emulator::wgmma_bf16(d, a, b, add, !a_along_depth, !b_along_depth);
#elif defined(FASTSSM_WGMMA_ASM)
  asm volatile(
      "{ .reg .pred add; setp.ne.b32 add, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, "
      "%13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, "
      "%35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, "
      "%57, %58, %59, %60, %61, %62, %63}, %64, %65, add, 1, 1, %67, %68; }\n"
      : FASTSSM_ENTRIES(d)
      : "l"(a), "l"(b), "r"(int(add)), "n"(int(!a_along_depth)), "n"(int(!b_along_depth))
      : "memory");
#endif
}

}  // namespace fastssm::cuda::wgmma
