// What both engines mean by a tile, a sweep's options and a stack of rows; plain structs for the host and for devices.
#pragma once

#include "../maths/numerics.h"

namespace fastssm {

// Some samples and some of their directions.
struct Tile {
  int64_t first;  // sample
  int64_t samples;
  int64_t direction;  // the first one
  int64_t tangents;
  // Whether this tile adds what is not a sum over directions: only the one with the first directions does.
  FASTSSM_HD FASTSSM_INLINE bool leading() const { return direction == 0; }
};

// What a sweep computes. It decides which buffers the sweep needs.
struct SweepOptions {
  bool merged;        // an energy's merged sweep, not the stacked one
  bool gradients;     // down as well as up
  bool each = false;  // v_m^T J v_m of every direction, or its cotangent, not the mean; CPU only
};

// The layout shared by all stacks of a layer in a tile. A stack holds rows of one layer, kind after kind (the value,
// the tangents, the curvature), sample after sample: row (kind, sample) starts at kind * kind_stride() + sample * ld.
struct Shape {
  int64_t samples;
  int64_t tangents;
  int64_t width;
  int64_t ld;
  FASTSSM_HD FASTSSM_INLINE int64_t kind_stride() const { return samples * ld; }
  FASTSSM_HD FASTSSM_INLINE int64_t curvature_offset() const { return (tangents + 1) * kind_stride(); }
};

// How a layer's adjoints arrive from above: as a stack, as coefficients times one row, or as zero.
enum class Above : int { stack, outer, none };

}  // namespace fastssm
