# The CUDA kernels: kernels_80 and the like compile a cubin for one architecture, and say what ptxas says of it;
# `kernels` is all of them. -DFASTSSM_WHEELS=python has nvcc looked for among the packages of a Python too.
fastssm_find_nvcc(nvcc "${FASTSSM_WHEELS}")
if(NOT nvcc)
  return()
endif()
add_custom_target(kernels)
foreach(architecture IN LISTS FASTSSM_ARCHITECTURES)
  set(name kernels_${architecture})
  set(cubin ${CMAKE_BINARY_DIR}/${name}.cubin)
  add_custom_command(OUTPUT ${cubin} DEPFILE ${cubin}.d DEPENDS ${FASTSSM_FILES_cuda_kernels}
    COMMAND ${nvcc} -cubin -arch=sm_${architecture}${FASTSSM_SUFFIX_${architecture}} ${FASTSSM_KERNEL_FLAGS} -Xptxas=-v -MD -MF ${cubin}.d
            ${FASTSSM_FILES_cuda_kernels} -o ${cubin} VERBATIM)
  add_custom_target(${name} DEPENDS ${cubin})
  add_dependencies(kernels ${name})
endforeach()
