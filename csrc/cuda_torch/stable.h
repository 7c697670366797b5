// What call.h asks of torch, by its stable interface: the library then links nothing of CUDA, and one that was built with
// some torch runs with later ones.
#pragma once

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <string>
#include <type_traits>
#include <vector>

namespace fastssm::stable {

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
  explicit Place(const Tensor& x)
      : device(x.get_device_index()),
        guard(device),
        stream(torch::stable::accelerator::getCurrentStream(device).nativeHandle()) {}
  int device;
  torch::stable::accelerator::DeviceGuard guard;
  void* stream;
};
#endif

// A string argument. Torch 2.13's own conversion to std::string allocates one that nobody frees.
inline std::string taken(StringHandle given) {
  const char* text = nullptr;
  size_t length = 0;
  STABLE_TORCH_ERROR_CODE_CHECK(torch_string_length(given, &length));
  STABLE_TORCH_ERROR_CODE_CHECK(torch_string_c_str(given, &text));
  std::string out(text, length);
  STABLE_TORCH_ERROR_CODE_CHECK(torch_delete_string(given));
  return out;
}

// Call an operator of torch on the stack of its arguments, and return the tensor it returns.
template <size_t N>
Tensor call(const char* name, const char* overload, std::array<StableIValue, N> stack) {
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher(name, overload, stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

}  // namespace fastssm::stable
