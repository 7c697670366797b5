// The launcher of GPUs. It opens CUDA's driver on first use, so the library links nothing of CUDA, and loads also where
// there is none.
#pragma once

#include <string>

#include "launcher.h"

namespace fastssm::cuda {

// Loads the kernels of a device: the bytes of a fat binary, a cubin or PTX. Only the first call for a device does
// anything. Raises std::runtime_error where there is no driver or no such device, or the image is not for it.
void load(int device, const std::string& image);

}  // namespace fastssm::cuda

// Python calls these.
extern "C" {

// `load` for a file. Returns null, or why it failed: a text that stays valid until this thread calls again.
__attribute__((visibility("default"))) const char* fastssm_load_kernels(int device, const char* path);

// Sets what a launch calls on a device without kernels. The callback loads the kernels, or writes to `why`.
using FastssmAsk = void (*)(int device, char* why, size_t size);
__attribute__((visibility("default"))) void fastssm_ask_for_kernels(FastssmAsk ask);
}
