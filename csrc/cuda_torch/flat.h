// Gradients as parts of one buffer: one allocation for them, and one product to scale them.
#pragma once

#include <cstdint>
#include <vector>

#include "stable.h"

namespace fastssm::stable {

constexpr int64_t kPartAligned = 256;  // bytes

// A contiguous part of the memory of t, that begins so many elements after t. It calls no operator.
inline Tensor part(const Tensor& t, const Stable::Sizes& sizes, int64_t offset) {
  std::vector<int64_t> strides(sizes.size(), 1);
  for (size_t i = sizes.size(); i-- > 1;) strides[i - 1] = strides[i] * sizes[i];
  AtenTensorHandle out = nullptr;
  check(aoti_torch__reinterpret_tensor(t.get(), static_cast<int64_t>(sizes.size()), sizes.data(), strides.data(),
                                       offset, &out),
        "reinterpret_tensor");
  return Tensor(out);
}

inline int64_t offset_of(const Tensor& t) {
  int64_t offset = 0;
  check(aoti_torch_get_storage_offset(t.get(), &offset), "get_storage_offset");
  return offset;
}

template <class T>
std::vector<Tensor> Stable::gradients(const Tensor* like, size_t count, bool packed) {
  std::vector<Tensor> out;
  if (!packed)
    for (size_t i = 0; i < count; i++) out.push_back(empty<T>(like[i].sizes(), like[i]));
  if (!packed || count == 0) return out;
  constexpr int64_t aligned = kPartAligned / static_cast<int64_t>(sizeof(T));
  std::vector<int64_t> offsets(count + 1, 0);
  for (size_t i = 0; i < count; i++) offsets[i + 1] = offsets[i] + (like[i].numel() + aligned - 1) / aligned * aligned;
  const Tensor buffer = empty<T>({&offsets[count], 1}, *like);
  for (size_t i = 0; i < count; i++) out.push_back(part(buffer, like[i].sizes(), offsets[i]));
  return out;
}

// Whether b follows a in the same buffer.
inline bool follows(const Tensor& a, const Tensor& b) {
  const auto start = [](const Tensor& t) {
    return reinterpret_cast<uintptr_t>(t.const_data_ptr()) - static_cast<uintptr_t>(offset_of(t) * t.element_size());
  };
  return a.is_contiguous() && b.is_contiguous() && a.scalar_type() == b.scalar_type() && a.device() == b.device() &&
         start(a) == start(b) && offset_of(b) >= offset_of(a) + a.numel();
}

// Tensors times a number; those of one buffer by one product.
inline std::vector<Tensor> scaled(const std::vector<Tensor>& given, const Tensor& factor) {
  const auto times = [&](const Tensor& t) {
    using torch::stable::detail::from;
    return call<2>("aten::mul", "Tensor", {from(t), from(factor)});
  };
  std::vector<Tensor> out;
  for (size_t first = 0, end = 0; first < given.size(); first = end) {
    for (end = first + 1; end < given.size() && follows(given[end - 1], given[end]);) end++;
    if (end == first + 1) {
      out.push_back(times(given[first]));
      continue;
    }
    const int64_t begin = offset_of(given[first]), size = offset_of(given[end - 1]) + given[end - 1].numel() - begin;
    const Tensor buffer = times(part(given[first], {&size, 1}, 0));
    for (size_t i = first; i < end; i++) out.push_back(part(buffer, given[i].sizes(), offset_of(given[i]) - begin));
  }
  return out;
}

}  // namespace fastssm::stable
