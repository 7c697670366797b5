// The smallest test framework: CHECK says what failed and where, CHECKED() is main's result.
#pragma once

#include <cstdio>

inline int failures = 0;

#define CHECK(condition)                                                \
  do {                                                                  \
    if (!(condition)) {                                                 \
      failures++;                                                       \
      std::printf("%s:%d: %s\n", __FILE__, __LINE__, #condition);       \
    }                                                                   \
  } while (false)

#define CHECKED() (std::printf(failures ? "%d checks failed\n" : "passed\n", failures), failures != 0)

// What ctest takes for skipped: the tests of an instruction set on a processor without it.
constexpr int skipped = 77;

inline bool runs_here() {
#if defined(__AVX512F__)
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
#elif defined(__AVX2__)
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
  return true;
#endif
}
