#include "driver_api.h"

#include <dlfcn.h>

#include <stdexcept>

namespace fastssm::cuda {
namespace {

constexpr const char* kLibrary = "libcuda.so.1";

void* opened() {
  void* library = dlopen(kLibrary, RTLD_NOW | RTLD_LOCAL);
  if (library) return library;
  const char* why = dlerror();
  throw std::runtime_error(std::string("the NVIDIA driver cannot be opened (") + (why ? why : kLibrary) +
                           "); install it, or use another backend");
}

template <class F>
void find(void* library, const char* name, F& function, bool optional = false) {
  function = reinterpret_cast<F>(dlsym(library, name));
  if (!function && !optional)
    throw std::runtime_error(std::string("the NVIDIA driver has no ") + name + "; install a newer one");
}

Api initialised() {
  void* library = opened();
  Api api{};
  find(library, "cuInit", api.init);
  find(library, "cuDeviceGet", api.device);
  find(library, "cuDeviceGetAttribute", api.attribute);
  find(library, "cuDevicePrimaryCtxRetain", api.retain);
  find(library, "cuCtxGetCurrent", api.current);
  find(library, "cuCtxPushCurrent_v2", api.push);
  find(library, "cuCtxPopCurrent_v2", api.pop);
  find(library, "cuModuleLoadData", api.load);
  find(library, "cuModuleGetFunction", api.function);
  find(library, "cuFuncSetAttribute", api.set_attribute);
  find(library, "cuStreamIsCapturing", api.capturing);
  find(library, "cuLaunchKernel", api.launch);
  find(library, "cuGetErrorName", api.error_name);
  find(library, "cuGetErrorString", api.error_string);
  find(library, "cuFuncGetParamInfo", api.parameter, true);
  check(api, api.init(0), "cuInit");
  return api;
}

}  // namespace

const Api& api() {
  static const Api found = initialised();  // where this raises, the next call tries again
  return found;
}

void check(const Api& api, Result result, const std::string& what) {
  if (result == 0) return;
  const char *name = nullptr, *words = nullptr;
  api.error_name(result, &name);
  api.error_string(result, &words);
  throw std::runtime_error(what + " failed: " + (words ? words : "unknown error") + " (" +
                           (name ? name : std::to_string(result)) + ")");
}

}  // namespace fastssm::cuda
