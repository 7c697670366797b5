// What the fake driver, a libcuda.so.1 without a GPU, is told to do, and what it was asked for.
#pragma once

#include <mutex>
#include <string>
#include <thread>
#include <vector>

struct FakeLaunch {
  int device;
  std::string kernel;
  unsigned grid[3], block[3], shared;
  const void* stream;
  int64_t parameters[2];
};

struct Fake {
  std::mutex mutex;
  int init = 0, capturing = 0, set_attribute = 0, launch = 0;  // what these calls return, or say
  std::vector<std::string> images;                             // loaded, in that order
  std::vector<std::pair<std::string, int>> attributes;         // of functions: dynamic shared memory
  std::vector<FakeLaunch> launches;
  int lookups = 0;
  int depth = 0;  // contexts pushed and not popped
};
