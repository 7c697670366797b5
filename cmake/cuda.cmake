# The CUDA engine: _cuda.so by the C++ compiler alone, and its kernels as source for NVRTC or, where FASTSSM_BUILD=cuda asks
# for it, by nvcc for every architecture. Writes what is built, or why nothing is, as members of JSON to cuda_facts.
set(reason "")
if(FASTSSM_BUILD STREQUAL "cpu")
  set(reason "FASTSSM_BUILD=cpu asked for the CPU engine alone")
elseif(APPLE)
  set(reason "there is no CUDA on macOS")
elseif(TORCH_VERSION VERSION_LESS FASTSSM_OLDEST_TORCH)
  set(reason "torch ${TORCH_VERSION} cannot have it; it takes torch ${FASTSSM_OLDEST_TORCH} or later")
elseif(FASTSSM_BUILD STREQUAL "auto" AND TORCH_CUDA STREQUAL "")
  set(reason "torch ${TORCH_VERSION} is built without CUDA; FASTSSM_BUILD=cuda builds it all the same")
elseif(FASTSSM_BUILD STREQUAL "cuda")
  fastssm_find_nvcc(nvcc ${FASTSSM_PYTHON})
  if(NOT nvcc)
    set(reason "there is no nvcc; it was looked for in CUDA_HOME, on the PATH and among Python's packages, where `pip install \
nvidia-cuda-nvcc nvidia-cuda-crt nvidia-nvvm nvidia-cuda-runtime nvidia-cuda-cccl` puts one")
  endif()
endif()
if(reason)
  set(cuda_facts "\"reason\": \"${reason}\"")
  return()
endif()

# Beside a torch without CUDA the linker needs nothing of libtorch.so, and would drop it; but beside one with CUDA it is what
# leads to libtorch_cuda.so and the products there.
add_library(_cuda MODULE EXCLUDE_FROM_ALL ${FASTSSM_FILES_stable} $<TARGET_OBJECTS:cuda_host>)
set_target_properties(_cuda PROPERTIES PREFIX "")
fastssm_compile(_cuda ${FASTSSM_STABLE_FLAGS})
fastssm_with_torch(_cuda)
fastssm_link(_cuda -Wl,--no-as-needed -ltorch -Wl,--as-needed -ltorch_cpu -lc10 -ldl)

file(GLOB headers CONFIGURE_DEPENDS csrc/*/*.h csrc/cuda/kernels/*)
add_custom_command(OUTPUT ${PACKAGE}/_kernels.cu DEPENDS ${headers} tools/amalgamate.py
  COMMAND ${FASTSSM_PYTHON} tools/amalgamate.py ${FASTSSM_FILES_cuda_kernels} ${FASTSSM_ROOT} ${PACKAGE}/_kernels.cu ${FASTSSM_CUDA_FLAGS}
  WORKING_DIRECTORY ${FASTSSM_ROOT} VERBATIM)
set(outputs ${PACKAGE}/_kernels.cu)
set(cuda_facts "\"torch\": \"${FASTSSM_OLDEST_TORCH}\", \"compiler\": \"${compiler}\"")

if(nvcc)
  fastssm_architectures(architectures targets)
  set(image ${PACKAGE}/_kernels.fatbin)
  set(threads 0)  # as many as there are processors
  if("$ENV{MAX_JOBS}" MATCHES "^[0-9]+$")
    set(threads $ENV{MAX_JOBS})
  endif()
  list(JOIN architectures ", " listed)
  add_custom_command(OUTPUT ${image} DEPFILE ${image}.d DEPENDS ${FASTSSM_FILES_cuda_kernels}
    COMMAND ${nvcc} -fatbin ${FASTSSM_KERNEL_FLAGS} ${targets} --threads=${threads} -MD -MF ${image}.d
            ${FASTSSM_FILES_cuda_kernels} -o ${image}
    COMMENT "CUDA kernels by ${nvcc} for ${listed}" VERBATIM)
  list(APPEND outputs ${image})
  execute_process(COMMAND ${nvcc} --version OUTPUT_VARIABLE version)
  if(NOT version MATCHES "V([0-9]+\\.[0-9]+\\.[0-9]+)")
    message(FATAL_ERROR "${nvcc} does not say which version it is")
  endif()
  list(JOIN architectures "\", \"" listed)
  string(APPEND cuda_facts ", \"nvcc\": \"${CMAKE_MATCH_1}\", \"architectures\": [\"${listed}\"]")
endif()
add_custom_target(cuda DEPENDS _cuda ${outputs})
