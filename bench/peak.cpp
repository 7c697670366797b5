// How many multiply-adds per second this processor does at most: chains of them in registers, on every thread.
#include <thread>
#include <vector>
#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif
#if defined(__AMX_BF16__)
#include <sys/syscall.h>
#include <unistd.h>
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

#if defined(__AMX_BF16__)
// Whether the kernel lets this process use the tile registers.
bool tiles_permitted() {
  constexpr int kRequest = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
}

constexpr int kTiles = 4;  // accumulators; two tiles of each operand feed them
constexpr double kFlopsPerTile = 2.0 * 16 * 16 * 32;

float bfloat16_tiles(long rounds) {
  struct alignas(64) {
    unsigned char palette = 1, start = 0, reserved[14] = {};
    unsigned short bytes[16] = {};
    unsigned char rows[16] = {};
  } shape;
  for (int i = 0; i < 8; ++i) shape.bytes[i] = 64, shape.rows[i] = 16;
  _tile_loadconfig(&shape);
  alignas(64) static thread_local float memory[16 * 16] = {};
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_loadd(4, memory, 64);
  _tile_loadd(5, memory, 64);
  _tile_loadd(6, memory, 64);
  _tile_loadd(7, memory, 64);
  for (long i = 0; i < rounds; ++i) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, memory, 64);
  _tile_release();
  return memory[0];
}
#endif

volatile float sink;  // keeps the arithmetic from being left out

double run(float (*kernel)(long), double flops_per_round, int threads, long rounds) {
  std::vector<std::thread> others;
  for (int t = 1; t < threads; ++t) others.emplace_back([=] { sink = kernel(rounds); });
  sink = kernel(rounds);
  for (auto& other : others) other.join();
  return flops_per_round * double(rounds) * threads;
}

constexpr double kLanes = kChains * (kBytes / sizeof(float));

}  // namespace

// Each returns the floating-point operations it has done; 0 where the processor has no such instruction.
extern "C" double peak_float32(int threads, long rounds) { return run(float32, 2 * kLanes, threads, rounds); }

extern "C" double peak_bfloat16(int threads, long rounds) {
#if defined(__AMX_BF16__)
  if (tiles_permitted()) return run(bfloat16_tiles, kTiles * kFlopsPerTile, threads, rounds / 16);
#endif
#if defined(__AVX512BF16__)
  return run(bfloat16, 4 * kLanes, threads, rounds);
#else
  return 0;
#endif
}
