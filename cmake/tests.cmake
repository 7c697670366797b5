# The C++ tests: one program and one test for each file of csrc/tests.
find_package(Threads REQUIRED)
enable_testing()
add_compile_options(-Werror)  # of what is added below
foreach(target IN ITEMS engine cuda_host)
  target_compile_options(${target} PRIVATE -Werror)
endforeach()

# Of equal weak symbols the linker keeps one, perhaps that of a level, and would run it on any processor: they must name the level.
foreach(level IN LISTS FASTSSM_LEVELS)
  target_compile_options(kernels_${level} PRIVATE -Werror)
  if(FASTSSM_LEVEL_${level} AND NOT FASTSSM_SANITIZE)
    add_test(NAME symbols_of_${level} COMMAND_EXPAND_LISTS
             COMMAND sh -c "! nm --defined-only \"$@\" | grep ' [uVvWw] ' | grep -v ${level}" nm $<TARGET_OBJECTS:kernels_${level}>)
  endif()
endforeach()

# A block of a product must fit the registers. (Of x86-64 the products' times say so; of aarch64 there may be none.)
if(FASTSSM_MACHINE MATCHES "^(aarch64|arm64)$" AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND NOT FASTSSM_SANITIZE)
  add_test(NAME spills COMMAND_EXPAND_LISTS
           COMMAND sh ${FASTSSM_ROOT}cmake/spills.sh ${CMAKE_OBJDUMP} $<TARGET_OBJECTS:kernels_baseline>)
endif()

# The driver that the tests have instead of NVIDIA's.
add_library(fake_driver SHARED csrc/tests/driver/libcuda.cpp)
fastssm_compile(fake_driver)
set_target_properties(fake_driver PROPERTIES OUTPUT_NAME cuda SOVERSION 1 LIBRARY_OUTPUT_DIRECTORY fake_driver)

file(GLOB sources CONFIGURE_DEPENDS csrc/tests/*.cpp)
if(FASTSSM_SANITIZE STREQUAL "thread")
  list(FILTER sources INCLUDE REGEX "/test_(engine|driver)\\.cpp$")  # the others have one thread
endif()
foreach(source IN LISTS sources)
  cmake_path(GET source STEM name)
  add_executable(${name} ${source} ${engine_objects} $<TARGET_OBJECTS:cuda_host>)
  fastssm_compile(${name})
  target_link_libraries(${name} PRIVATE Threads::Threads ${CMAKE_DL_LIBS})
  add_test(NAME ${name} COMMAND ${name})
endforeach()
set_tests_properties(test_driver PROPERTIES ENVIRONMENT LD_LIBRARY_PATH=$<TARGET_FILE_DIR:fake_driver>)
add_dependencies(test_driver fake_driver)
add_test(NAME test_driver_absent COMMAND test_driver absent)
set_tests_properties(test_driver_absent PROPERTIES SKIP_RETURN_CODE 77)
