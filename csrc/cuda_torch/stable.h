// What call.h asks of torch, by its stable interface: the library then links nothing of CUDA, and one that was built with
// some torch runs with later ones.
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

// What torch exports beside its stable interface of 2.10. Weak, since not every torch has them, and the library loads
// there too; `missing_symbol` in runtime.h says which of those that it needs are absent.
extern "C" {
__attribute__((weak, visibility("default"))) AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device_index,
                                                                                             void** stream);
__attribute__((weak, visibility("default"))) const char* torch_exception_get_what_without_backtrace();  // from 2.13 on
}

namespace fastssm::stable {

// Raise in torch's own words, where it hands them on, unless one of its C functions succeeded.
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

  static Tensor narrowed(const Tensor& gradient, const Tensor& like) {
    return converted(gradient, like.scalar_type());
  }

 private:
  static Tensor converted(const Tensor& t, ScalarType dtype) {
    return t.scalar_type() == dtype ? t : torch::stable::to(t, dtype);
  }
};

// Where a call runs: the device of its data, current for as long as this lives, and torch's stream there.
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

// A string argument. Torch 2.13's own conversion to std::string allocates one that nobody frees.
inline std::string taken(StringHandle given) {
  const char* text = nullptr;
  size_t length = 0;
  check(torch_string_length(given, &length), "torch_string_length");
  check(torch_string_c_str(given, &text), "torch_string_c_str");
  std::string out(text, length);
  check(torch_delete_string(given), "torch_delete_string");
  return out;
}

// Call an operator of torch on the stack of its arguments, and return the tensor it returns.
template <size_t N>
Tensor call(const char* name, const char* overload, std::array<StableIValue, N> stack) {
  check(torch_call_dispatcher(name, overload, stack.data(), TORCH_ABI_VERSION), name);
  return torch::stable::detail::to<Tensor>(stack[0]);
}

}  // namespace fastssm::stable
