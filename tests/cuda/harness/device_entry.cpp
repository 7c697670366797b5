// A GPU for ctypes (gpu.py): launches by the engine's own launcher, each waited for, and memory of the host that
// kernels reach by the same address.
#include <exception>
#include <map>
#include <string>
#include <unordered_map>
#include <vector>

#include "cuda/driver.h"
#include "driver_memory.h"

namespace {

std::string error;

// 0, or 1 where `body` raises.
template <class Body>
int guarded(const Body& body) {
  try {
    driver::use_device();
    body();
    return 0;
  } catch (const std::exception& raised) {
    error = raised.what();
    return 1;
  }
}

// Memory given back is kept for the next who asks for as much: the driver takes long for either.
struct Kept {
  std::unordered_map<void*, size_t> sizes;
  std::map<size_t, std::vector<void*>> spare;

  void* take(size_t bytes) {
    size_t size = 256;
    while (size < bytes) size *= 2;
    std::vector<void*>& fitting = spare[size];
    if (fitting.empty()) {
      fitting.push_back(driver::host_memory(size));
      sizes[fitting.back()] = size;
    }
    void* memory = fitting.back();
    fitting.pop_back();
    return memory;
  }
  void give_back(void* memory) { spare[sizes.at(memory)].push_back(memory); }
};

Kept& kept() {
  static Kept& all = *new Kept;  // Python may give memory back when this library's own objects are gone
  return all;
}

}  // namespace

extern "C" {

int fastssm_device(int* capability, size_t* shared_per_block) {
  return guarded([&] {
    const driver::Properties found = driver::properties();
    *capability = found.capability;
    *shared_per_block = found.shared_per_block;
  });
}

int fastssm_open(const char* image) {
  const char* why = fastssm_load_kernels(0, image);
  if (why) error = why;
  return why != nullptr;
}

int fastssm_launch(const char* kernel, unsigned x, unsigned y, unsigned z, unsigned threads, size_t shared,
                   const void* parameters, size_t size) {
  return guarded([&] {
    fastssm::cuda::launcher(0).launch(kernel, {{x, y, z}, threads, shared}, parameters, size, nullptr);
    driver::wait(std::string("kernel ") + kernel);
  });
}

const char* fastssm_error() { return error.c_str(); }

void* fastssm_allocate(size_t bytes) {
  void* memory = nullptr;
  guarded([&] { memory = kept().take(bytes); });
  return memory;
}

void fastssm_free(void* memory) { kept().give_back(memory); }
}
