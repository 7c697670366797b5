// The part of CUDA's driver API that the engine uses. Declared here, so that a build needs no cuda.h.
#pragma once

#include <string>

namespace fastssm::cuda {

using Result = int;  // 0 is success
using Device = int;
using Context = struct CUctx_st*;
using Module = struct CUmod_st*;
using Function = struct CUfunc_st*;
using Stream = struct CUstream_st*;

constexpr int kMultiprocessors = 16, kMajor = 75, kMinor = 76, kSharedPerBlockOptin = 97;  // attributes of a device
constexpr int kMaxDynamicShared = 8;                                                       // attribute of a function
constexpr int kCapturing = 1;                                                              // state of a stream

struct Api {
  Result (*init)(unsigned flags);
  Result (*device)(Device*, int ordinal);
  Result (*attribute)(int* value, int attribute, Device);
  Result (*retain)(Context*, Device);
  Result (*current)(Context*);
  Result (*push)(Context);
  Result (*pop)(Context*);
  Result (*load)(Module*, const void* image);
  Result (*function)(Function*, Module, const char* name);
  Result (*set_attribute)(Function, int attribute, int value);
  Result (*capturing)(Stream, int* state);
  Result (*launch)(Function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y,
                   unsigned block_z, unsigned shared, Stream, void** parameters, void** extra);
  Result (*error_name)(Result, const char**);
  Result (*error_string)(Result, const char**);
  Result (*parameter)(Function, size_t index, size_t* offset, size_t* size);  // null in drivers before 12.4
};

// The driver of this machine, opened and initialised by the first call. Raises std::runtime_error where that fails.
const Api& api();

// Raises std::runtime_error, "`what` failed: ..." with the driver's message, unless the result is success.
void check(const Api& api, Result result, const std::string& what);

}  // namespace fastssm::cuda
