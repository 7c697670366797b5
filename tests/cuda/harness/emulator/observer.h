// Who watches a launch: the race checker and the profiler install themselves here when they are linked in.
#pragma once

#include <cstddef>

namespace emulator {

class Observer {
 public:
  virtual ~Observer() = default;
  virtual void launch_begins(const void* shared, size_t shared_size) = 0;
  virtual void launch_ends() = 0;
  virtual void block_begins(unsigned block) = 0;
  virtual void thread_runs(unsigned thread) = 0;
  virtual void barrier_passed() = 0;
  virtual void warp_synchronised(unsigned warp) = 0;  // all of its lanes
};
extern Observer* observer;

}  // namespace emulator
