# The torch to build for: TORCH_ROOT, TORCH_VERSION, and TORCH_CUDA, empty where it is built without CUDA.
#
# It is the one beside the interpreter, also inside pip's isolated build: pip isolates by environment variables alone, and the
# same interpreter without them (-E) sees what is installed. torch's own CMake package would ask for a CUDA toolkit.
set(look "
import importlib.util, pathlib, runpy
root = pathlib.Path(importlib.util.find_spec('torch').origin).parent
version = runpy.run_path(str(root / 'version.py'))
print(root, version['__version__'], version.get('cuda') or '', sep=';')")
foreach(options IN ITEMS "" "-E")
  execute_process(COMMAND ${FASTSSM_PYTHON} ${options} -c "${look}" WORKING_DIRECTORY ${CMAKE_BINARY_DIR}
                  OUTPUT_VARIABLE found RESULT_VARIABLE status OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  if(status EQUAL 0)
    break()
  endif()
endforeach()
if(NOT status EQUAL 0)
  message(FATAL_ERROR "the build saw no torch; install torch, cmake, ninja, pybind11 and 'setuptools>=77', then run "
                      "`pip install --no-build-isolation .`")
endif()
foreach(name IN ITEMS TORCH_ROOT TORCH_VERSION TORCH_CUDA)
  list(POP_FRONT found value)
  if(NOT DEFINED ${name})  # a test may say otherwise
    set(${name} "${value}")
  endif()
endforeach()
