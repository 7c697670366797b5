// The tensor cores' products D = A B + C of a warp, by the fragment layouts of the PTX ISA, "Warp-level matrix
// instructions": which lane holds which element differs for A, B and C, so a transposed or swapped operand shows.
// Products and sums are float64 rounded to float32 at the end; the hardware's own rounding is not imitated.
#pragma once

#include <cstdint>

namespace emulator {

// A [16, 8] row-major, B [8, 8] column-major, both tf32 in 32-bit registers; C and D [16, 8] float32.
void mma_m16n8k8_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const float (&c)[4],
                      int line = __builtin_LINE());

// A [16, 16], B [16, 8], pairs of bfloat16 in 32-bit registers, the lower half first.
void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const float (&c)[4],
                       int line = __builtin_LINE());

uint32_t round_to_tf32(float x);                // cvt.rna: 10 bits of mantissa, ties away from zero
uint32_t pack_bf16(float low, float high);      // cvt.rn: nearest, ties to even

}  // namespace emulator
