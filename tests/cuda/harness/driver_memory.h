// What tests need of CUDA's driver besides csrc/cuda/driver_api.h, found in the same way: a device's memory, memory of
// the host that a device reaches by the same address, and waiting. No managed memory.
#pragma once

#include <cstddef>
#include <string>

#include "cuda/driver_api.h"

namespace driver {

// Make the primary context of device 0 current in this thread, for good; raises std::runtime_error without a device.
void use_device();

struct Properties {
  int capability;  // 90 for 9.0
  size_t shared_per_block;
};
Properties properties();

// Wait for all that was started; raises what went wrong there, as `what` that failed.
void wait(const std::string& what);

void* host_memory(size_t bytes);
void free_host_memory(void* memory);

// One allocation of the driver's, full of NaN, by an address that means nothing on the host.
class DeviceMemory {
 public:
  explicit DeviceMemory(size_t bytes);
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;
  ~DeviceMemory();
  void* address() const;

 private:
  unsigned long long address_ = 0;
};

// Whatever was started before is done when these return.
void to_device(void* device, const void* host, size_t bytes);
void to_host(void* host, const void* device, size_t bytes);

}  // namespace driver
