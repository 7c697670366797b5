"""Ways to compute faster that the CPU engine does not use, as edits of csrc/; `bench.cpu_attempts` measures them."""

from typing import NamedTuple


class Edit(NamedTuple):
    """What a file of csrc/ says once, and what it says instead."""

    file: str
    old: str
    new: str


SWEEP, ENERGY, PRODUCTS, ENGINE = "cpu/tile_sweep.cpp", "cpu/energy.cpp", "cpu/kernels/products.h", "cpu/engine.cpp"
UP_WHOLE = """  product_up(l, kinds, layer.scale ? s.raw : s.z);
  if (modulated(l)) modulate(l, kinds);
  kernels_.up({.shape = s.shape,
               .activation = layer.activation,
               .constants = layer.constants,
               .order = order,
               .curvature = curvature,
               .fresh = fresh,
               .bias = model_.biases[l],
               .z = s.z,
               .out = s.out,
               .narrow = s.narrow_out,
               .d2 = s.d2,
               .d3 = s.d3,
               .q = squares ? s.q : nullptr,
               .c2 = each_down() ? coefficients_ : nullptr,
               .entered = layer.skip ? entering(l).p : nullptr,
               .nan_flag = nan_flag_});"""
UP_BY_PANELS = """  const Rows<T> in = entering(l);
  for (int64_t j = 0; j < s.shape.width; j += PANELS * kernels_.panel) {
    Shape part = s.shape;
    part.width = std::min(PANELS * kernels_.panel, s.shape.width - j);
    kernels_.multiply(kinds * tile_.samples, part.width, layer.in, in.p, in.ld,
                      model_.weights[l].up_ + j * layer.in, s.z + j, s.ld, false);
    kernels_.up({.shape = part,
                 .activation = layer.activation,
                 .constants = layer.constants,
                 .order = order,
                 .curvature = curvature,
                 .fresh = fresh,
                 .bias = model_.biases[l] + j,
                 .z = s.z + j,
                 .out = s.out + j,
                 .d2 = s.d2 + j,
                 .d3 = s.d3 + j,
                 .q = squares ? s.q + j : nullptr,
                 .nan_flag = nan_flag_});
  }"""
DOWN_WHOLE = """    kernels_.down({.shape = s.shape,
                   .above = outer ? Above::outer : Above::stack,
                   .tangent_coefficient = c1,
                   .curvature_coefficient = c2,
                   .readout = model_.readout_row,
                   .fresh = fresh,
                   .z = s.z,
                   .d2 = s.d2,
                   .d3 = s.d3,
                   .adjoints = s.adjoints,
                   .narrow = s.narrow_adjoints,
                   .bias = bias_sum(l)});
    collect(l, tangents + 1 + !fresh);
    product_down(l, passed, kept);"""
DOWN_BY_PANELS = """    (void)kept, (void)passed;
    const int64_t step = last ? s.shape.width : PANELS * kernels_.panel;
    for (int64_t j = 0; j < s.shape.width; j += step) {
      Shape part = s.shape;
      part.width = std::min(step, s.shape.width - j);
      if (!last) {
        const Stage& over = stages_[l + 1];
        const int64_t depth = model_.hidden[l + 1].out;
        kernels_.multiply((tangents + 2) * samples, part.width, depth, over.adjoints, over.ld,
                          model_.weights[l + 1].down_ + j * depth, s.adjoints + j, s.ld, false);
      }
      kernels_.down({.shape = part,
                     .above = outer ? Above::outer : Above::stack,
                     .tangent_coefficient = c1,
                     .curvature_coefficient = c2,
                     .readout = model_.readout_row + j,
                     .fresh = fresh,
                     .z = s.z + j,
                     .d2 = s.d2 + j,
                     .d3 = s.d3 + j,
                     .adjoints = s.adjoints + j,
                     .bias = bias_sum(l) + j});
    }
    collect(l, tangents + 1 + !fresh);"""
ROWS, DEPTH = "constexpr int64_t kRows = 192;", "constexpr int64_t kDepth = kBlockVectors > 2 ? 128 : 256;"
BYTES = "constexpr int64_t kBytes = (kBlockVectors > 2 ? 1024 : 512) * 1024;"
FETCH = "if (STORED == Stored::by_rows) fetch("
BLOCKS = {
    "avx512": "constexpr int kRows = 6, kBlockVectors = 4;",
    "avx2": "constexpr int kRows = 6, kBlockVectors = 2;",
}
OTHER_BLOCKS = {"avx512": ((8, 3), (14, 2)), "avx2": ((4, 2), (12, 1))}


def by_panels(count: int) -> tuple[Edit, ...]:
    """Run the pointwise passes of hidden layers on so many panels of a product at a time, while they are in the cache.

    This is enough for networks without skips, modulation or gradients of the data, which are measured.
    """
    return (
        Edit(SWEEP, UP_WHOLE, UP_BY_PANELS.replace("PANELS", str(count))),
        Edit(ENERGY, DOWN_WHOLE, DOWN_BY_PANELS.replace("PANELS", str(count))),
        Edit("cpu/weights.h", " private:\n", " public:\n"),
    )


def ways(level: str) -> dict[str, tuple[Edit, ...]]:
    """Return the edits of each way by its name, for a level."""
    found = {f"passes on {count} panel{'s'[: count > 1]} at a time": by_panels(count) for count in (1, 2)}
    found |= {f"tiles of {rows} rows": (Edit(ENGINE, ROWS, ROWS.replace("192", str(rows))),) for rows in (96, 288, 384)}
    for rows, vectors in OTHER_BLOCKS[level]:
        name = BLOCKS[level]
        found[f"blocks of {rows} rows by {vectors} vectors"] = (
            Edit(PRODUCTS, name, f"constexpr int kRows = {rows}, kBlockVectors = {vectors};"),
        )
    for depth in (64, 512):
        found[f"{depth} rows of a panel at a time"] = (Edit(PRODUCTS, DEPTH, f"constexpr int64_t kDepth = {depth};"),)
    for size in (128, 256):
        found[f"{size} KiB of rows at a time"] = (Edit(PRODUCTS, BYTES, f"constexpr int64_t kBytes = {size} * 1024;"),)
    found["packed matrices not fetched ahead"] = (Edit(PRODUCTS, FETCH, "if (false) fetch("),)
    return found
