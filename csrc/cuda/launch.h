// Starts the kernels of one dtype, with grids that fit their rows and columns.
#pragma once

#include <algorithm>
#include <string>

#include "kernels/params.h"
#include "runtime.h"

namespace fastssm::cuda {

constexpr int64_t kBlocks = 1024;  // enough to keep any device busy; more would only give more partial sums

inline int64_t divided_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// How a grid goes over rows of `packs` times 16 bytes: the walk of a block, its threads, and the width of the grid. It
// suits up to `most` rows.
struct Walking {
  Walk walk;
  unsigned threads;
  int64_t across;
  int64_t down(int64_t rows) const { return divided_up(rows, walk.rows); }
};

inline Walking walking(int64_t most, int64_t packs) {
  int row_threads = kWarp;  // fewer, where that leaves fewer threads idle beyond the end of a row
  const auto wasted = [&](int n) { return divided_up(packs, n) * n - packs; };
  for (int n = row_threads / 2; n >= 8; n /= 2)
    if (wasted(n) < wasted(row_threads)) row_threads = n;
  while (row_threads / 2 >= packs) row_threads /= 2;
  int64_t below = kThreads / row_threads;
  while (below / 2 >= most && below / 2 * row_threads >= kWarp) below /= 2;
  const int64_t across = divided_up(packs, row_threads), steps = divided_up(most, below);
  const int64_t high = std::max<int64_t>(1, std::min(steps, kBlocks / across));
  return {.walk = {.rows = divided_up(steps, high) * below, .row_threads = row_threads},
          .threads = static_cast<unsigned>(row_threads * below),
          .across = across};
}

template <class T, class Parameters>
void start(const Runtime<T>& runtime, const std::string& kernel, const Launch& how, const Parameters& parameters) {
  runtime.launcher((kernel + (sizeof(T) == sizeof(float) ? "_float" : "_double")).c_str(), how, parameters,
                   runtime.stream);
}

// Starts a kernel over rows and columns, with a grid for up to `most` rows. Returns the height of the grid, which is
// the number of partial sums where columns add up (`folds`).
template <class T, class Parameters>
int64_t over_rows(const Runtime<T>& runtime, const std::string& kernel, int64_t rows, int64_t most, int64_t ld,
                  Parameters& parameters, Walk& walk, bool folds = false) {
  const Walking how = walking(most, ld / kLanes<T>);
  walk = how.walk;
  const Grid grid{static_cast<unsigned>(how.across), static_cast<unsigned>(how.down(rows))};
  const size_t shared = folds ? how.threads * size_t(kAccess) : 0;
  start(runtime, kernel, {.grid = grid, .threads = how.threads, .shared = shared}, parameters);
  return grid.y;
}

// Starts a kernel with one block for each sample, and one warp for each of its tasks, up to the largest block.
template <class T, class Parameters>
void over_samples(const Runtime<T>& runtime, const std::string& kernel, int64_t samples, int64_t tasks,
                  const Parameters& parameters) {
  const unsigned warps = static_cast<unsigned>(std::min<int64_t>(kThreads / kWarp, tasks));
  const Grid grid{static_cast<unsigned>(samples)};
  start(runtime, kernel, {.grid = grid, .threads = warps * kWarp, .shared = warps * 2 * sizeof(T)}, parameters);
}

}  // namespace fastssm::cuda
