// The emulator as the device of the engine's operators; FASTSSM_SHARED_PER_BLOCK gives it less memory than it has.
#include <cstdlib>

#include "launcher.h"

fastssm::cuda::Launcher& fastssm::cuda::launcher(int) {
  if (const char* bytes = std::getenv("FASTSSM_SHARED_PER_BLOCK")) emulator::limits.shared_per_block = std::atoi(bytes);
  return emulator::launcher();
}
