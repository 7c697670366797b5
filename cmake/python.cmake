# What setup.py builds and Python loads, into package/ of the build folder: the module _C, and the CUDA engine. What is built
# for what is written to facts.json. Variables: FASTSSM_PYTHON, the interpreter; FASTSSM_BUILD, auto, cpu or cuda.
set(PACKAGE ${CMAKE_BINARY_DIR}/package)
set(Python_EXECUTABLE ${FASTSSM_PYTHON})
find_package(Python 3.10 REQUIRED COMPONENTS Interpreter Development.Module)
include(cmake/torch.cmake)
include(CheckCXXSourceCompiles)
list(JOIN FASTSSM_OPENMP " " openmp)
set(CMAKE_REQUIRED_FLAGS "-std=c++20 ${openmp}")
if(APPLE)  # there torch brings omp.h, and the library is looked for when the module is loaded
  set(CMAKE_REQUIRED_INCLUDES ${TORCH_ROOT}/include)
  set(CMAKE_REQUIRED_LINK_OPTIONS -undefined dynamic_lookup)
endif()
check_cxx_source_compiles("
#include <concepts>
#include <omp.h>
int main() { return omp_get_max_threads() == 0; }" FASTSSM_COMPILES)
if(NOT FASTSSM_COMPILES)
  message(FATAL_ERROR "${CMAKE_CXX_COMPILER} cannot compile C++20 with OpenMP")
endif()
set(PYBIND11_FINDPYTHON ON)
execute_process(COMMAND ${FASTSSM_PYTHON} -m pybind11 --cmakedir OUTPUT_VARIABLE pybind11_DIR
                OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
find_package(pybind11 CONFIG QUIET)
if(NOT pybind11_FOUND)
  message(FATAL_ERROR "there is no pybind11; `pip install pybind11` brings it")
endif()

# Modules are linked to torch, which is loaded before them (so no path to it), and to no OpenMP beside torch's own. What GCC
# calls of OpenMP is left undefined, and found in the library that torch brings, under whatever name. Clang calls a library
# of its own. On macOS all of torch is found in this way.
set(CMAKE_SHARED_LINKER_FLAGS "")
set(CMAKE_MODULE_LINKER_FLAGS "")
set(CMAKE_SKIP_RPATH ON)
separate_arguments(last_libraries UNIX_COMMAND "$ENV{LDFLAGS}")
if(CMAKE_CXX_COMPILER_ID MATCHES "Clang" AND NOT APPLE)
  list(PREPEND last_libraries -fopenmp)
endif()
function(fastssm_link target)
  if(APPLE)
    target_link_options(${target} PRIVATE -undefined dynamic_lookup)
  else()
    target_link_libraries(${target} PRIVATE -L${TORCH_ROOT}/lib ${ARGN})
  endif()
  target_link_libraries(${target} PRIVATE ${last_libraries})
  set_target_properties(${target} PROPERTIES LIBRARY_OUTPUT_DIRECTORY ${PACKAGE})
endfunction()

# Include torch's headers. Those of pybind11 come from its own package, and before those that torch brings; only bindings.cpp
# and guarded_call.cpp see them, for they lie elsewhere in each isolated build. Another torch has everything compiled again.
function(fastssm_with_torch target)
  target_include_directories(${target} SYSTEM PRIVATE ${TORCH_ROOT}/include ${TORCH_ROOT}/include/torch/csrc/api/include)
  target_compile_definitions(${target} PRIVATE FASTSSM_TORCH="${TORCH_VERSION}")
endfunction()

set(bindings ${FASTSSM_FILES_torch})
list(FILTER bindings INCLUDE REGEX "/(bindings|guarded_call)\\.cpp$")
list(REMOVE_ITEM FASTSSM_FILES_torch ${bindings})
add_library(on_torch OBJECT ${FASTSSM_FILES_torch})
target_include_directories(on_torch SYSTEM PRIVATE ${Python_INCLUDE_DIRS})
pybind11_add_module(_C MODULE NO_EXTRAS ${bindings} $<TARGET_OBJECTS:on_torch> ${engine_objects})
target_include_directories(_C SYSTEM PRIVATE ${pybind11_INCLUDE_DIRS})
foreach(target IN ITEMS on_torch _C)
  fastssm_compile(${target} ${FASTSSM_TORCH_FLAGS})
  fastssm_with_torch(${target})
endforeach()
fastssm_link(_C -ltorch_python -ltorch_cpu -ltorch -lc10)

execute_process(COMMAND ${CMAKE_CXX_COMPILER} --version OUTPUT_VARIABLE compiler)
string(REGEX MATCH "^[^\n]*" compiler "${compiler}")
include(cmake/cuda.cmake)
list(JOIN FASTSSM_LEVELS "\", \"" levels)
file(WRITE ${CMAKE_BINARY_DIR}/facts.json "{
  \"torch\": \"${TORCH_VERSION}\",
  \"python\": \"${Python_VERSION_MAJOR}.${Python_VERSION_MINOR}\",
  \"pybind11\": \"${pybind11_VERSION}\",
  \"compiler\": \"${compiler}\",
  \"levels\": [\"${levels}\"],
  \"cuda\": {${cuda_facts}}
}
")
