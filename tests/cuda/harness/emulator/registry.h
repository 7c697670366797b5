// The kernels by name, entered by FASTSSM_KERNEL or by the translator of PTX.
#pragma once

#include <cstddef>
#include <map>
#include <string>

namespace emulator {

struct Kernel {
  unsigned threads;  // the most in a block
  size_t size;       // of its parameters
  void (*call)(void (*kernel)(), const void* parameters);
  void (*kernel)();
};

std::map<std::string, Kernel>& kernels();

// Enters a kernel before main.
template <class Parameters>
struct Registered {
  Registered(const char* name, unsigned threads, void (*kernel)(const Parameters)) {
    const auto call = [](void (*any)(), const void* parameters) {
      reinterpret_cast<void (*)(const Parameters)>(any)(*static_cast<const Parameters*>(parameters));
    };
    kernels()[name] = {threads, sizeof(Parameters), call, reinterpret_cast<void (*)()>(kernel)};
  }
};

}  // namespace emulator
