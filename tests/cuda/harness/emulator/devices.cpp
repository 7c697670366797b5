// The emulator as the device of the engine's operators. It says that it has FASTSSM_SHARED_PER_BLOCK bytes, if given,
// and in the file FASTSSM_LAUNCHES leaves how often each kernel was started.
#include <cstdlib>
#include <fstream>
#include <map>
#include <string>

#include "launcher.h"

namespace {

class Counted : public emulator::EmulatedLauncher {
 public:
  Counted() : limits_(emulator::limits) {
    if (const char* bytes = std::getenv("FASTSSM_SHARED_PER_BLOCK")) limits_.shared_per_block = std::atoi(bytes);
  }
  ~Counted() override {
    const char* path = std::getenv("FASTSSM_LAUNCHES");
    if (!path) return;
    std::ofstream file(path, std::ios::app);
    for (const auto& [kernel, count] : started_) file << kernel << " " << count << "\n";
  }
  const fastssm::cuda::Limits& limits() const override { return limits_; }
  void launch(const char* kernel, const fastssm::cuda::Launch& how, const void* parameters, size_t size,
              void* stream) override {
    started_[kernel]++;
    EmulatedLauncher::launch(kernel, how, parameters, size, stream);
  }

 private:
  fastssm::cuda::Limits limits_;
  std::map<std::string, int> started_;
};

}  // namespace

fastssm::cuda::Launcher& fastssm::cuda::launcher(int) {
  static Counted device;
  return device;
}
