#include "driver.h"

#include <exception>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <unordered_map>

#include "driver_api.h"

namespace fastssm::cuda {
namespace {

int attribute(const Api& api, Device device, int which) {
  int value = 0;
  check(api, api.attribute(&value, which, device), "cuDeviceGetAttribute");
  return value;
}

// Makes a context current during its lifetime: CUDA's runtime may not have done so yet in this thread.
class Current {
 public:
  Current(const Api& api, Context context) : api_(api) {
    Context now = nullptr;
    check(api_, api_.current(&now), "cuCtxGetCurrent");
    if (now == context) return;
    check(api_, api_.push(context), "cuCtxPushCurrent");
    pushed_ = true;
  }
  Current(const Current&) = delete;
  Current& operator=(const Current&) = delete;
  ~Current() {
    Context popped;
    if (pushed_) api_.pop(&popped);
  }

 private:
  const Api& api_;
  bool pushed_ = false;
};

std::string words(const char* kernel, const Launch& how) {
  const auto& [x, y, z] = how.grid;
  return std::string("kernel ") + kernel + " (grid " + std::to_string(x) + " x " + std::to_string(y) + " x " +
         std::to_string(z) + ", " + std::to_string(how.threads) + " threads, " + std::to_string(how.shared) +
         " bytes of shared memory)";
}

// One device: the kernels loaded into torch's own context there, which is the primary one.
class Gpu : public Launcher {
 public:
  Gpu(int ordinal, const std::string& image) : api_(api()) {
    Device device = 0;
    check(api_, api_.device(&device, ordinal), "cuDeviceGet(" + std::to_string(ordinal) + ")");
    limits_ = {static_cast<size_t>(attribute(api_, device, kSharedPerBlockOptin)),
               attribute(api_, device, kMultiprocessors),
               10 * attribute(api_, device, kMajor) + attribute(api_, device, kMinor)};
    check(api_, api_.retain(&context_, device), "cuDevicePrimaryCtxRetain");
    const Current current(api_, context_);
    check(api_, api_.load(&module_, image.data()), "cuModuleLoadData");
  }

  const Limits& limits() const override { return limits_; }

  void launch(const char* name, const Launch& how, const void* parameters, size_t size, void* stream) override {
    const Current current(api_, context_);
    const Function function = prepared(name, how, size, static_cast<Stream>(stream));
    void* arguments[] = {const_cast<void*>(parameters)};
    const Result result =
        api_.launch(function, how.grid.x, how.grid.y, how.grid.z, how.threads, 1, 1, static_cast<unsigned>(how.shared),
                    static_cast<Stream>(stream), arguments, nullptr);
    if (result) check(api_, result, words(name, how));
  }

 private:
  struct Kernel {
    Function function;
    size_t shared;  // bytes of dynamic shared memory that it may use so far
  };

  Function prepared(const char* name, const Launch& how, size_t size, Stream stream) {
    const std::lock_guard<std::mutex> lock(mutex_);
    auto found = kernels_.find(name);
    if (found == kernels_.end()) found = kernels_.emplace(name, Kernel{looked_up(name, size, stream), 0}).first;
    Kernel& kernel = found->second;
    if (how.shared > kernel.shared) {
      const Result result = api_.set_attribute(kernel.function, kMaxDynamicShared, static_cast<int>(how.shared));
      if (result) check(api_, result, words(name, how));
      kernel.shared = how.shared;
    }
    return kernel.function;
  }

  // The driver may load a kernel's code only at this point, and must not do so while a stream is captured into a graph.
  Function looked_up(const std::string& name, size_t size, Stream stream) {
    int state = 0;
    if (api_.capturing(stream, &state) == 0 && state == kCapturing)
      throw std::runtime_error("kernel " + name + " is not loaded yet, and its stream is being captured; run the same "
                               "loss once before the capture");
    Function function = nullptr;
    check(api_, api_.function(&function, module_, name.c_str()), "kernel " + name);
    size_t offset = 0, expected = size;
    if (api_.parameter && api_.parameter(function, 0, &offset, &expected) == 0 && expected != size)
      throw std::runtime_error("kernel " + name + " takes " + std::to_string(expected) + " bytes of parameters, got " +
                               std::to_string(size) + ": the kernels and the library are of different versions; " +
                               "install fastssm again");
    return function;
  }

  const Api& api_;
  Limits limits_{};
  Context context_ = nullptr;
  Module module_ = nullptr;
  std::mutex mutex_;
  std::unordered_map<std::string, Kernel> kernels_;
};

struct Gpus {
  std::mutex mutex;
  std::map<int, std::unique_ptr<Gpu>> loaded;
  FastssmAsk ask = nullptr;
};

// Never destroyed, since at the end of a process the driver may be unloaded first.
Gpus& gpus() {
  static Gpus& all = *new Gpus;
  return all;
}

Gpu* loaded(int device, FastssmAsk& ask) {
  const std::lock_guard<std::mutex> lock(gpus().mutex);
  ask = gpus().ask;
  const auto found = gpus().loaded.find(device);
  return found == gpus().loaded.end() ? nullptr : found->second.get();
}

}  // namespace

void load(int device, const std::string& image) {
  const std::lock_guard<std::mutex> lock(gpus().mutex);
  auto found = gpus().loaded.find(device);
  if (found == gpus().loaded.end()) gpus().loaded.emplace(device, std::make_unique<Gpu>(device, image));
}

Launcher& launcher(int device) {
  FastssmAsk ask = nullptr;
  if (Gpu* gpu = loaded(device, ask)) return *gpu;
  char why[2048] = "they were never loaded";
  if (ask) ask(device, why, sizeof why);
  if (Gpu* gpu = loaded(device, ask)) return *gpu;
  throw std::runtime_error("the CUDA engine has no kernels on device " + std::to_string(device) + ": " + why);
}

}  // namespace fastssm::cuda

void fastssm_ask_for_kernels(FastssmAsk ask) {
  const std::lock_guard<std::mutex> lock(fastssm::cuda::gpus().mutex);
  fastssm::cuda::gpus().ask = ask;
}

const char* fastssm_load_kernels(int device, const char* path) {
  static thread_local std::string why;
  try {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw std::runtime_error(std::string("there is no file ") + path);
    std::string image{std::istreambuf_iterator<char>(file), {}};
    fastssm::cuda::load(device, image);  // PTX is text, and ends where the string does
    return nullptr;
  } catch (const std::exception& error) {
    why = error.what();
    return why.c_str();
  }
}
