// Vectors, elementary functions, activations and random signs, at the level that the compiler's flags choose.
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "../maths/activations.h"
#include "../cpu/kernels/signs.h"
#include "../cpu/kernels/vec.h"
#include "../cpu/kernels/vec_math.h"
#include "check.h"

using namespace fastssm;

namespace {

template <class T>
using Native = Vec<T, native_lanes<T>>;

template <class T>
constexpr T nan_of = std::numeric_limits<T>::quiet_NaN();
template <class T>
constexpr T infinity = std::numeric_limits<T>::infinity();

template <class T>
bool same(T a, T b) {
  return std::memcmp(&a, &b, sizeof a) == 0 || (a != a && b != b);
}

// ---- vectors ----

template <class T>
void test_vectors() {
  constexpr int n = native_lanes<T>;
  T a[n + 1], b[n + 1], out[n + 1];
  for (int i = 0; i <= n; i++) a[i] = T(i) - T(2.5), b[i] = T(3) - T(i);
  const auto x = Native<T>::load(a + 1), y = Native<T>::load(b + 1);  // not aligned
  (-(x + y * T(2)) / (x - y)).store(out + 1);
  for (int i = 1; i <= n; i++) CHECK(out[i] == -(a[i] + b[i] * 2) / (a[i] - b[i]));
  T total = 0;
  for (int i = 1; i <= n; i++) total += a[i];
  CHECK(sum(x) == total);
  CHECK(any(x > T(n) - T(3)) && !any(x > T(n)));
  const auto chosen = where((x < y) & !(x == T(-1.5)), x, y);
  for (int i = 0; i < n; i++) CHECK(chosen[i] == (a[i + 1] < b[i + 1] && a[i + 1] != T(-1.5) ? a[i + 1] : b[i + 1]));
  const Native<T> nan = nan_of<T>;
  CHECK(std::isnan(minimum(nan, Native<T>(T(1)))[0]) && std::isnan(maximum(nan, Native<T>(T(1)))[n - 1]));
  CHECK(minimum(x, y)[0] == a[1] && maximum(x, y)[0] == b[1]);
  CHECK(std::signbit(Native<T>(T(-0.0))[n - 1]));
}

void test_bfloat16() {
  CHECK(to_bfloat16(1.0f) == 0x3F80 && to_bfloat16(-2.0f) == 0xC000);
  CHECK(to_bfloat16(1.00390625f) == 0x3F80);  // a tie, to even
  CHECK(to_bfloat16(1.01171875f) == 0x3F82);
  CHECK(to_bfloat16(std::nextafter(1.00390625f, 2.0f)) == 0x3F81);
  CHECK(to_bfloat16(infinity<float>) == 0x7F80 && to_bfloat16(std::numeric_limits<float>::max()) == 0x7F80);
  constexpr int n = native_lanes<float>;
  std::mt19937 bits(1);
  for (int trial = 0; trial < 100000; trial++) {
    float a[n];
    uint16_t out[n];
    for (float& value : a) {
      const uint32_t word = trial % 2 ? uint32_t(bits()) : 0x7F800000u | 1u << trial % 23;  // at random, and NaNs
      std::memcpy(&value, &word, sizeof value);
    }
    store_bfloat16(Vec<float, n>::load(a), out);
    for (int i = 0; i < n; i++) {
      CHECK(out[i] == to_bfloat16(a[i]));
      const uint32_t wide = uint32_t(out[i]) << 16;
      float back;
      std::memcpy(&back, &wide, sizeof back);
      CHECK(std::isnan(back) == std::isnan(a[i]));
    }
  }
}

template <class T>
void test_transpose() {
  const ptrdiff_t most = 37, lda = most + 3, ldo = most + 1;
  std::vector<T> a(most * lda), out(most * ldo);
  for (size_t i = 0; i < a.size(); i++) a[i] = T(i);
  for (ptrdiff_t rows = 0; rows <= most; rows++)
    for (ptrdiff_t columns = 0; columns <= most; columns++) {
      out.assign(out.size(), T(-1));
      transpose(a.data(), lda, out.data(), ldo, rows, columns);
      bool right = true;
      for (ptrdiff_t j = 0; j < most; j++)
        for (ptrdiff_t i = 0; i < ldo; i++)
          right &= out[j * ldo + i] == (i < rows && j < columns ? a[i * lda + j] : T(-1));
      CHECK(right);
    }
}

// ---- activations ----

template <class T>
const T constants[] = {T(0.7), T(6)};  // of any activation: a slope, a width, a frequency, a threshold

template <class T>
std::vector<T> points() {
  std::vector<T> z;
  for (int i = -1500; i <= 1500; i++) z.push_back(T(i) * T(0.0613));
  for (int i = -300; i <= 4; i++)
    for (T sign : {T(-1), T(1)}) z.push_back(sign * std::pow(T(10), T(i)));  // from subnormal numbers or zero on
  for (T special : {T(0), T(-0.0), infinity<T>, -infinity<T>, nan_of<T>}) z.push_back(special);
  while (z.size() % 16) z.push_back(T(1));
  return z;
}

template <int ID, class V, class T>
void evaluate(const T* z, T out[4][16]) {
  const Jet<V> found = jet<ID, 3>(V::load(z), constants<T>);
  found.f.store(out[0]), found.d1.store(out[1]), found.d2.store(out[2]), found.d3.store(out[3]);
}

// The largest value of a derivative within a distance of one: what its error is compared with.
template <int ID, class T>
T scale(T z, int order) {
  T most = std::numeric_limits<T>::min();
  for (T step = -1; step <= 1; step += T(0.25)) {
    const Jet<T> near = jet<ID, 3>(z + step, constants<T>);
    const T values[] = {near.f, near.d1, near.d2, near.d3};
    most = std::fmax(most, std::fabs(values[order]));
  }
  return most;
}

// Vectors agree with scalars, and a lane's result depends neither on its index nor on other lanes.
template <int ID, class T>
void test_activation() {
  constexpr int n = native_lanes<T>;
  const std::vector<T> z = points<T>();
  for (size_t i = 0; i < z.size(); i += n) {
    T together[4][16], alone[4][16], copies[n];
    evaluate<ID, Native<T>>(&z[i], together);
    for (int lane = 0; lane < n; lane++) {
      const T at = z[i + lane];
      for (T& copy : copies) copy = at;
      evaluate<ID, Native<T>>(copies, alone);
      const Jet<T> scalar = jet<ID, 3>(at, constants<T>);
      const T expected[] = {scalar.f, scalar.d1, scalar.d2, scalar.d3};
      for (int order = 0; order < 4; order++) {
        const T found = together[order][lane];
        CHECK(same(found, alone[order][(lane + 1) % n]));
        const T allowed = 32 * std::numeric_limits<T>::epsilon() * scale<ID>(at, order);
        if (!(same(found, expected[order]) || std::fabs(found - expected[order]) <= allowed)) {
          std::printf("%s f^(%d)(%g) = %.17g, not %.17g\n", activation_names[ID], order, double(at), double(found),
                      double(expected[order]));
          CHECK(false);
        }
        if (activation_is_curved[ID] && std::isnan(at)) CHECK(std::isnan(found) && std::isnan(expected[order]));
      }
    }
  }
}

template <class T, int ID = 0>
void test_activations() {
  if constexpr (ID < activation_count) {
    test_activation<ID, T>();
    test_activations<T, ID + 1>();
  }
}

// Fewer derivatives are the same ones.
void test_orders() {
  const float c[] = {1.5f, 6.0f}, z = 0.3f;
  const Jet<float> all = jet<3, 3>(z, c), none = jet<3, 0>(z, c), two = jet<3, 2>(z, c);
  CHECK(none.f == all.f && none.d1 == 0 && none.d2 == 0 && none.d3 == 0);
  CHECK(two.f == all.f && two.d1 == all.d1 && two.d2 == all.d2 && two.d3 == 0);
}

template <class T>
void test_limits() {
  using V = Native<T>;
  const T none[1] = {};
  const auto at = [](T z) { return V(z); };
  CHECK(softplus_sigmoids(at(infinity<T>)).value[0] == infinity<T>);
  CHECK(softplus_sigmoids(at(-infinity<T>)).value[0] == 0);
  CHECK(softplus_sigmoids(at(T(1e4))).p[0] == 1 && softplus_sigmoids(at(T(1e4))).n[0] == 0);
  CHECK(std::signbit(tanh_slope(at(T(-0.0))).t[0]) && !std::signbit(tanh_slope(at(T(0))).t[0]));
  CHECK(tanh_slope(at(-infinity<T>)).t[0] == -1 && tanh_slope(at(T(1e4))).slope[0] == 0);
  CHECK(std::signbit(exponentials(at(T(-0.0))).expm1[0]) && exponentials(at(T(-1e4))).expm1[0] == -1);
  CHECK(gaussian(at(infinity<T>)).cdf[0] == 1 && gaussian(at(-infinity<T>)).cdf[0] == 0);
  CHECK(sigmoids_of_cubic(at(T(1e30)), 1.5, 0.1).n[0] == 0);
  CHECK(sigmoids_of_cubic(at(-infinity<T>), 1.5, 0.1).p[0] == 0);
  CHECK(sin_cos(at(T(1e9))).sin[0] == std::sin(T(1e9)) && std::isnan(sin_cos(at(infinity<T>)).cos[0]));
  CHECK(std::signbit(sin_cos(at(T(-0.0))).sin[0]) && sin_cos(at(T(-0.0))).cos[0] == 1);
  const T least = std::numeric_limits<T>::denorm_min();
  CHECK((jet<6, 3>(at(least), none).f[0] == least));
  // e^z is rounded once where it is subnormal
  const T deep = std::log(std::numeric_limits<T>::min()) - T(5);
  CHECK(std::fabs(decay(at(-deep))[0] - std::exp(deep)) <= 2 * least && decay(at(-deep))[0] > 0);
}

// ---- random signs ----

struct KnownAnswer {
  PhiloxWords counter;
  uint64_t key;
  PhiloxWords words;
};

// From the authors' Random123, kat_vectors.
constexpr uint32_t ones = 0xFFFFFFFF;
const KnownAnswer known_answers[] = {
    {{{0, 0, 0, 0}}, 0, {{0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8}}},
    {{{ones, ones, ones, ones}}, ~uint64_t(0), {{0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD}}},
    {{{0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344}},
     0x299F31D0A4093822,
     {{0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1}}},
};

void test_philox() {
  for (const KnownAnswer& known : known_answers) {
    const PhiloxWords found = philox(known.counter, known.key);
    PhiloxVector lanes[4];
    for (int i = 0; i < 4; i++) lanes[i] = PhiloxVector{} + known.counter.word[i];
    philox(lanes, known.key);
    for (int i = 0; i < 4; i++) {
      CHECK(found.word[i] == known.words.word[i]);
      for (int lane = 0; lane < philox_lanes; lane++) CHECK(lanes[i][lane] == known.words.word[i]);
    }
  }
}

template <class T>
void test_signs() {
  const int64_t samples = 2 * philox_lanes + 3, first = (int64_t(1) << 32) - 5, projection = 3;
  for (uint64_t seed : {uint64_t(0), uint64_t(12345678901234567), ~uint64_t(4)})
    for (int64_t dim : {1, 2, 5, 31, 32, 33, 64, 127, 128, 129, 300}) {
      const int64_t ld = dim + 3;
      std::vector<T> rows(samples * ld, T(9)), row(dim);
      signs_rows(seed, first, samples, projection, dim, rows.data(), ld);
      bool right = true;
      for (int64_t b = 0; b < samples; b++)
        for (int64_t d = 0; d < ld; d++)
          right &= rows[b * ld + d] == (d < dim ? rademacher<T>(seed, first + b, projection, d) : T(9));
      CHECK(right);
      signs(seed, first + 7, projection, dim, row.data());
      for (int64_t d = 0; d < dim; d++) CHECK(row[d] == rows[7 * ld + d]);
    }
}

}  // namespace

int main() {
  if (!runs_here()) return skipped;
  test_vectors<float>(), test_vectors<double>();
  test_bfloat16();
  test_transpose<float>(), test_transpose<double>(), test_transpose<uint16_t>();
  test_activations<float>(), test_activations<double>();
  test_orders();
  test_limits<float>(), test_limits<double>();
  test_philox();
  test_signs<float>(), test_signs<double>();
  return CHECKED();
}
