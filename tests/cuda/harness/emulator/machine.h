// The block that runs: its threads as fibers, what the current one sees of itself, and barriers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace emulator {

constexpr unsigned warp_size = 32;

struct Index {
  unsigned x = 0, y = 0, z = 0;
};

// What a thread reads of its place.
struct Machine {
  Index thread, block, threads, grid;
  unsigned char* shared = nullptr;
  size_t shared_size = 0;
};
extern Machine machine;

inline void* dynamic_shared() { return machine.shared; }

// Wait for all threads of the block; from another line than theirs it raises.
void barrier(int line);

// Give up the launch from inside a kernel: the launcher raises.
[[noreturn]] void fail(const std::string& why);

// One schedule: in order of the threads and blocks, or at random by a seed.
struct Schedule {
  bool random = false;
  uint64_t seed = 0;
};

// Run a grid of `body(argument)`, block by block; raises std::runtime_error where a thread failed or all wait.
void run_grid(Index grid, unsigned threads, size_t shared, Schedule schedule, void (*body)(const void*),
              const void* argument);

}  // namespace emulator
