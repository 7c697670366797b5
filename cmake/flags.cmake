# What is compiled and how: every flag and every list of files is written here, once. CMakeLists.txt includes this file,
# and `cmake -P cmake/describe.cmake` prints it as JSON for tests and tools.
set(FASTSSM_ROOT ${CMAKE_CURRENT_LIST_DIR}/..)
cmake_path(NORMAL_PATH FASTSSM_ROOT)
set(FASTSSM_MACHINE "${CMAKE_SYSTEM_PROCESSOR}")  # what is built for; a script that only asks has no such thing
if(NOT FASTSSM_MACHINE)
  cmake_host_system_information(RESULT FASTSSM_MACHINE QUERY OS_PLATFORM)
endif()

# Every C++ file; the caller's CXXFLAGS come last.
set(FASTSSM_FLAGS -std=c++20 -O3 -ffp-contract=fast -fno-math-errno -fvisibility=hidden -fvisibility-inlines-hidden
    -fPIC -Wall -Wextra)

# The kernels are compiled once for each of these instruction sets; only x86-64 has more than the first.
set(FASTSSM_LEVELS baseline)
set(FASTSSM_LEVEL_baseline)
if(FASTSSM_MACHINE MATCHES "^(x86_64|AMD64)$")
  list(APPEND FASTSSM_LEVELS avx2 avx512)
  set(FASTSSM_LEVEL_avx2 -mavx2 -mfma)
  set(FASTSSM_LEVEL_avx512 -mavx512f -mavx512dq -mavx512bw -mavx512vl -mavx2 -mfma)
  if(NOT CMAKE_CXX_COMPILER_ID MATCHES "Clang")  # with 32 registers, GCC may as well interleave what kernels.cpp unrolls, as Clang does
    list(APPEND FASTSSM_LEVEL_avx512 -fschedule-insns -fsched-pressure)
  endif()
endif()

# Files that include torch's headers take a gigabyte at -O3. OpenMP, because at::parallel_for is inlined in them. Apple's
# compiler knows OpenMP by this option alone; omp.h comes with torch there.
set(FASTSSM_OPENMP -fopenmp)
if(APPLE)
  set(FASTSSM_OPENMP -Xclang -fopenmp)
endif()
set(FASTSSM_TORCH_FLAGS -O2 ${FASTSSM_OPENMP} -DAT_PER_OPERATOR_HEADERS)

# The CUDA engine's operators use torch's stable interface, that of this version.
set(FASTSSM_OLDEST_TORCH 2.10)
set(FASTSSM_STABLE_FLAGS -O2 -DTORCH_TARGET_VERSION=0x020a000000000000)

# The CUDA kernels, by nvcc for each of these architectures.
set(FASTSSM_KERNEL_FLAGS -std=c++17 -O3)
set(FASTSSM_ARCHITECTURES 75 80 86 89 90 100 120)

# The environment's FASTSSM_WGMMA=1 adds a kernel that has not run on a GPU, of instructions that only sm_90a has.
set(FASTSSM_CUDA_FLAGS)
if("$ENV{FASTSSM_WGMMA}" STREQUAL "1")
  set(FASTSSM_CUDA_FLAGS -DFASTSSM_WGMMA)
  list(APPEND FASTSSM_KERNEL_FLAGS ${FASTSSM_CUDA_FLAGS})
  set(FASTSSM_SUFFIX_90 a)
endif()

# Files, by folder: a new one needs no entry. Only what is in `torch` and `stable` includes torch's headers.
function(fastssm_files name)
  list(TRANSFORM ARGN PREPEND ${FASTSSM_ROOT}csrc/ OUTPUT_VARIABLE patterns)
  if(CMAKE_SCRIPT_MODE_FILE)
    file(GLOB found ${patterns})
  else()
    file(GLOB found CONFIGURE_DEPENDS ${patterns})
  endif()
  set(FASTSSM_FILES_${name} ${found} PARENT_SCOPE)
endfunction()
fastssm_files(kernels cpu/kernels/*.cpp)
fastssm_files(engine cpu/*.cpp)
fastssm_files(torch torch/*.cpp)
fastssm_files(cuda cuda/*.cpp)
fastssm_files(stable cuda_torch/*.cpp)
fastssm_files(cuda_kernels cuda/kernels/kernels.cu)
