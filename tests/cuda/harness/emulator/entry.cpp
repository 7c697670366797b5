// The emulator for ctypes: tests/cuda/device.py.
#include <malloc.h>

#include <cstdlib>
#include <exception>
#include <string>

#include "launcher.h"
#include "registry.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace {
std::string error;
}

extern "C" {

int fastssm_launch(const char* kernel, unsigned x, unsigned y, unsigned z, unsigned threads, size_t shared,
                   const void* parameters, size_t size) {
  try {
    emulator::launcher().launch(kernel, {{x, y, z}, threads, shared}, parameters, size, nullptr);
    return 0;
  } catch (const std::exception& raised) {
    error = raised.what();
    return 1;
  }
}

const char* fastssm_error() { return error.c_str(); }

// Memory that kernels reach, in whole blocks of 256 bytes. AddressSanitizer stops an access beyond `bytes`.
void* fastssm_allocate(size_t bytes) {
  const size_t whole = (bytes + 255) / 256 * 256;
  auto* memory = static_cast<unsigned char*>(std::aligned_alloc(256, whole));
#if defined(__SANITIZE_ADDRESS__)
  if (memory) __asan_poison_memory_region(memory + bytes, whole - bytes);
#endif
  return memory;
}

void fastssm_free(void* memory) {
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(memory, malloc_usable_size(memory));
#endif
  std::free(memory);
}

void fastssm_schedule(bool random, uint64_t seed) { emulator::schedule = {random, seed}; }

void fastssm_limits(size_t shared_per_block, int multiprocessors, int capability) {
  emulator::limits = {shared_per_block, multiprocessors, capability};
}

// The name of kernel `index`, or null after the last.
const char* fastssm_kernel(unsigned index) {
  for (const auto& [name, kernel] : emulator::kernels())
    if (index-- == 0) return name.c_str();
  return nullptr;
}

unsigned fastssm_kernel_threads(const char* name) { return emulator::kernels().at(name).threads; }

size_t fastssm_kernel_size(const char* name) { return emulator::kernels().at(name).size; }
}
