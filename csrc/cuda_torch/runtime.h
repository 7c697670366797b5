// A call's runtime: torch's memory and torch's products, on torch's stream.
#pragma once

#include <dlfcn.h>

#include "../cuda/runtime.h"
#include "stable.h"

#if defined(FASTSSM_EMULATED)
#define FASTSSM_ADDMM aoti_torch_cpu_addmm_out
#else
#define FASTSSM_ADDMM aoti_torch_cuda_addmm_out
#endif

#define FASTSSM_QUOTED(name) #name
#define FASTSSM_NAME(name) FASTSSM_QUOTED(name)

// Weak, since the library also loads with a torch without CUDA, which has no such function.
extern "C" __attribute__((weak, visibility("default"))) AOTITorchError FASTSSM_ADDMM(
    AtenTensorHandle out, AtenTensorHandle self, AtenTensorHandle a, AtenTensorHandle b, double beta, double alpha);

namespace fastssm::stable {

// The first of the weak functions that this torch does not have, or null.
inline const char* missing_symbol() {
  if (!FASTSSM_ADDMM) return FASTSSM_NAME(FASTSSM_ADDMM);
#if !defined(FASTSSM_EMULATED)
  if (!aoti_torch_get_current_cuda_stream) return "aoti_torch_get_current_cuda_stream";
#endif
  return nullptr;
}

constexpr size_t kAligned = 256;  // torch's device memory has this alignment anyway

inline void multiply(const Tensor& a, const Tensor& b, const Tensor& out) {
  using torch::stable::detail::from;
  call<3>("aten::mm", "out", {from(a), from(b), from(out)});
}

// out += a b, by the function that torch exports for the code of its compiler. The dispatcher's addmm takes factors of
// type Scalar, which torch's stable interface cannot pass.
inline void multiply_and_add(const Tensor& a, const Tensor& b, const Tensor& out) {
  check(FASTSSM_ADDMM(out.get(), out.get(), a.get(), b.get(), 1.0, 1.0), "addmm");
}

// cuBLAS's product of the library that torch has loaded, or null.
inline cuda::Cublas::Gemm cublas_gemm() {
  static const auto found = [] {
    void* gemm = dlsym(RTLD_DEFAULT, "cublasGemmEx");
    for (const char* name : {"libcublas.so.13", "libcublas.so.12"}) {
      void* library = gemm ? nullptr : dlopen(name, RTLD_LAZY | RTLD_NOLOAD);
      if (library) gemm = dlsym(library, "cublasGemmEx");
    }
    return reinterpret_cast<cuda::Cublas::Gemm>(gemm);
  }();
  return found;
}

// The device and stream of a call, and its memory, which it frees at its end: torch reuses that memory only for later
// work on the same stream.
template <class T>
class Session {
 public:
  Session(const Tensor& x, cuda::Precision precision) : place_(x), x_(x), precision_(precision) {}

  cuda::Runtime<T> runtime() {
    const auto product = [this](cuda::View<const T> a, cuda::View<const T> b, cuda::View<T> c, bool accumulate) {
      accumulate ? multiply_and_add(view(a), view(b), view(c)) : multiply(view(a), view(b), view(c));
    };
    return {.launcher = cuda::launcher(place_.device),
            .stream = place_.stream,
            .product = product,
            .allocate = [this](size_t bytes) { return allocate(bytes); },
            .precision = precision_,
            .cublas = cublas()};
  }

 private:
  // With torch's handle, on torch's stream, and nothing where torch or cuBLAS does not have what it takes.
  cuda::Cublas cublas() const {
    if (!rounds(precision_) || !torch_get_current_cuda_blas_handle) return {};
    cuda::Cublas found{.handle = nullptr, .gemm = cublas_gemm()};
    if (found.gemm) check(torch_get_current_cuda_blas_handle(&found.handle), "torch_get_current_cuda_blas_handle");
    return found;
  }

  template <class S>
  Tensor view(const cuda::View<S>& m) const {
    const int64_t sizes[] = {m.rows, m.columns}, strides[] = {m.row_stride, m.column_stride};
    return torch::stable::from_blob(const_cast<T*>(m.p), {sizes, 2}, {strides, 2}, x_.device(), dtype_of<T>);
  }

  void* allocate(size_t bytes) {
    const auto size = static_cast<int64_t>(bytes + kAligned - 1);
    memory_.push_back(torch::stable::new_empty(x_, {&size, 1}, ScalarType::Byte));
    const auto start = reinterpret_cast<uintptr_t>(memory_.back().mutable_data_ptr());
    return reinterpret_cast<void*>((start + kAligned - 1) / kAligned * kAligned);
  }

  Place place_;
  const Tensor& x_;
  cuda::Precision precision_;
  std::vector<Tensor> memory_;
};

}  // namespace fastssm::stable
