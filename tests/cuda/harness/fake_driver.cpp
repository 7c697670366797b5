// A libcuda.so.1 without a GPU that rehearses tests for one: kernels run on the emulator, which is linked with this.
// What it gives as a device's memory can be reached only while a kernel or a copy runs, and a kernel that is given an
// address of memory that a device does not reach fails. One device, like an H100, and one stream.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <exception>
#include <iterator>
#include <map>
#include <string>

#include "emulator/launcher.h"
#include "emulator/registry.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

constexpr int kInvalidValue = 1, kInvalidContext = 201, kNotFound = 500, kIllegalAddress = 700, kLaunchFailed = 719;
constexpr size_t kSharedPerBlock = 227 << 10, kSharedUnasked = 48 << 10;

struct FakeFunction {
  std::string name;
  size_t shared;  // bytes that it may ask for
};

struct Region {
  size_t bytes;
  bool device;  // not the host's
};

std::map<std::string, FakeFunction> functions;
std::map<uintptr_t, Region> regions;
std::string words;  // of the last error
int context;
thread_local int depth = 0;  // contexts pushed

int failed(int result, const std::string& why) {
  words = why;
  return result;
}

void protect(int how) {
  for (const auto& [begin, region] : regions)
    if (region.device) mprotect(reinterpret_cast<void*>(begin), region.bytes, how);
}

// While it lives, all memory can be reached.
struct Reachable {
  Reachable() { protect(PROT_READ | PROT_WRITE); }
  ~Reachable() { protect(PROT_NONE); }
};

int allocate(uintptr_t* address, size_t bytes, bool device) {
  if (!depth) return failed(kInvalidContext, "no context is current");
  if (!bytes) return failed(kInvalidValue, "nothing to allocate");
  void* memory = mmap(nullptr, bytes, device ? PROT_NONE : PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  *address = reinterpret_cast<uintptr_t>(memory);
  regions[*address] = {bytes, device};
  return 0;
}

int release(uintptr_t address, bool device) {
  const auto found = regions.find(address);
  if (found == regions.end() || found->second.device != device) return failed(kInvalidValue, "no such memory");
  munmap(reinterpret_cast<void*>(address), found->second.bytes);
  regions.erase(found);
  return 0;
}

// Whether some bytes, at least one, lie in one allocation.
bool known(uintptr_t address, size_t bytes) {
  const auto after = regions.upper_bound(address);
  if (after == regions.begin()) return false;
  const auto& [begin, region] = *std::prev(after);
  return address + bytes <= begin + region.bytes;
}

// Whether a word is the address of some memory of this process. A truth value or a small int is none, even where the
// gap behind it holds what is left of an address.
bool mapped(uintptr_t word) {
  const uintptr_t page = sysconf(_SC_PAGESIZE);
  unsigned char resident;
  if (word % 256 < 2 || uint32_t(word) < 1 << 16 || word >= uintptr_t(1) << 47) return false;
  return !mincore(reinterpret_cast<void*>(word / page * page), 1, &resident);
}

// The first of a kernel's parameters that is the address of what a device does not reach, or 0.
uintptr_t out_of_reach(const void* parameters, size_t size) {
  for (size_t at = 0; at + sizeof(uintptr_t) <= size; at += sizeof(uintptr_t)) {
    uintptr_t word;
    std::memcpy(&word, static_cast<const char*>(parameters) + at, sizeof word);
    if (!known(word, 1) && mapped(word)) return word;
  }
  return 0;
}

}  // namespace

EXPORT int cuInit(unsigned) {
  emulator::limits = {kSharedPerBlock, 132, 90};
  return 0;
}
EXPORT int cuDeviceGet(int* device, int ordinal) {
  *device = ordinal;
  return ordinal ? failed(101, "there is one device") : 0;
}
EXPORT int cuDeviceGetAttribute(int* value, int attribute, int) {
  const auto& limits = emulator::limits;
  const std::map<int, int> values = {
      {16, limits.multiprocessors}, {75, limits.capability / 10}, {76, limits.capability % 10}, {97, kSharedPerBlock}};
  *value = values.at(attribute);
  return 0;
}
EXPORT int cuDevicePrimaryCtxRetain(void** primary, int) { return *primary = &context, 0; }
EXPORT int cuCtxGetCurrent(void** current) { return *current = depth ? &context : nullptr, 0; }
EXPORT int cuCtxPushCurrent_v2(void*) { return depth++, 0; }
EXPORT int cuCtxPopCurrent_v2(void** popped) { return *popped = &context, depth--, 0; }
EXPORT int cuCtxSynchronize() { return depth ? 0 : failed(kInvalidContext, "no context is current"); }
EXPORT int cuStreamIsCapturing(void*, int* state) { return *state = 0; }
EXPORT int cuModuleLoadData(void** module, const void*) { return *module = &functions, 0; }

EXPORT int cuModuleGetFunction(FakeFunction** function, void*, const char* name) {
  if (!emulator::kernels().count(name)) return failed(kNotFound, "no such kernel");
  *function = &functions.emplace(name, FakeFunction{name, kSharedUnasked}).first->second;
  return 0;
}
EXPORT int cuFuncGetParamInfo(FakeFunction* function, size_t, size_t* offset, size_t* size) {
  *size = emulator::kernels().at(function->name).size;
  return *offset = 0;
}
EXPORT int cuFuncSetAttribute(FakeFunction* function, int attribute, int value) {
  if (attribute != 8 || size_t(value) > kSharedPerBlock) return failed(kInvalidValue, "more than there is");
  function->shared = std::max<size_t>(function->shared, value);
  return 0;
}

EXPORT int cuLaunchKernel(FakeFunction* function, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned,
                          unsigned, unsigned shared, void*, void** parameters, void**) {
  if (!depth) return failed(kInvalidContext, "no context is current");
  if (shared > function->shared) return failed(kInvalidValue, "more shared memory than was asked for");
  const size_t size = emulator::kernels().at(function->name).size;
  if (const uintptr_t word = out_of_reach(parameters[0], size))
    return failed(kIllegalAddress, "the device does not reach " + std::to_string(word));
  const Reachable now;
  try {
    emulator::launcher().launch(function->name.c_str(), {{x, y, z}, threads, shared}, parameters[0], size, nullptr);
    return 0;
  } catch (const std::exception& raised) {
    return failed(kLaunchFailed, raised.what());
  }
}

EXPORT int cuMemAlloc_v2(uintptr_t* address, size_t bytes) { return allocate(address, bytes, true); }
EXPORT int cuMemFree_v2(uintptr_t address) { return release(address, true); }
EXPORT int cuMemHostAlloc(uintptr_t* address, size_t bytes, unsigned) { return allocate(address, bytes, false); }
EXPORT int cuMemFreeHost(uintptr_t address) { return release(address, false); }

EXPORT int cuMemsetD8_v2(uintptr_t to, unsigned char value, size_t bytes) {
  if (!known(to, bytes)) return failed(kInvalidValue, "no such memory");
  const Reachable now;
  std::memset(reinterpret_cast<void*>(to), value, bytes);
  return 0;
}
EXPORT int cuMemcpyHtoD_v2(uintptr_t to, const void* from, size_t bytes) {
  if (!known(to, bytes)) return failed(kInvalidValue, "no such memory");
  const Reachable now;
  std::memcpy(reinterpret_cast<void*>(to), from, bytes);
  return 0;
}
EXPORT int cuMemcpyDtoH_v2(void* to, uintptr_t from, size_t bytes) {
  if (!known(from, bytes)) return failed(kInvalidValue, "no such memory");
  const Reachable now;
  std::memcpy(to, reinterpret_cast<const void*>(from), bytes);
  return 0;
}

EXPORT int cuGetErrorName(int, const char** name) { return *name = "CUDA_ERROR_OF_THE_FAKE_DRIVER", 0; }
EXPORT int cuGetErrorString(int, const char** said) { return *said = words.c_str(), 0; }
