// NVIDIA's own calculation of occupancy, which ships as a header of the CUDA toolkit, for test_static.py.
#include <cuda_occupancy.h>

extern "C" int fastssm_occupancy(int capability, int threads_per_multiprocessor, int shared_per_multiprocessor,
                                 int shared_per_block, int reserved, int threads, int registers, int shared) {
  cudaOccDeviceProp device;
  device.computeMajor = capability / 10;
  device.computeMinor = capability % 10;
  device.maxThreadsPerBlock = 1024;
  device.maxThreadsPerMultiprocessor = threads_per_multiprocessor;
  device.regsPerBlock = device.regsPerMultiprocessor = 65536;
  device.warpSize = 32;
  device.sharedMemPerBlock = 48 << 10;
  device.sharedMemPerMultiprocessor = shared_per_multiprocessor;
  device.sharedMemPerBlockOptin = shared_per_block;
  device.reservedSharedMemPerBlock = reserved;
  device.numSms = 1;
  cudaOccFuncAttributes kernel;
  kernel.maxThreadsPerBlock = threads;
  kernel.numRegs = registers;
  kernel.sharedSizeBytes = 0;
  kernel.partitionedGCConfig = PARTITIONED_GC_OFF;
  kernel.shmemLimitConfig = FUNC_SHMEM_LIMIT_OPTIN;
  kernel.maxDynamicSharedSizeBytes = shared_per_block;
  kernel.numBlockBarriers = 1;
  cudaOccDeviceState state;
  state.carveoutConfig = SHAREDMEM_CARVEOUT_MAX_SHARED;
  cudaOccResult result;
  return cudaOccMaxActiveBlocksPerMultiprocessor(&result, &device, &kernel, &state, threads, shared)
             ? -1
             : result.activeBlocksPerMultiprocessor;
}
