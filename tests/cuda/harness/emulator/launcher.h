// The emulator as a device of csrc/cuda/launcher.h.
#pragma once

#include "cuda/launcher.h"
#include "machine.h"

namespace emulator {

// What a launch may ask for and in which order threads run, for this process.
extern fastssm::cuda::Limits limits;
extern Schedule schedule;

class EmulatedLauncher : public fastssm::cuda::Launcher {
 public:
  const fastssm::cuda::Limits& limits() const override { return emulator::limits; }
  void launch(const char* kernel, const fastssm::cuda::Launch& how, const void* parameters, size_t size,
              void* stream) override;
};

fastssm::cuda::Launcher& launcher();

}  // namespace emulator
