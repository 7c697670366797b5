// What call.h needs of torch, by its stable interface: the library links nothing of CUDA, and runs with later versions
// of torch than the one it was built with.
#pragma once

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

// Functions that torch exports outside its stable interface of 2.10. Weak, since the library also loads where torch
// does not have them; `missing_symbol` in runtime.h returns which needed one is absent.
extern "C" {
__attribute__((weak, visibility("default"))) AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device_index,
                                                                                             void** stream);
__attribute__((weak, visibility("default"))) AOTITorchError torch_get_current_cuda_blas_handle(void** handle);
__attribute__((weak, visibility("default"))) const char* torch_exception_get_what_without_backtrace();  // from 2.13 on
}

namespace fastssm::stable {

// Raises with torch's own message, where it provides one, unless one of its C functions succeeded.
inline void check(AOTITorchError code, const char* what) {
  if (code == TORCH_SUCCESS) return;
  const char* why = torch_exception_get_what_without_backtrace ? torch_exception_get_what_without_backtrace() : nullptr;
  throw std::runtime_error(why ? std::string(why) : std::string("torch's ") + what + " failed");
}

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Optional = std::optional<Tensor>;

template <class T>
constexpr ScalarType dtype_of = std::is_same_v<T, double> ? ScalarType::Double : ScalarType::Float;

struct Stable {
  using Tensor = torch::stable::Tensor;
  using Tensors = std::vector<Tensor>;
  using Sizes = torch::headeronly::IntHeaderOnlyArrayRef;

  template <class T>
  static Tensor prepared(const Tensor& t) {
    const Tensor out = converted(t, dtype_of<T>);
    return out.is_contiguous() ? out : torch::stable::contiguous(out);
  }

  template <class T>
  static Tensor empty(const Sizes& sizes, const Tensor& like) {
    return torch::stable::new_empty(like, sizes, dtype_of<T>);
  }

  template <class T>
  static std::vector<Tensor> gradients(const Tensor* like, size_t count, bool packed);  // flat.h

  static Tensor narrowed(const Tensor& gradient, const Tensor& like) {
    return converted(gradient, like.scalar_type());
  }

 private:
  static Tensor converted(const Tensor& t, ScalarType dtype) {
    return t.scalar_type() == dtype ? t : torch::stable::to(t, dtype);
  }
};

// The device of a call's data, current during the lifetime of this object, and torch's stream there.
#if defined(FASTSSM_EMULATED)
struct Place {
  explicit Place(const Tensor&) {}
  int device = 0;
  void* stream = nullptr;
};
#else
struct Place {
  explicit Place(const Tensor& x) : device(x.get_device_index()), guard(device) {
    check(aoti_torch_get_current_cuda_stream(device, &stream), "aoti_torch_get_current_cuda_stream");
  }
  int device;
  torch::stable::accelerator::DeviceGuard guard;
  void* stream = nullptr;
};
#endif

// A string argument. Torch 2.13's own conversion to std::string leaks its memory.
inline std::string taken(StringHandle given) {
  const char* text = nullptr;
  size_t length = 0;
  check(torch_string_length(given, &length), "torch_string_length");
  check(torch_string_c_str(given, &text), "torch_string_c_str");
  std::string out(text, length);
  check(torch_delete_string(given), "torch_delete_string");
  return out;
}

// Calls an operator of torch on the stack of its arguments, and returns its result, a tensor.
template <size_t N>
Tensor call(const char* name, const char* overload, std::array<StableIValue, N> stack) {
  check(torch_call_dispatcher(name, overload, stack.data(), TORCH_ABI_VERSION), name);
  return torch::stable::detail::to<Tensor>(stack[0]);
}

}  // namespace fastssm::stable
