// Chooses the instruction set of the kernels.
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#include "kernels/kernels.h"

// A build of tests may leave out all levels but the first: FASTSSM_BASELINE_ALONE.
#if defined(__x86_64__) && !defined(FASTSSM_BASELINE_ALONE)
#define FASTSSM_X86_LEVELS
#endif

namespace fastssm::cpu {
namespace {

constexpr Level kLevels[] = {Level::avx512, Level::avx2, Level::baseline};  // best first

Level choose() {
  const char* asked = std::getenv("FASTSSM_CPU_LEVEL");
  if (!asked || !*asked) {
    for (Level level : kLevels)
      if (supported(level)) return level;
  }
  for (Level level : kLevels)
    if (asked && std::strcmp(asked, name(level)) == 0) {
      if (supported(level)) return level;
      throw std::runtime_error("FASTSSM_CPU_LEVEL=" + std::string(asked) +
                               " needs instructions that this processor or this build does not have; unset it.");
    }
  throw std::runtime_error("FASTSSM_CPU_LEVEL must be avx512, avx2 or baseline, got '" + std::string(asked) + "'.");
}

}  // namespace

const char* name(Level level) {
  return level == Level::avx512 ? "avx512" : level == Level::avx2 ? "avx2" : "baseline";
}

bool supported(Level level) {
#if defined(FASTSSM_X86_LEVELS)
  if (level == Level::avx512)
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && supported(Level::avx2);
  if (level == Level::avx2) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
  return level == Level::baseline;
}

Level level() {
  static const Level chosen = choose();
  return chosen;
}

template <class T>
const Kernels<T>& kernels([[maybe_unused]] Level level) {
#if defined(FASTSSM_X86_LEVELS)
  if (level == Level::avx512) return avx512_kernels<T>();
  if (level == Level::avx2) return avx2_kernels<T>();
#endif
  return baseline_kernels<T>();
}

template const Kernels<float>& kernels(Level);
template const Kernels<double>& kernels(Level);

}  // namespace fastssm::cpu
