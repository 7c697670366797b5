// Stores of 16 bytes to shared memory: for older architectures nvcc would split a plain store into single numbers.
#pragma once

#include "pack.cuh"

namespace fastssm::cuda {

#if defined(FASTSSM_EMULATOR)
template <class T>
FASTSSM_DEVICE void store_shared(T* p, const Pack<T>& a) {
  *reinterpret_cast<Pack<T>*>(p) = a;
}
#else
FASTSSM_DEVICE unsigned shared_address(const void* p) { return static_cast<unsigned>(__cvta_generic_to_shared(p)); }

FASTSSM_DEVICE void store_shared(float* p, const Pack<float>& a) {
  asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(shared_address(p)), "f"(a.lane[0]), "f"(a.lane[1]),
               "f"(a.lane[2]), "f"(a.lane[3])
               : "memory");
}

FASTSSM_DEVICE void store_shared(double* p, const Pack<double>& a) {
  asm volatile("st.shared.v2.f64 [%0], {%1, %2};" ::"r"(shared_address(p)), "d"(a.lane[0]), "d"(a.lane[1]) : "memory");
}
#endif

}  // namespace fastssm::cuda
