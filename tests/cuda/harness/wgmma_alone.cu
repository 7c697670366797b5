// The one kernel that FASTSSM_WGMMA=1 adds, for nvcc.
#include "cuda/kernels/gemm_wgmma.cuh"
