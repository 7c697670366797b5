// Starts the kernels of one dtype on as many threads as their rows and columns ask for.
#pragma once

#include <algorithm>
#include <string>

#include "engine.h"
#include "kernels/params.h"

namespace fastssm::cuda {

constexpr int64_t kBlocks = 1024;  // that keep any device busy; more would only leave more partial sums

inline int64_t divided_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// A walk over rows of `packs` times 16 bytes, with its threads and the width of its grid, that would suit `most` rows.
struct Walking {
  Walk walk;
  unsigned threads;
  int64_t across;
  int64_t down(int64_t rows) const { return divided_up(rows, walk.rows); }
};

inline Walking walking(int64_t most, int64_t packs) {
  int abreast = kWarp;  // or less, where fewer threads would then stand beyond the end of a row
  const auto wasted = [&](int n) { return divided_up(packs, n) * n - packs; };
  for (int n = abreast / 2; n >= 8; n /= 2)
    if (wasted(n) < wasted(abreast)) abreast = n;
  while (abreast / 2 >= packs) abreast /= 2;
  int64_t below = kThreads / abreast;
  while (below / 2 >= most && below / 2 * abreast >= kWarp) below /= 2;
  const int64_t across = divided_up(packs, abreast), steps = divided_up(most, below);
  const int64_t high = std::max<int64_t>(1, std::min(steps, kBlocks / across));
  return {{divided_up(steps, high) * below, abreast}, static_cast<unsigned>(abreast * below), across};
}

template <class T, class Parameters>
void start(const Runtime<T>& runtime, const std::string& kernel, const Launch& how, const Parameters& parameters) {
  runtime.launcher((kernel + (sizeof(T) == sizeof(float) ? "_float" : "_double")).c_str(), how, parameters,
                   runtime.stream);
}

// Over rows and columns, as would suit `most` rows; return the height of the grid: where columns add up (`folds`), the
// number of partial sums.
template <class T, class Parameters>
int64_t over_rows(const Runtime<T>& runtime, const std::string& kernel, int64_t rows, int64_t most, int64_t ld,
                  Parameters& parameters, Walk& walk, bool folds = false) {
  const Walking how = walking(most, ld / kLanes<T>);
  walk = how.walk;
  const Grid grid{static_cast<unsigned>(how.across), static_cast<unsigned>(how.down(rows))};
  start(runtime, kernel, {grid, how.threads, folds ? how.threads * size_t(kAccess) : 0}, parameters);
  return grid.y;
}

// One block for each sample, with a warp for each of its tasks.
template <class T, class Parameters>
void over_samples(const Runtime<T>& runtime, const std::string& kernel, int64_t samples, int64_t tasks,
                  const Parameters& parameters) {
  const unsigned warps = static_cast<unsigned>(std::min<int64_t>(kThreads / kWarp, tasks));
  start(runtime, kernel, {{static_cast<unsigned>(samples)}, warps * kWarp, warps * 2 * sizeof(T)}, parameters);
}

}  // namespace fastssm::cuda
