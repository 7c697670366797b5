// A driver that records what it is asked for: two devices, kernels "sweep" and "signs" of two 64-bit parameters, images
// that begin with "good".
#include <cstdint>
#include <cstring>
#include <deque>
#include <map>

#include "fake.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

constexpr int kInvalidValue = 1, kInvalidDevice = 101, kInvalidContext = 201, kNoBinary = 209, kNotFound = 500;
constexpr int kDevices = 2;

struct FakeContext {
  int device;
} contexts[kDevices] = {{0}, {1}};

struct FakeFunction {
  int device;
  std::string name;
};

Fake fake;
std::deque<FakeFunction> functions;
thread_local std::vector<FakeContext*> stack;

}  // namespace

EXPORT Fake* fake_driver() { return &fake; }

EXPORT int cuInit(unsigned) { return fake.init; }

EXPORT int cuDeviceGet(int* device, int ordinal) {
  *device = ordinal;
  return 0 <= ordinal && ordinal < kDevices ? 0 : kInvalidDevice;
}

EXPORT int cuDeviceGetAttribute(int* value, int attribute, int device) {
  const std::map<int, int> values = {{16, 100 + device}, {75, 8 + device}, {76, 6 * !device}, {97, device ? 232448 : 101376}};
  const auto found = values.find(attribute);
  if (found == values.end()) return kInvalidValue;
  *value = found->second;
  return 0;
}

EXPORT int cuDevicePrimaryCtxRetain(FakeContext** context, int device) {
  *context = &contexts[device];
  return 0;
}

EXPORT int cuCtxGetCurrent(FakeContext** context) {
  *context = stack.empty() ? nullptr : stack.back();
  return 0;
}

EXPORT int cuCtxPushCurrent_v2(FakeContext* context) {
  stack.push_back(context);
  const std::lock_guard<std::mutex> lock(fake.mutex);
  fake.depth++;
  return 0;
}

EXPORT int cuCtxPopCurrent_v2(FakeContext** context) {
  *context = stack.back();
  stack.pop_back();
  const std::lock_guard<std::mutex> lock(fake.mutex);
  fake.depth--;
  return 0;
}

EXPORT int cuModuleLoadData(FakeContext** module, const void* image) {
  if (stack.empty()) return kInvalidContext;
  if (std::strncmp(static_cast<const char*>(image), "good", 4)) return kNoBinary;
  *module = stack.back();
  const std::lock_guard<std::mutex> lock(fake.mutex);
  fake.images.emplace_back(static_cast<const char*>(image));
  return 0;
}

EXPORT int cuModuleGetFunction(FakeFunction** function, FakeContext* module, const char* name) {
  if (stack.empty() || stack.back() != module) return kInvalidContext;
  if (std::strcmp(name, "sweep") && std::strcmp(name, "signs")) return kNotFound;
  const std::lock_guard<std::mutex> lock(fake.mutex);
  *function = &functions.emplace_back(FakeFunction{module->device, name});
  fake.lookups++;
  return 0;
}

EXPORT int cuFuncGetParamInfo(FakeFunction*, size_t index, size_t* offset, size_t* size) {
  *offset = 0;
  *size = 2 * sizeof(int64_t);
  return index == 0 ? 0 : kInvalidValue;
}

EXPORT int cuFuncSetAttribute(FakeFunction* function, int attribute, int value) {
  const std::lock_guard<std::mutex> lock(fake.mutex);
  if (attribute != 8) return kInvalidValue;
  fake.attributes.emplace_back(function->name, value);
  return fake.set_attribute;
}

EXPORT int cuStreamIsCapturing(void*, int* state) {
  *state = fake.capturing;
  return 0;
}

EXPORT int cuLaunchKernel(FakeFunction* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                          unsigned bz, unsigned shared, void* stream, void** parameters, void** extra) {
  if (stack.empty() || stack.back()->device != function->device) return kInvalidContext;
  if (extra) return kInvalidValue;
  FakeLaunch launch{function->device, function->name, {gx, gy, gz}, {bx, by, bz}, shared, stream, {}};
  std::memcpy(launch.parameters, parameters[0], sizeof launch.parameters);
  const std::lock_guard<std::mutex> lock(fake.mutex);
  fake.launches.push_back(launch);
  return fake.launch;
}

EXPORT int cuGetErrorName(int error, const char** name) {
  static const std::map<int, const char*> names = {{100, "CUDA_ERROR_NO_DEVICE"},
                                                   {kInvalidValue, "CUDA_ERROR_INVALID_VALUE"},
                                                   {kInvalidDevice, "CUDA_ERROR_INVALID_DEVICE"},
                                                   {kInvalidContext, "CUDA_ERROR_INVALID_CONTEXT"},
                                                   {kNoBinary, "CUDA_ERROR_NO_BINARY_FOR_GPU"},
                                                   {kNotFound, "CUDA_ERROR_NOT_FOUND"}};
  const auto found = names.find(error);
  *name = found == names.end() ? nullptr : found->second;
  return found == names.end() ? kInvalidValue : 0;
}

EXPORT int cuGetErrorString(int error, const char** words) {
  const char* name = nullptr;
  *words = cuGetErrorName(error, &name) ? nullptr : "words of the driver";
  return 0;
}
