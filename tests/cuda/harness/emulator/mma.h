// The tensor cores' products D = A B + C of a warp, by the fragment layouts of the PTX ISA, "Warp-level matrix
// instructions": which lane holds which element differs for A, B and C, so a transposed or swapped operand shows.
//
// Sums are rounded as measured on an A100 (Fasi, Higham, Mikaitis, Pranesh, "Numerical behavior of NVIDIA tensor
// cores", 2021): products are exact; those of 4 steps of tf32, or of 8 of bf16, and C are truncated to one bit more
// than float32 has relative to the largest of them, added, and the sum is truncated to float32. Later devices keep more
// bits.
#pragma once

#include <cstdint>

namespace emulator {

typedef uint64_t Bytes16 __attribute__((vector_size(16), may_alias));  // of one access

// A [16, 8] row-major, B [8, 8] column-major, both tf32 in 32-bit registers; C and D [16, 8] float32.
void mma_m16n8k8_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const float (&c)[4],
                      int line = __builtin_LINE());

// A [16, 16], B [16, 8], pairs of bfloat16 in 32-bit registers, the lower half first.
void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const float (&c)[4],
                       int line = __builtin_LINE());

// Four matrices of 8 rows of 16 bytes in shared memory: a lane's word i is of row lane / 4 of matrix i, and starts at
// byte 4 (lane % 4) of it; `transposed`, of two elements below one another in column lane / 4. Lane l gives the address
// of row l % 8 of matrix l / 8, and here reads it.
void ldmatrix_exchange(uint32_t (&words)[4], const uint64_t (&row)[2], bool transposed, int line);
inline void ldmatrix_x4(uint32_t (&words)[4], const void* row, bool transposed, int line = __builtin_LINE()) {
  const auto whole = *static_cast<const Bytes16*>(row);
  ldmatrix_exchange(words, {whole[0], whole[1]}, transposed, line);
}

// A sum of C and some products as the hardware has it: each truncated to `kept` bits after the leading one of the
// largest, then the sum to float32.
float added(float c, const double* products, int count, int kept);

uint32_t round_to_tf32(float x);                // cvt.rna: 10 bits of mantissa, ties away from zero
uint32_t pack_bf16(float low, float high);      // cvt.rn: nearest, ties to even

}  // namespace emulator
