#include "driver_memory.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstdint>
#include <stdexcept>

namespace driver {
namespace {

using fastssm::cuda::Result;
using Address = unsigned long long;

constexpr unsigned kPortable = 1, kMapped = 2;  // how cuMemHostAlloc gives memory

struct More {
  Result (*alloc)(Address*, size_t);
  Result (*free)(Address);
  Result (*fill)(Address, unsigned char, size_t);
  Result (*to_device)(Address, const void*, size_t);
  Result (*to_host)(void*, Address, size_t);
  Result (*host_alloc)(void**, size_t, unsigned flags);
  Result (*host_free)(void*);
  Result (*synchronize)();
};

template <class F>
void find(void* library, const char* name, F& function) {
  function = reinterpret_cast<F>(dlsym(library, name));
  if (!function) throw std::runtime_error(std::string("the NVIDIA driver has no ") + name);
}

More found() {
  fastssm::cuda::api();  // opens the driver, or says why it cannot
  void* library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  More more{};
  find(library, "cuMemAlloc_v2", more.alloc);
  find(library, "cuMemFree_v2", more.free);
  find(library, "cuMemsetD8_v2", more.fill);
  find(library, "cuMemcpyHtoD_v2", more.to_device);
  find(library, "cuMemcpyDtoH_v2", more.to_host);
  find(library, "cuMemHostAlloc", more.host_alloc);
  find(library, "cuMemFreeHost", more.host_free);
  find(library, "cuCtxSynchronize", more.synchronize);
  return more;
}

const More& more() {
  static const More all = found();
  return all;
}

void check(Result result, const std::string& what) { fastssm::cuda::check(fastssm::cuda::api(), result, what); }

fastssm::cuda::Device device() {
  fastssm::cuda::Device first = 0;
  check(fastssm::cuda::api().device(&first, 0), "cuDeviceGet(0)");
  return first;
}

int attribute(int which) {
  int value = 0;
  check(fastssm::cuda::api().attribute(&value, which, device()), "cuDeviceGetAttribute");
  return value;
}

fastssm::cuda::Context context() {
  fastssm::cuda::Context primary = nullptr;
  check(fastssm::cuda::api().retain(&primary, device()), "cuDevicePrimaryCtxRetain");
  return primary;
}

Address address_of(const void* p) { return reinterpret_cast<uintptr_t>(p); }

}  // namespace

void use_device() {
  static const fastssm::cuda::Context primary = context();
  fastssm::cuda::Context now = nullptr;
  check(fastssm::cuda::api().current(&now), "cuCtxGetCurrent");
  if (now != primary) check(fastssm::cuda::api().push(primary), "cuCtxPushCurrent");
}

Properties properties() {
  return {10 * attribute(fastssm::cuda::kMajor) + attribute(fastssm::cuda::kMinor),
          static_cast<size_t>(attribute(fastssm::cuda::kSharedPerBlockOptin))};
}

void wait(const std::string& what) { check(more().synchronize(), what); }

void* host_memory(size_t bytes) {
  void* memory = nullptr;
  check(more().host_alloc(&memory, std::max<size_t>(1, bytes), kPortable | kMapped), "cuMemHostAlloc");
  return memory;
}

void free_host_memory(void* memory) { more().host_free(memory); }  // after a failed kernel, the driver refuses that too

DeviceMemory::DeviceMemory(size_t bytes) {
  bytes = std::max<size_t>(1, bytes);
  check(more().alloc(&address_, bytes), "cuMemAlloc");
  check(more().fill(address_, 0xFF, bytes), "cuMemsetD8");
}

DeviceMemory::~DeviceMemory() { more().free(address_); }

void* DeviceMemory::address() const { return reinterpret_cast<void*>(static_cast<uintptr_t>(address_)); }

void to_device(void* device, const void* host, size_t bytes) {
  if (bytes) check(more().to_device(address_of(device), host, bytes), "cuMemcpyHtoD");
}

void to_host(void* host, const void* device, size_t bytes) {
  if (bytes) check(more().to_host(host, address_of(device), bytes), "cuMemcpyDtoH");
}

}  // namespace driver
