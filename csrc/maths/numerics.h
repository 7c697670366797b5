// The functions that the activation rules use, for scalars on host and device; cpu/kernels/vec_math.h has them for SIMD
// vectors. Functions composed of others are templates over both, so that each formula is written once.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define FASTSSM_HD __host__ __device__
#define FASTSSM_INLINE __forceinline__
#else
#define FASTSSM_HD
#define FASTSSM_INLINE inline __attribute__((always_inline))
#endif

namespace fastssm {

// An activation and its first three derivatives at one point, or at a vector of points.
template <class V>
struct Jet {
  V f{}, d1{}, d2{}, d3{};
};

// The scalar type that a value is made of.
template <class V>
struct ScalarOf {
  using type = V;
};
template <class V>
using scalar_of = typename ScalarOf<V>::type;

// What differs between the two precisions.
template <class S>
struct Real;

template <>
struct Real<float> {
  using Bits = int32_t;
  static constexpr Bits tail_bits = (1 << 12) - 1;  // without them the square of a number is exact
  static constexpr float decayed = 105.0f;          // from here on e^-x rounds to zero
  static constexpr float gaussian_end = 15.0f;      // beyond it the Gaussian density is zero
};

template <>
struct Real<double> {
  using Bits = int64_t;
  static constexpr Bits tail_bits = (1 << 27) - 1;
  static constexpr double decayed = 746.0;
  static constexpr double gaussian_end = 40.0;
};

template <class S>
using if_scalar = typename Real<S>::Bits;

// ---- scalars ----

template <class S, class = if_scalar<S>>
FASTSSM_HD FASTSSM_INLINE S abs(S z) {
  return std::fabs(z);
}

template <class S, class = if_scalar<S>>
FASTSSM_HD FASTSSM_INLINE S sign(S z) {
  return z > 0 ? S(1) : z < 0 ? S(-1) : z;
}

template <class S, class = if_scalar<S>>
FASTSSM_HD FASTSSM_INLINE S copysign(S magnitude, S sign) {
  return std::copysign(magnitude, sign);
}

template <class S, class = if_scalar<S>>
FASTSSM_HD FASTSSM_INLINE S where(bool condition, S a, S b) {
  return condition ? a : b;
}

// min(z, bound), NaN where z is NaN.
template <class S, class = if_scalar<S>>
FASTSSM_HD FASTSSM_INLINE S minimum(S z, S bound) {
  return bound < z ? bound : z;
}

// max(z, bound), NaN where z is NaN.
template <class S, class = if_scalar<S>>
FASTSSM_HD FASTSSM_INLINE S maximum(S z, S bound) {
  return bound > z ? bound : z;
}

template <class S, class = if_scalar<S>>
FASTSSM_HD FASTSSM_INLINE S full_like(S, S value) {
  return value;
}

// About 1 / z: at least half of its digits.
template <class S, class = if_scalar<S>>
FASTSSM_HD FASTSSM_INLINE S rough_reciprocal(S z) {
  return S(1) / z;
}

// The leading half of the significand: the product of two heads is exact.
template <class S, class = if_scalar<S>>
FASTSSM_HD FASTSSM_INLINE S head(S z) {
  typename Real<S>::Bits bits;
  std::memcpy(&bits, &z, sizeof z);
  bits &= ~Real<S>::tail_bits;
  std::memcpy(&z, &bits, sizeof z);
  return z;
}

// e^-z for z >= 0.
template <class S, class = if_scalar<S>>
FASTSSM_HD FASTSSM_INLINE S decay(S z) {
  return std::exp(-z);
}

// e^-(z + tail) for z >= 0 and |tail| << 1 wherever that is not zero.
template <class S, class = if_scalar<S>>
FASTSSM_HD FASTSSM_INLINE S decay(S z, S tail) {
  return z > Real<S>::decayed ? S(0) : std::exp(-z) * std::exp(-tail);
}

// log(1 + e) for 0 <= e <= 1.
template <class S, class = if_scalar<S>>
FASTSSM_HD FASTSSM_INLINE S log1p_of_fraction(S e) {
  return std::log1p(e);
}

template <class V>
struct Exponentials {
  V exp, expm1;
};

// e^z and e^z - 1 for z <= 0.
template <class S, class = if_scalar<S>>
FASTSSM_HD FASTSSM_INLINE Exponentials<S> exponentials(S z) {
  return {std::exp(z), std::expm1(z)};
}

template <class V>
struct SinCos {
  V sin, cos;
};

template <class S, class = if_scalar<S>>
FASTSSM_HD FASTSSM_INLINE SinCos<S> sin_cos(S z) {
  return {std::sin(z), std::cos(z)};
}

// ---- scalars and vectors ----

// c0 + c1 x + c2 x^2 + ...
template <class V, class S>
FASTSSM_HD FASTSSM_INLINE V polynomial(V, S c0) {
  return V(c0);
}
template <class V, class S, class... Rest>
FASTSSM_HD FASTSSM_INLINE V polynomial(V x, S c0, Rest... rest) {
  return c0 + x * polynomial(x, rest...);
}

// 1 / (whole + part) for whole = 1 or 2 and |part| <= 1, corrected by its error, which the two parts give without the
// rounding of their sum.
template <class V, class S>
FASTSSM_HD FASTSSM_INLINE V reciprocal_of_sum(S whole, V part) {
  const V r = rough_reciprocal(whole + part);
  return r + r * ((S(1) - whole * r) - r * part);
}

template <class V>
struct Sigmoids {
  V p, n;
};

template <class V>
FASTSSM_HD FASTSSM_INLINE Sigmoids<V> sigmoids_of_decay(V e, V z) {
  using S = scalar_of<V>;
  const V larger = reciprocal_of_sum(S(1), e), smaller = e * larger;
  const auto negative = z < S(0);
  return {where(negative, smaller, larger), where(negative, larger, smaller)};
}

// 1 / (1 + e^-z) and 1 / (1 + e^z), each to full relative accuracy.
template <class V>
FASTSSM_HD FASTSSM_INLINE Sigmoids<V> sigmoids(V z) {
  return sigmoids_of_decay(decay(abs(z)), z);
}

// The sigmoids of t = a z + b z^3 for positive a and b: an error of one ulp in t would be one of |t| ulp in e^-t, so t
// is a sum of an exact product and a tail.
template <class V>
FASTSSM_HD FASTSSM_INLINE Sigmoids<V> sigmoids_of_cubic(V z, double a, double b) {
  using S = scalar_of<V>;
  const S a_high = S(a), a_low = S(a - double(a_high)), b_high = head(S(b)), b_low = S(b - double(b_high));
  const V z_high = head(z), z_low = z - z_high;
  const V square = z_high * z_high, square_low = z_low * (z + z_high);
  const V square_high = head(square), cubic = b_high * square_high;
  const V slope = a_high + cubic, shift = slope - a_high;  // slope + slope_low = a + b z^2
  const V rounding = (a_high - (slope - shift)) + (cubic - shift);
  const V cubic_low = b_high * ((square - square_high) + square_low) + b_low * (square + square_low);
  const V slope_low = rounding + (a_low + cubic_low);
  const V slope_high = head(slope);
  const V t = z_high * slope_high, t_low = z_high * ((slope - slope_high) + slope_low) + z_low * (slope + slope_low);
  return sigmoids_of_decay(decay(abs(t), where(z < S(0), -t_low, t_low)), z);
}

template <class V>
struct SoftplusSigmoids {
  V value, p, n;
};

// log(1 + e^z) and its slopes to either side, from one exponential.
template <class V>
FASTSSM_HD FASTSSM_INLINE SoftplusSigmoids<V> softplus_sigmoids(V z) {
  using S = scalar_of<V>;
  const V e = decay(abs(z));
  const Sigmoids<V> s = sigmoids_of_decay(e, z);
  return {maximum(z, V(S(0))) + log1p_of_fraction(e), s.p, s.n};
}

// The same of log(1 + e^(beta z)) / beta, and of the line z where beta z > threshold.
template <class V, class S>
FASTSSM_HD FASTSSM_INLINE SoftplusSigmoids<V> softplus_sigmoids(V z, S beta, S threshold) {
  const V t = beta * z;
  const SoftplusSigmoids<V> s = softplus_sigmoids(t);
  const auto line = t > threshold;
  return {where(line, z, s.value * (S(1) / beta)), where(line, V(S(1)), s.p), where(line, V(S(0)), s.n)};
}

template <class V>
struct TanhSlope {
  V t, slope;
};

// tanh z and sech^2 z, from one exponential.
template <class V>
FASTSSM_HD FASTSSM_INLINE TanhSlope<V> tanh_slope(V z) {
  using S = scalar_of<V>;
  const Exponentials<V> e = exponentials(S(-2) * abs(z));
  const V half = reciprocal_of_sum(S(2), e.expm1);
  const V t = where(e.exp < S(0.4), S(1) - (e.exp + e.exp) * half, e.expm1 * half);
  return {copysign(t, z), S(4) * e.exp * (half * half)};
}

template <class V>
struct Gaussian {
  V cdf, density;
};

// (4 + w) Q(w) / exp(-w^2 / 2), Q the upper tail of the Gaussian, as a polynomial in t = (w - 4) / (w + 4) for w up to
// gaussian_end: mpmath.chebyfit in 50 digits, rounded.
template <class V>
FASTSSM_HD FASTSSM_INLINE V mills_polynomial(V t, float) {
  return polynomial(
      t, 0.755285131f, -0.607896659f, 0.387137368f, -0.186521281f, 0.0603975331f, -0.00754526827f, -0.00348931728f,
      0.0016452193f, 0.000171054612f, -0.000231798678f, -5.15565933e-5f);
}
template <class V>
FASTSSM_HD FASTSSM_INLINE V mills_polynomial(V t, double) {
  return polynomial(
      t, 0.75528513041575148, -0.60789664197189176, 0.38713740074221934, -0.18652185795969339, 0.060396574890676654,
      -0.0075401889656250168, -0.0034796923618040596, 0.0016308184424805886, 0.00013334424978358428,
      -0.00023109482414997104, -1.9078434059248705e-6, 3.5144214968257804e-5, 7.1493083254784009e-7,
      -5.9190131861540441e-6, -6.2499069953697852e-7, 1.0200713392568464e-6, 2.6354310560684454e-7,
      -1.5461968191221919e-7, -7.6347128434410861e-8, 1.4842390072751343e-8, 1.3976528155950822e-8,
      -1.015295717649618e-11, -9.990624160023276e-10);
}

// The Gaussian distribution function and density: the square in the exponent is an exact one and a tail.
template <class V>
FASTSSM_HD FASTSSM_INLINE Gaussian<V> gaussian(V z) {
  using S = scalar_of<V>;
  const V w = abs(z), high = head(w);
  const V e = decay(S(0.5) * (high * high), S(0.5) * ((w - high) * (w + high)));
  const V r = S(1) / (S(4) + minimum(w, V(Real<S>::gaussian_end)));
  const V tail = e * (r * mills_polynomial(S(1) - S(8) * r, S()));
  return {where(z < S(0), tail, S(1) - tail), e * S(0.39894228040143267794)};
}

}  // namespace fastssm
