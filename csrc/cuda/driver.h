// The launcher of real devices: CUDA's driver, opened when it is first needed, so that nothing of CUDA is linked and the
// library loads where there is none.
#pragma once

#include <string>

#include "launcher.h"

namespace fastssm::cuda {

// Load the kernels of a device: the bytes of a fat binary, a cubin or PTX. Once for each device; later calls do nothing.
// Raises std::runtime_error where there is no driver or no such device, or the image is not for it.
void load(int device, const std::string& image);

}  // namespace fastssm::cuda

// What Python calls.
extern "C" {

// `load` for a file: null, or why it failed, in words that last until this thread calls again.
__attribute__((visibility("default"))) const char* fastssm_load_kernels(int device, const char* path);

// Whom to ask for the kernels of a device that has none when it is to run some: it loads them, or says why not.
using FastssmAsk = void (*)(int device, char* why, size_t size);
__attribute__((visibility("default"))) void fastssm_ask_for_kernels(FastssmAsk ask);
}
