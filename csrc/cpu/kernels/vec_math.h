// The functions of numerics.h for SIMD vectors: branch-free, correct with and without FMA.
//
// Coefficients: mpmath.chebyfit(f, interval, n) in 50 digits, rounded; each f is named where it is used. The worst
// errors are those of rounding, not of the fits.
#pragma once

#include "vec.h"

namespace fastssm {

template <class T, int N>
FASTSSM_INLINE Vec<T, N> abs(Vec<T, N> z) {
  using Integers = typename Vec<T, N>::Integers;
  return (typename Vec<T, N>::Native)((Integers)z.lanes & ~(Integers)Vec<T, N>(T(-0.0)).lanes);
}

template <class T, int N>
FASTSSM_INLINE Vec<T, N> copysign(Vec<T, N> magnitude, Vec<T, N> sign) {
  using Integers = typename Vec<T, N>::Integers;
  const Integers bit = (Integers)Vec<T, N>(T(-0.0)).lanes;
  return (typename Vec<T, N>::Native)(((Integers)magnitude.lanes & ~bit) | ((Integers)sign.lanes & bit));
}

template <class T, int N>
FASTSSM_INLINE Vec<T, N> sign(Vec<T, N> z) {
  return where(z > T(0), T(1), where(z < T(0), T(-1), z));
}

template <class T, int N>
FASTSSM_INLINE Vec<T, N> full_like(Vec<T, N>, T value) {
  return value;
}

template <class T, int N>
FASTSSM_INLINE Vec<T, N> rough_reciprocal(Vec<T, N> z) {
  return T(1) / z;
}

#if defined(__AVX512F__)
FASTSSM_INLINE Vec<float, 16> rough_reciprocal(Vec<float, 16> z) {
  return (Vec<float, 16>::Native)_mm512_maskz_rcp14_ps(0xFFFF, (__m512)z.lanes);
}
#endif

template <class T, int N>
FASTSSM_INLINE Vec<T, N> head(Vec<T, N> z) {
  return (typename Vec<T, N>::Native)((typename Vec<T, N>::Integers)z.lanes & ~Real<T>::tail_bits);
}

// ---- exponentials ----

template <class T>
struct ExpTable;

template <>
struct ExpTable<float> {
  static constexpr int significand = 23, bias = 127;
  static constexpr float to_integer = 12582912.0f;  // 1.5 * 2^23: adding it leaves an integer in the low bits
  static constexpr float ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;

  // (e^-r - 1 + r) / r^2 for |r| <= log(2) / 2
  template <class V>
  static FASTSSM_INLINE V fit(V r) {
    return polynomial(r, 0.500000001f, -0.166666669f, 0.0416664627f, -0.00833331067f, 0.00139339001f, -0.000198912685f);
  }
  // log(1 + e) / e with t = e - 1/2, for 0 <= e <= 1
  template <class V>
  static FASTSSM_INLINE V log_fit(V t) {
    return polynomial(t, 0.81093022f, -0.288527101f, 0.132609016f, -0.0676881897f, 0.0366352342f, -0.0205631824f,
                      0.0115776852f, -0.00678801695f, 0.00525027068f, -0.00317605702f);
  }
};

template <>
struct ExpTable<double> {
  static constexpr int significand = 52, bias = 1023;
  static constexpr double to_integer = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr double ln2_high = 0x1.62e42fee00000p-1, ln2_low = 0x1.a39ef35793c76p-33;

  template <class V>
  static FASTSSM_INLINE V fit(V r) {
    return polynomial(r, 0.5, -0.1666666666666667111, 0.04166666666666666984, -0.008333333333325973108,
                      0.001388888888888363261, -0.0001984126987538547953, 0.00002480158732595110937,
                      -2.755725468572880253e-6, 2.755727313289604092e-7, -2.510551354184708488e-8,
                      2.091489872717552423e-9);
  }
  template <class V>
  static FASTSSM_INLINE V log_fit(V t) {
    return polynomial(t, 0.81093021621632876, -0.2885270990993239, 0.13260975375420375, -0.067688643310964296,
                      0.036611854523044425, -0.020548811919120714, 0.011833792115498274, -0.0069453949749855129,
                      0.0041361789694925789, -0.0024918411947988625, 0.0015153851053375096, -0.00092885742792773235,
                      0.00057304460846778672, -0.00035482048783102381, 0.00022119170895766566, -0.0001421000228999903,
                      8.9333034068192714e-5, -4.4828443252232563e-5, 2.8278083585626544e-5, -3.8362374451601245e-5,
                      2.4437973948580947e-5);
  }
};

// x = r - k log(2), the integer k as a number and as bits.
template <class T, int N>
struct Reduced {
  Vec<T, N> r, k;
  typename Vec<T, N>::Integers bits;
};

// For x >= 0 up to where e^-x is zero.
template <class T, int N>
FASTSSM_INLINE Reduced<T, N> reduce(Vec<T, N> x, Vec<T, N> tail) {
  using Table = ExpTable<T>;
  using Integers = typename Vec<T, N>::Integers;
  const Vec<T, N> shift = Table::to_integer, shifted = shift - (x + tail) * T(1.44269504088896340736);
  const Vec<T, N> k = shifted - shift, r = ((x + k * Table::ln2_high) + k * Table::ln2_low) + tail;
  return {r, k, (Integers)shifted.lanes - (Integers)shift.lanes};
}

// e^-r - 1
template <class T, int N>
FASTSSM_INLINE Vec<T, N> decay_below_one(Vec<T, N> r) {
  return (r * r) * ExpTable<T>::fit(r) - r;
}

// 2^k for a normal result.
template <class T, int N>
FASTSSM_INLINE Vec<T, N> power_of_two(typename Vec<T, N>::Integers k) {
  return (typename Vec<T, N>::Native)((k + ExpTable<T>::bias) << ExpTable<T>::significand);
}

// 2^k a, rounded once where it is subnormal.
template <class T, int N>
FASTSSM_INLINE Vec<T, N> scaled(Vec<T, N> a, const Reduced<T, N>& z) {
  const auto half = z.bits >> 1;
  return a * power_of_two<T, N>(half) * power_of_two<T, N>(z.bits - half);
}

#if defined(__AVX512F__)
FASTSSM_INLINE Vec<float, 16> scaled(Vec<float, 16> a, const Reduced<float, 16>& z) {
  return (Vec<float, 16>::Native)_mm512_maskz_scalef_ps(0xFFFF, (__m512)a.lanes, (__m512)z.k.lanes);
}
FASTSSM_INLINE Vec<double, 8> scaled(Vec<double, 8> a, const Reduced<double, 8>& z) {
  return (Vec<double, 8>::Native)_mm512_maskz_scalef_pd(0xFF, (__m512d)a.lanes, (__m512d)z.k.lanes);
}
#endif

template <class T, int N>
FASTSSM_INLINE Vec<T, N> decay(Vec<T, N> z, Vec<T, N> tail) {
  const Vec<T, N> end = Real<T>::decayed;
  const Reduced<T, N> x = reduce(minimum(z, end), where(z > end, T(0), tail));
  return scaled(T(1) + decay_below_one(x.r), x);
}

template <class T, int N>
FASTSSM_INLINE Vec<T, N> decay(Vec<T, N> z) {
  const Reduced<T, N> x = reduce(minimum(z, Vec<T, N>(Real<T>::decayed)), Vec<T, N>(T(-0.0)));
  return scaled(T(1) + decay_below_one(x.r), x);
}

template <class T, int N>
FASTSSM_INLINE Exponentials<Vec<T, N>> exponentials(Vec<T, N> z) {
  const Reduced<T, N> x = reduce(minimum(-z, Vec<T, N>(Real<T>::decayed)), Vec<T, N>(T(-0.0)));
  const Vec<T, N> below = decay_below_one(x.r), power = scaled(Vec<T, N>(T(1)), x);
  return {scaled(T(1) + below, x), copysign(power * below + (power - T(1)), z)};
}

template <class T, int N>
FASTSSM_INLINE Vec<T, N> log1p_of_fraction(Vec<T, N> e) {
  return e * ExpTable<T>::log_fit(e - T(0.5));
}

// ---- sine and cosine ----

// t = k pi/2 + r: pi/2 in three parts, the products of k with the first two exact for |k| < 2^20.
template <int N>
FASTSSM_INLINE Vec<double, N> reduce_angle(Vec<double, N> t, typename Vec<double, N>::Integers& quadrant) {
  using Integers = typename Vec<double, N>::Integers;
  const Vec<double, N> shift = ExpTable<double>::to_integer, shifted = t * 0.63661977236758134308 + shift;
  const Vec<double, N> k = shifted - shift;
  quadrant = (Integers)shifted.lanes;
  return ((t - k * 0x1.921fb544p+0) - k * 0x1.0b4611a6p-34) - k * 0x1.3198a2e037073p-69;
}

// sin and cos of k pi/2 + r from polynomials: (sin r - r) / r^3 and (cos r - 1 + r^2 / 2) / r^4 in y = r^2.
template <class T, int N>
FASTSSM_INLINE SinCos<Vec<T, N>> of_quadrant(Vec<T, N> r, typename Vec<T, N>::Integers quadrant, Vec<T, N> sin_fit,
                                             Vec<T, N> cos_fit) {
  using Native = typename Vec<T, N>::Native;
  using Integers = typename Vec<T, N>::Integers;
  const Vec<T, N> y = r * r;
  const Vec<T, N> s = where(r == T(0), r, r + r * y * sin_fit), c = T(1) + y * (T(-0.5) + y * cos_fit);
  const Integers bit = (Integers)Vec<T, N>(T(-0.0)).lanes;
  constexpr int sign = 8 * sizeof(T) - 2;
  const Mask<T, N> odd{-(quadrant & 1)};
  const Integers sin_sign = quadrant << sign & bit, cos_sign = (quadrant + 1) << sign & bit;
  return {Native((Integers)where(odd, c, s).lanes ^ sin_sign), Native((Integers)where(odd, s, c).lanes ^ cos_sign)};
}

template <int N>
FASTSSM_INLINE SinCos<Vec<double, N>> sin_cos_near(Vec<double, N> t) {
  typename Vec<double, N>::Integers quadrant;
  const Vec<double, N> r = reduce_angle(t, quadrant), y = r * r;
  return of_quadrant(r, quadrant,
                     polynomial(y, -0.16666666666666665, 0.008333333333330918, -0.00019841269836712494,
                                2.7557316078680671e-6, -2.5051126876085338e-8, 1.5917771759341916e-10),
                     polynomial(y, 0.041666666666666665, -0.0013888888888887378, 2.4801587298736861e-5,
                                -2.7557317256796041e-7, 2.0876143159909439e-9, -1.1382408754153255e-11));
}

// The angles are reduced in double precision.
template <int N>
FASTSSM_INLINE SinCos<Vec<float, N>> sin_cos_near(Vec<float, N> t) {
  using Half = Vec<double, N / 2>;
  native_vector<float, N / 2> halves[2];
  native_vector<int32_t, N / 2> quadrants[2];
  std::memcpy(halves, &t.lanes, sizeof halves);
  for (int i = 0; i < 2; i++) {
    typename Half::Integers quadrant;
    const Half r = reduce_angle(Half(__builtin_convertvector(halves[i], typename Half::Native)), quadrant);
    halves[i] = __builtin_convertvector(r.lanes, native_vector<float, N / 2>);
    quadrants[i] = __builtin_convertvector(quadrant & 3, native_vector<int32_t, N / 2>);
  }
  Vec<float, N> r;
  typename Vec<float, N>::Integers quadrant;
  std::memcpy(&r.lanes, halves, sizeof halves);
  std::memcpy(&quadrant, quadrants, sizeof quadrants);
  const Vec<float, N> y = r * r;
  return of_quadrant(r, quadrant, polynomial(y, -0.166666646f, 0.00833274530f, -0.000195872493f),
                     polynomial(y, 0.0416666644f, -0.00138883001f, 2.45472992e-5f));
}

// sin and cos of any angle: lanes too large for the reduction are done one by one.
template <class T, int N>
FASTSSM_INLINE SinCos<Vec<T, N>> sin_cos(Vec<T, N> t) {
  SinCos<Vec<T, N>> found = sin_cos_near(t);
  const auto far = abs(t) > T(1.6e6);
  if (any(far)) {
    for (int i = 0; i < N; i++) {
      if (!far.lanes[i]) continue;
      found.sin.lanes[i] = std::sin(t[i]);
      found.cos.lanes[i] = std::cos(t[i]);
    }
  }
  return found;
}

}  // namespace fastssm
