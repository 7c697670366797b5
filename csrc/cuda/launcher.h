// How host code starts kernels. A launcher runs them on a GPU, through its driver; the tests have launchers for the
// emulator and for nvcc's PTX executed on the CPU.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fastssm::cuda {

struct Grid {
  unsigned x = 1, y = 1, z = 1;
};

struct Launch {
  Grid grid;
  unsigned threads;   // of a block, which is one-dimensional
  size_t shared = 0;  // bytes of dynamic shared memory
};

// The limits of a device.
struct Limits {
  size_t shared_per_block;  // bytes, the opt-in maximum
  int multiprocessors;
  int capability;  // 80 for 8.0
};

class Launcher {
 public:
  virtual ~Launcher() = default;
  virtual const Limits& limits() const = 0;
  // Starts a kernel, which takes one struct by value. Raises std::runtime_error with its name where that fails.
  virtual void launch(const char* kernel, const Launch& how, const void* parameters, size_t size, void* stream) = 0;

  template <class Parameters>
  void operator()(const char* kernel, const Launch& how, const Parameters& parameters, void* stream) {
    launch(kernel, how, &parameters, sizeof parameters, stream);
  }
};

// The launcher of a device: driver.cpp defines it for GPUs, and the tests define their own.
Launcher& launcher(int device);

}  // namespace fastssm::cuda
