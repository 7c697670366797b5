#include "launcher.h"

#include <mutex>
#include <stdexcept>

#include "registry.h"

namespace emulator {

fastssm::cuda::Limits limits{99 << 10, 4, 89};  // the memory of most, and few multiprocessors, so that blocks loop
Schedule schedule;

std::map<std::string, Kernel>& kernels() {
  static std::map<std::string, Kernel> table;
  return table;
}

namespace {

[[noreturn]] void refuse(const std::string& why) { throw std::runtime_error(why); }

const Kernel& find(const char* name) {
  const auto found = kernels().find(name);
  if (found == kernels().end()) refuse("there is no such kernel");
  return found->second;
}

// What a driver would refuse.
void check(const Kernel& kernel, const fastssm::cuda::Launch& how, size_t size) {
  const auto& [x, y, z] = how.grid;
  if (x < 1 || y < 1 || z < 1 || x > 0x7FFFFFFFu || y > 65535 || z > 65535)
    refuse("a grid of " + std::to_string(x) + " x " + std::to_string(y) + " x " + std::to_string(z) + " blocks");
  if (how.threads < 1 || how.threads > kernel.threads)
    refuse(std::to_string(how.threads) + " threads, of at most " + std::to_string(kernel.threads));
  if (how.shared > limits.shared_per_block)
    refuse(std::to_string(how.shared) + " bytes of shared memory, of " + std::to_string(limits.shared_per_block));
  if (size != kernel.size)
    refuse(std::to_string(size) + " bytes of parameters, of " + std::to_string(kernel.size));
}

struct Call {
  const Kernel* kernel;
  const void* parameters;
};

}  // namespace

void EmulatedLauncher::launch(const char* name, const fastssm::cuda::Launch& how, const void* parameters, size_t size,
                              void*) {
  static std::mutex one_at_a_time;
  const std::lock_guard<std::mutex> lock(one_at_a_time);
  try {
    const Kernel& kernel = find(name);
    check(kernel, how, size);
    const Call call{&kernel, parameters};
    run_grid({how.grid.x, how.grid.y, how.grid.z}, how.threads, how.shared, schedule,
             [](const void* p) {
               const Call& c = *static_cast<const Call*>(p);
               c.kernel->call(c.kernel->kernel, c.parameters);
             },
             &call);
  } catch (const std::runtime_error& error) {
    throw std::runtime_error("kernel " + std::string(name) + ": " + error.what());
  }
}

fastssm::cuda::Launcher& launcher() {
  static EmulatedLauncher device;
  return device;
}

}  // namespace emulator
