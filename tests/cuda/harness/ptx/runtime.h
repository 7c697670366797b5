// What the C++ translated from PTX is made of: registers as unsigned integers or floats, PTX's rounding and its shifts.
#pragma once

#include <xmmintrin.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "../emulator/copies.h"
#include "../emulator/machine.h"
#include "../emulator/mma.h"
#include "../emulator/registry.h"
#include "../emulator/warp.h"

namespace ptx {

inline bool carry;  // what .cc leaves for the next madc, addc or subc of the same thread

using emulator::bits;
using emulator::Shuffle;

// A parameter block of a kernel by value, whatever its fields.
template <int size, int align>
struct Parameters {
  alignas(align) unsigned char bytes[size];
};

// What a register holds of a value: the bits of a float, or an integer, which a wider register fills up by its sign.
// No templates: calls of these are half of what there is to compile.
inline uint32_t raw(float x) { return bits<uint32_t>(x); }
inline uint64_t raw(double x) { return bits<uint64_t>(x); }
#define FASTSSM_RAW(T) \
  inline T raw(T x) { return x; }
FASTSSM_RAW(uint8_t)
FASTSSM_RAW(int8_t)
FASTSSM_RAW(uint16_t)
FASTSSM_RAW(int16_t)
FASTSSM_RAW(uint32_t)
FASTSSM_RAW(int32_t)
FASTSSM_RAW(unsigned long)
FASTSSM_RAW(long)
FASTSSM_RAW(unsigned long long)
FASTSSM_RAW(long long)
#undef FASTSSM_RAW

// Memory, by an address that must be a multiple of the size.
template <class T>
T* at(const void* address, int line) {
  if (uintptr_t(address) % sizeof(T)) emulator::fail("a misaligned address in line " + std::to_string(line));
  return static_cast<T*>(const_cast<void*>(address));
}
inline unsigned char* shared(uint32_t offset) { return emulator::machine.shared + offset; }
inline unsigned char* generic(uint64_t address) { return reinterpret_cast<unsigned char*>(address); }

// One access of several elements, as one access.
template <class T, int count>
struct VectorOf {
  typedef T type __attribute__((vector_size(sizeof(T) * count), may_alias));
};
template <class T, int count>
using Vector = typename VectorOf<T, count>::type;

// ---- floating point ----

enum Rounding : unsigned { down = 0x2000, up = 0x4000, to_zero = 0x6000 };

class Rounded {
 public:
  explicit Rounded(Rounding how) : before_(_mm_getcsr()) { _mm_setcsr((before_ & ~unsigned(to_zero)) | how); }
  ~Rounded() { _mm_setcsr(before_); }

 private:
  unsigned before_;
};

// Operations in another rounding than to nearest: volatile, so that they stay between the two changes of it.
template <class T, class Operation>
__attribute__((noinline)) T rounded(Rounding how, Operation operation, T a, T b, T c) {
  const Rounded mode(how);
  volatile T x = a, y = b, z = c;
  volatile T result = operation(x, y, z);
  return result;
}

template <class T>
T add(Rounding how, T a, T b) {
  return rounded(how, [](T x, T y, T) { return x + y; }, a, b, T());
}
template <class T>
T multiply(Rounding how, T a, T b) {
  return rounded(how, [](T x, T y, T) { return x * y; }, a, b, T());
}
template <class T>
T multiply_add(Rounding how, T a, T b, T c) {
  return rounded(how, [](T x, T y, T z) { return std::fma(x, y, z); }, a, b, c);
}
template <class T>
T divide(Rounding how, T a, T b) {
  return rounded(how, [](T x, T y, T) { return x / y; }, a, b, T());
}

// Without subnormal numbers, and clamped to [0, 1] with NaN as 0.
template <class T>
T flushed(T x) {
  return std::fabs(x) < std::numeric_limits<T>::min() ? std::copysign(T(0), x) : x;
}
template <class T>
T saturated(T x) {
  return x > 0 ? std::min(x, T(1)) : T(0);
}

template <class T>
T minimum(T a, T b) {
  if constexpr (std::is_floating_point_v<T>) return std::fmin(a, b);
  return std::min(a, b);
}
template <class T>
T maximum(T a, T b) {
  if constexpr (std::is_floating_point_v<T>) return std::fmax(a, b);
  return std::max(a, b);
}

// The nearest number of an integer type; NaN is 0.
template <class T, class F>
T to_integer(F x) {
  using Limits = std::numeric_limits<T>;
  if (std::isnan(x)) return 0;
  if (x >= F(Limits::max())) return Limits::max();
  return x <= F(Limits::min()) ? Limits::min() : T(x);
}

// ---- integers ----

template <class T>
T shift_left(T a, uint32_t count) {
  return count < 8 * sizeof(T) ? T(std::make_unsigned_t<T>(a) << count) : T(0);
}
template <class T>
T shift_right(T a, uint32_t count) {
  if (count < 8 * sizeof(T)) return T(a >> count);
  return std::is_signed_v<T> && a < 0 ? T(-1) : T(0);
}
inline uint32_t funnel_left(uint32_t low, uint32_t high, uint32_t count) {
  return uint32_t((uint64_t(high) << 32 | low) << count >> 32);
}
inline uint32_t funnel_right(uint32_t low, uint32_t high, uint32_t count) {
  return uint32_t((uint64_t(high) << 32 | low) >> count);
}
inline uint32_t wrapped(uint32_t count) { return count % 32; }
inline uint32_t clamped(uint32_t count) { return std::min(count, 32u); }

template <class T>
T high_product(T a, T b) {
  using Wide = std::conditional_t<std::is_signed_v<T>, __int128, unsigned __int128>;
  return T(Wide(a) * Wide(b) >> 8 * sizeof(T));
}

// Any function of three bits, by its table.
inline uint32_t logic(uint32_t a, uint32_t b, uint32_t c, uint32_t table) {
  uint32_t result = 0;
  for (uint32_t i = 0; i < 8; i++)
    if (table >> i & 1) result |= (i & 4 ? a : ~a) & (i & 2 ? b : ~b) & (i & 1 ? c : ~c);
  return result;
}

// Four bytes of the eight of b and a, by the nibbles of a selector; the top bit of one spreads the sign.
inline uint32_t permuted(uint32_t a, uint32_t b, uint32_t selector) {
  const uint64_t bytes = uint64_t(b) << 32 | a;
  uint32_t result = 0;
  for (int i = 0; i < 4; i++) {
    const uint32_t nibble = selector >> 4 * i & 15, byte = bytes >> 8 * (nibble & 7) & 255;
    result |= (nibble & 8 ? (byte & 128 ? 255u : 0u) : byte) << 8 * i;
  }
  return result;
}

template <class T>
T extracted(T a, uint32_t start, uint32_t length) {
  start &= 255;
  length &= 255;
  if (length == 0) return 0;
  const int top = int(8 * sizeof(T)) - 1, last = std::min(int(start + length) - 1, top);
  T result = 0;
  for (int i = int(start); i <= last; i++) result |= (a >> i & T(1)) << (i - int(start));
  const bool sign = std::is_signed_v<T> && (a >> last & 1);
  for (int i = last - int(start) + 1; sign && i <= top; i++) result |= T(std::make_unsigned_t<T>(1) << i);
  return result;
}

template <class T>
T inserted(T a, T b, uint32_t start, uint32_t length) {
  for (uint32_t i = 0; i < (length & 255) && (start & 255) + i < 8 * sizeof(T); i++) {
    const T bit = T(1) << ((start & 255) + i);
    b = a >> i & 1 ? b | bit : b & ~bit;
  }
  return b;
}

}  // namespace ptx
