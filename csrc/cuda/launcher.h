// How host code starts kernels, whoever runs them: a GPU through its driver or, where there is none, the emulator of the
// tests or nvcc's own PTX executed on the CPU.
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

// What a launch may ask of the device.
struct Limits {
  size_t shared_per_block;  // the opt-in maximum
  int multiprocessors;
  int capability;  // 80 for 8.0
};

class Launcher {
 public:
  virtual ~Launcher() = default;
  virtual const Limits& limits() const = 0;
  // Every kernel takes one struct by value; raises std::runtime_error with the kernel's name where it cannot start.
  virtual void launch(const char* kernel, const Launch& how, const void* parameters, size_t size, void* stream) = 0;

  template <class Parameters>
  void operator()(const char* kernel, const Launch& how, const Parameters& parameters, void* stream) {
    launch(kernel, how, &parameters, sizeof parameters, stream);
  }
};

// The launcher of a device. Each runner of kernels has one of its own: driver.cpp for GPUs, the tests for all else.
Launcher& launcher(int device);

}  // namespace fastssm::cuda
