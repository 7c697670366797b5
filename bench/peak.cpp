// How many multiply-adds per second this processor does at most: chains of them in registers, on every thread.
#include <thread>
#include <vector>
#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int kBytes = 64;
#elif defined(__AVX__)
constexpr int kBytes = 32;
#else
constexpr int kBytes = 16;
#endif
constexpr int kChains = 12;  // more than latency x throughput of any current core, and they fit the registers

typedef float Vector __attribute__((vector_size(kBytes)));

float sum(const Vector* chains) {
  Vector total = chains[0];
  for (int j = 1; j < kChains; ++j) total += chains[j];
  float result = 0;
  for (unsigned i = 0; i < kBytes / sizeof(float); ++i) result += total[i];
  return result;
}

float float32(long rounds) {
  Vector chains[kChains], factor = Vector{} + 0.999f, term = Vector{} + 1e-3f;
  for (int j = 0; j < kChains; ++j) chains[j] = Vector{} + 1e-3f * j;
  for (long i = 0; i < rounds; ++i)
#pragma GCC unroll 12
    for (int j = 0; j < kChains; ++j) chains[j] = chains[j] * factor + term;
  return sum(chains);
}

float bfloat16(long rounds) {
#if defined(__AVX512BF16__)
  Vector chains[kChains];
  const __m512bh factor = (__m512bh)_mm512_set1_ps(1e-20f);
  for (int j = 0; j < kChains; ++j) chains[j] = Vector{} + 1e-3f * j;
  for (long i = 0; i < rounds; ++i)
#pragma GCC unroll 12
    for (int j = 0; j < kChains; ++j) chains[j] = _mm512_dpbf16_ps(chains[j], factor, factor);
  return sum(chains);
#else
  return 0.0f * rounds;
#endif
}

volatile float sink;  // keeps the arithmetic from being left out

double run(float (*kernel)(long), double flops_per_lane, int threads, long rounds) {
  std::vector<std::thread> others;
  for (int t = 1; t < threads; ++t) others.emplace_back([=] { sink = kernel(rounds); });
  sink = kernel(rounds);
  for (auto& other : others) other.join();
  return flops_per_lane * kChains * (kBytes / sizeof(float)) * double(rounds) * threads;
}

}  // namespace

// Each returns the floating-point operations it has done; 0 where the processor has no such instruction.
extern "C" double peak_float32(int threads, long rounds) { return run(float32, 2, threads, rounds); }

extern "C" double peak_bfloat16(int threads, long rounds) {
#if defined(__AVX512BF16__)
  return run(bfloat16, 4, threads, rounds);
#else
  return 0;
#endif
}
