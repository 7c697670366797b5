# A toolchain file that builds the C++ tests for aarch64 on another machine and runs them under QEMU (`make aarch64`).
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
find_program(FASTSSM_AARCH64_COMPILER aarch64-linux-gnu-g++)
find_program(FASTSSM_AARCH64_EMULATOR NAMES qemu-aarch64 qemu-aarch64-static)
if(NOT FASTSSM_AARCH64_COMPILER OR NOT FASTSSM_AARCH64_EMULATOR)
  message(FATAL_ERROR "The tests for aarch64 need aarch64-linux-gnu-g++ and qemu-aarch64 on the PATH; Debian and Ubuntu have them "
                      "in the packages g++-aarch64-linux-gnu and qemu-user.")
endif()
set(CMAKE_CXX_COMPILER ${FASTSSM_AARCH64_COMPILER})
set(CMAKE_CROSSCOMPILING_EMULATOR ${FASTSSM_AARCH64_EMULATOR} -L /usr/aarch64-linux-gnu)
set(CMAKE_FIND_ROOT_PATH /usr/aarch64-linux-gnu)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
