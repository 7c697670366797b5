// The emulator as the device of the engine's operators. FASTSSM_SHARED_PER_BLOCK gives it less memory than it has, and
// in the file FASTSSM_LAUNCHES it leaves how often each kernel was started.
#include <cstdlib>
#include <fstream>
#include <map>
#include <string>

#include "launcher.h"

namespace {

class Counted : public emulator::EmulatedLauncher {
 public:
  ~Counted() override {
    const char* path = std::getenv("FASTSSM_LAUNCHES");
    if (!path) return;
    std::ofstream file(path, std::ios::app);
    for (const auto& [kernel, count] : started_) file << kernel << " " << count << "\n";
  }
  void launch(const char* kernel, const fastssm::cuda::Launch& how, const void* parameters, size_t size,
              void* stream) override {
    started_[kernel]++;
    EmulatedLauncher::launch(kernel, how, parameters, size, stream);
  }

 private:
  std::map<std::string, int> started_;
};

}  // namespace

fastssm::cuda::Launcher& fastssm::cuda::launcher(int) {
  if (const char* bytes = std::getenv("FASTSSM_SHARED_PER_BLOCK")) emulator::limits.shared_per_block = std::atoi(bytes);
  static Counted device;
  return device;
}
