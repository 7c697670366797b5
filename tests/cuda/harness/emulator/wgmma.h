// The asynchronous products D = A B + D of a warpgroup (wgmma), by the PTX ISA, "Asynchronous warpgroup level matrix
// instructions": operands lie in shared memory where descriptors say.
//
// A warp's quarter of D is computed when the warp issues it and given to its registers when it waits. A launch fails
//  - where an operand is read that was stored after the last fence.proxy.async: whose stores a fence makes visible is
//    not told apart;
//  - where an operand has changed between the issue and the wait, or an accumulator, which holds NaN meanwhile;
//  - without a wgmma.fence between the registers' last use and the issue;
//  - where the warps of a warpgroup differ in what they issue, or a descriptor is malformed or leaves shared memory.
//
// Sums are rounded as measured on a GPU of compute capability 9.0 (Xie, Wang, Yang, Yang, "MMA-Sim: Bit-Accurate
// Reference Model of Tensor Cores and Matrix Cores", 2025): all 16 products and C are truncated to two bits more than
// float32 has relative to the largest of them, added, and the sum is truncated to float32.
#pragma once

#include <cstdint>

#include "machine.h"
#include "mma.h"

namespace emulator {

constexpr int warpgroup_size = 128;

// The address of shared memory as an instruction takes it, not 0 at its beginning.
uint32_t shared_address(const void* p);

// An operand [lines, 16] of bfloat16 as a descriptor gives it; `transposed` where it is contiguous along M or N.
struct Operand {
  uint32_t start, leading, stride;  // bytes
  int width;                        // of a swizzled row, in pieces of 16 bytes; 1 for none
  bool transposed;

  Operand(uint64_t descriptor, bool transposed);
  // Where the piece of 16 bytes is that holds the given line and depth.
  const Bytes16* piece(int line, int depth) const;
};

struct Issue {
  uint64_t a, b;
  bool add, a_transposed, b_transposed;
  int line;
  bool operator==(const Issue&) const = default;
};

void fence_proxy_async();
void wgmma_fence(int line = __builtin_LINE());
void wgmma_commit(int line = __builtin_LINE());
void wgmma_wait(int left, int line = __builtin_LINE());

void begin_issue(const Issue& issue, float* d, int count);
enum class Part { a, b };
void take_piece(Part part, int line, int depth, bool transposed, const Bytes16* from, Bytes16 value);
void finish_issue(const Issue& issue);

// Loads a lane's share of an operand's pieces, of so many lines; here, for who observes reads.
inline void take_operand(Part part, const Operand& operand, int first, int lines, unsigned lane) {
  for (int p = int(lane); p < 2 * lines; p += 32) {
    const int line = operand.transposed ? p % (lines / 8) * 8 : p % lines;
    const int depth = operand.transposed ? p / (lines / 8) : p / lines * 8;
    const Bytes16* from = operand.piece(first + line, depth);
    take_piece(part, line, depth, operand.transposed, from, *from);
  }
}

// m64nNk16 with N = 2 count: entry i of a lane's d is of row 16 (warp % 4) + lane / 4 + 8 (i / 2 % 2) and column
// 8 (i / 4) + 2 (lane % 4) + i % 2.
template <int count>
void wgmma_bf16(float (&d)[count], uint64_t a, uint64_t b, bool add, bool a_transposed, bool b_transposed,
                int line = __builtin_LINE()) {
  const Issue issue{a, b, add, a_transposed, b_transposed, line};
  begin_issue(issue, d, count);
  const unsigned thread = machine.thread.x, lane = thread % warp_size, warp = thread % warpgroup_size / warp_size;
  take_operand(Part::a, Operand(a, a_transposed), 16 * int(warp), 16, lane);
  take_operand(Part::b, Operand(b, b_transposed), 0, 2 * count, lane);
  finish_issue(issue);
}

void forget_wgmma();  // of all threads

}  // namespace emulator
