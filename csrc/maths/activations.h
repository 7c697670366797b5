// Generated from src/fastssm/activations.py by tools/generate.py: change it there.
#pragma once

#include "numerics.h"

namespace fastssm {

constexpr int activation_count = 23;
constexpr const char* activation_names[] = {"identity", "relu", "leaky_relu", "softplus", "log_sigmoid", "sigmoid",
                                            "tanh", "silu", "gelu", "gelu_tanh", "mish", "elu", "celu", "softsign",
                                            "sin", "selu", "tanhshrink", "hardswish", "hardsigmoid", "hardtanh",
                                            "relu6", "softshrink", "hardshrink"};
constexpr bool activation_is_curved[] = {false, false, false, true, true, true, true, true, true, true, true, true,
                                         true, true, true, true, true, true, false, false, false, false, false};
constexpr int activation_parameters[] = {0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 1, 0, 0, 0, 0, 2, 2, 1, 1};

// X(row, name, ...) for each row of the table.
#define FASTSSM_FOR_EACH_ACTIVATION(X, ...)               \
  X(0, identity, __VA_ARGS__)                             \
  X(1, relu, __VA_ARGS__)                                 \
  X(2, leaky_relu, __VA_ARGS__)                           \
  X(3, softplus, __VA_ARGS__)                             \
  X(4, log_sigmoid, __VA_ARGS__)                          \
  X(5, sigmoid, __VA_ARGS__)                              \
  X(6, tanh, __VA_ARGS__)                                 \
  X(7, silu, __VA_ARGS__)                                 \
  X(8, gelu, __VA_ARGS__)                                 \
  X(9, gelu_tanh, __VA_ARGS__)                            \
  X(10, mish, __VA_ARGS__)                                \
  X(11, elu, __VA_ARGS__)                                 \
  X(12, celu, __VA_ARGS__)                                \
  X(13, softsign, __VA_ARGS__)                            \
  X(14, sin, __VA_ARGS__)                                 \
  X(15, selu, __VA_ARGS__)                                \
  X(16, tanhshrink, __VA_ARGS__)                          \
  X(17, hardswish, __VA_ARGS__)                           \
  X(18, hardsigmoid, __VA_ARGS__)                         \
  X(19, hardtanh, __VA_ARGS__)                            \
  X(20, relu6, __VA_ARGS__)                               \
  X(21, softshrink, __VA_ARGS__)                          \
  X(22, hardshrink, __VA_ARGS__)

// `z`.
template <int ORDER, class V, class S>
FASTSSM_HD FASTSSM_INLINE Jet<V> identity_jet(V z, const S*) {
  if constexpr (ORDER == 0) return {z};
  const V d1 = full_like(z, S(1.0));
  if constexpr (ORDER == 1) return {z, d1};
  const V d2 = full_like(z, S(0.0));
  if constexpr (ORDER == 2) return {z, d1, d2};
  return {z, d1, d2, d2};
}

// `max(z, 0)`.
template <int ORDER, class V, class S>
FASTSSM_HD FASTSSM_INLINE Jet<V> relu_jet(V z, const S*) {
  const V f = -minimum(-z, S(0.0));
  if constexpr (ORDER == 0) return {f};
  const V d1 = where(z > S(0.0), full_like(z, S(1.0)), S(0.0));
  if constexpr (ORDER == 1) return {f, d1};
  const V d2 = full_like(z, S(0.0));
  if constexpr (ORDER == 2) return {f, d1, d2};
  return {f, d1, d2, d2};
}

// `z` above zero, `slope z` below.
template <int ORDER, class V, class S>
FASTSSM_HD FASTSSM_INLINE Jet<V> leaky_relu_jet(V z, const S* c) {
  const S negative_slope = c[0];
  const V v1 = where(z > S(0.0), full_like(z, S(1.0)), negative_slope);
  const V f = v1 * z;
  if constexpr (ORDER == 0) return {f};
  if constexpr (ORDER == 1) return {f, v1};
  const V d2 = full_like(z, S(0.0));
  if constexpr (ORDER == 2) return {f, v1, d2};
  return {f, v1, d2, d2};
}

// `log(1 + e^(beta z)) / beta`, and the line `z` where `beta z > threshold`, as torch has it.
template <int ORDER, class V, class S>
FASTSSM_HD FASTSSM_INLINE Jet<V> softplus_jet(V z, const S* c) {
  const S beta = c[0], threshold = c[1];
  const auto [value, p, n] = softplus_sigmoids(z, beta, threshold);
  if constexpr (ORDER == 0) return {value};
  if constexpr (ORDER == 1) return {value, p};
  const V d2 = p * n * beta;
  if constexpr (ORDER == 2) return {value, p, d2};
  const V d3 = d2 * (n - p) * beta;
  return {value, p, d2, d3};
}

// `-log(1 + e^-z)`.
template <int ORDER, class V, class S>
FASTSSM_HD FASTSSM_INLINE Jet<V> log_sigmoid_jet(V z, const S*) {
  const auto [value, p, n] = softplus_sigmoids(-z);
  const V f = -value;
  if constexpr (ORDER == 0) return {f};
  if constexpr (ORDER == 1) return {f, p};
  const V d2 = -n * p;
  if constexpr (ORDER == 2) return {f, p, d2};
  const V d3 = d2 * (p - n);
  return {f, p, d2, d3};
}

// `1 / (1 + e^-z)`.
template <int ORDER, class V, class S>
FASTSSM_HD FASTSSM_INLINE Jet<V> sigmoid_jet(V z, const S*) {
  const auto [p, n] = sigmoids(z);
  if constexpr (ORDER == 0) return {p};
  const V d1 = p * n;
  if constexpr (ORDER == 1) return {p, d1};
  const V d2 = d1 * (n - p);
  if constexpr (ORDER == 2) return {p, d1, d2};
  const V d3 = d1 * (S(1.0) - S(6.0) * d1);
  return {p, d1, d2, d3};
}

// `tanh z`, whose slope `sech^2 z` as `1 - t^2` would lose every digit for `|z| > 9`.
template <int ORDER, class V, class S>
FASTSSM_HD FASTSSM_INLINE Jet<V> tanh_jet(V z, const S*) {
  const auto [t, slope] = tanh_slope(z);
  if constexpr (ORDER == 0) return {t};
  if constexpr (ORDER == 1) return {t, slope};
  const V d2 = S(-2.0) * t * slope;
  if constexpr (ORDER == 2) return {t, slope, d2};
  const V d3 = slope * (S(4.0) * t * t - (slope + slope));
  return {t, slope, d2, d3};
}

// `z sigmoid(z)`.
template <int ORDER, class V, class S>
FASTSSM_HD FASTSSM_INLINE Jet<V> silu_jet(V z, const S*) {
  const auto [p, n] = sigmoids(z);
  const V f = z * p;
  if constexpr (ORDER == 0) return {f};
  const V v1 = p * n;
  const V d1 = p + z * v1;
  if constexpr (ORDER == 1) return {f, d1};
  const V v2 = v1 * (n - p);
  const V d2 = S(2.0) * v1 + z * v2;
  if constexpr (ORDER == 2) return {f, d1, d2};
  const V d3 = S(3.0) * v2 + z * (v1 * (S(1.0) - S(6.0) * v1));
  return {f, d1, d2, d3};
}

// `z Phi(z)` with the Gaussian distribution function `Phi`.
template <int ORDER, class V, class S>
FASTSSM_HD FASTSSM_INLINE Jet<V> gelu_jet(V z, const S*) {
  const auto [cdf, density] = gaussian(z);
  const V f = z * cdf;
  if constexpr (ORDER == 0) return {f};
  const V d1 = cdf + z * density;
  if constexpr (ORDER == 1) return {f, d1};
  const V v1 = -z * density;
  const V d2 = S(2.0) * density + z * v1;
  if constexpr (ORDER == 2) return {f, d1, d2};
  const V d3 = S(3.0) * v1 + z * ((z * z - S(1.0)) * density);
  return {f, d1, d2, d3};
}

// `z (1 + tanh u) / 2` with `u = sqrt(2/pi) (z + 0.044715 z^3)`.
template <int ORDER, class V, class S>
FASTSSM_HD FASTSSM_INLINE Jet<V> gelu_tanh_jet(V z, const S*) {
  const auto [p, n] = sigmoids_of_cubic(z, 1.5957691216057308, 0.07135481627260025);
  const V f = z * p;
  if constexpr (ORDER == 0) return {f};
  const V v1 = p * n;
  const V v2 = z * z;
  const V v3 = S(1.5957691216057308) + S(0.21406444881780073) * v2;
  const V v4 = z * v3;
  const V d1 = p + v1 * v4;
  if constexpr (ORDER == 1) return {f, d1};
  const V v5 = v4 * v3;
  const V v6 = n - p;
  const V d2 = v1 * (S(3.1915382432114616) + S(0.8562577952712029) * v2 + v5 * v6);
  if constexpr (ORDER == 2) return {f, d1, d2};
  const V v7 = S(3.0) * (S(1.5957691216057308) + S(0.6421933464534022) * v2) * v6 + v5 * (S(1.0) - S(6.0) * v1);
  const V d3 = v1 * (S(1.7125155905424059) * z + v3 * v7);
  return {f, d1, d2, d3};
}

// `z tanh(softplus(z))`.
template <int ORDER, class V, class S>
FASTSSM_HD FASTSSM_INLINE Jet<V> mish_jet(V z, const S*) {
  const auto v1 = z > S(0.0);
  const auto [e, expm1] = exponentials(-abs(z));
  const V v2 = e * e;
  const V v3 = S(2.0) * (e + v2);
  const V v4 = S(2.0) * e + v2;
  const V v5 = where(v1, S(1.0) + v3, S(2.0) + v4);
  const V v6 = where(v1, S(1.0) - S(2.0) * v2 / v5, v4 / v5);
  const V f = z * v6;
  if constexpr (ORDER == 0) return {f};
  const V v7 = S(1.0) + e;
  const V v8 = where(v1, v3, S(2.0) * v7) / v5;
  const V v9 = where(v1, S(1.0), e) / v7;
  const V d1 = v6 + v8 * (v8 * (z * v9));
  if constexpr (ORDER == 1) return {f, d1};
  const V v10 = where(v1, e, S(1.0)) / v7;
  const V v11 = v9 * (v10 - S(2.0) * v6 * v9);
  const V d2 = v8 * (v8 * (S(2.0) * v9 + z * v11));
  if constexpr (ORDER == 2) return {f, d1, d2};
  const V v12 = v9 * (S(4.0) * v6 * v6 * v9 - S(6.0) * v6 * v10 - S(2.0) * v8 * v8 * v9);
  const V d3 = v8 * (v8 * (S(3.0) * v11 + z * (v9 * (v10 * (v10 - v9) + v12))));
  return {f, d1, d2, d3};
}

// `z` above zero, `alpha (e^z - 1)` below.
template <int ORDER, class V, class S>
FASTSSM_HD FASTSSM_INLINE Jet<V> elu_jet(V z, const S* c) {
  const S alpha = c[0];
  const auto v1 = z > S(0.0);
  const auto [e, expm1] = exponentials(minimum(z, S(0.0)));
  const V f = where(v1, z, alpha * expm1);
  if constexpr (ORDER == 0) return {f};
  const V v2 = alpha * e;
  const V d1 = where(v1, S(1.0), v2);
  if constexpr (ORDER == 1) return {f, d1};
  const V d2 = where(v1, S(0.0), v2);
  if constexpr (ORDER == 2) return {f, d1, d2};
  return {f, d1, d2, d2};
}

// `z` above zero, `alpha (e^(z/alpha) - 1)` below.
template <int ORDER, class V, class S>
FASTSSM_HD FASTSSM_INLINE Jet<V> celu_jet(V z, const S* c) {
  const S alpha = c[0];
  const auto v1 = z > S(0.0);
  const auto [e, expm1] = exponentials(minimum(z, S(0.0)) / alpha);
  const V f = where(v1, z, alpha * expm1);
  if constexpr (ORDER == 0) return {f};
  const V d1 = where(v1, S(1.0), e);
  if constexpr (ORDER == 1) return {f, d1};
  const V d2 = where(v1, S(0.0), e / alpha);
  if constexpr (ORDER == 2) return {f, d1, d2};
  const V d3 = d2 / alpha;
  return {f, d1, d2, d3};
}

// `z / (1 + |z|)`.
template <int ORDER, class V, class S>
FASTSSM_HD FASTSSM_INLINE Jet<V> softsign_jet(V z, const S*) {
  const V v1 = S(1.0) + abs(z);
  const V f = z / v1;
  if constexpr (ORDER == 0) return {f};
  const V d1 = S(1.0) / (v1 * v1);
  if constexpr (ORDER == 1) return {f, d1};
  const V d2 = S(-2.0) * sign(z) * d1 / v1;
  if constexpr (ORDER == 2) return {f, d1, d2};
  const V d3 = S(6.0) * d1 * d1;
  return {f, d1, d2, d3};
}

// `sin(omega z)`.
template <int ORDER, class V, class S>
FASTSSM_HD FASTSSM_INLINE Jet<V> sin_jet(V z, const S* c) {
  const S omega = c[0];
  const auto [sine, cosine] = sin_cos(omega * z);
  if constexpr (ORDER == 0) return {sine};
  const V d1 = omega * cosine;
  if constexpr (ORDER == 1) return {sine, d1};
  const S k = omega * omega;
  const V d2 = -k * sine;
  if constexpr (ORDER == 2) return {sine, d1, d2};
  const V d3 = -(k * omega) * cosine;
  return {sine, d1, d2, d3};
}

// `s z` above zero, `s a (e^z - 1)` below, with the constants `s` and `a` of self-normalising networks.
template <int ORDER, class V, class S>
FASTSSM_HD FASTSSM_INLINE Jet<V> selu_jet(V z, const S*) {
  const auto v1 = z > S(0.0);
  const V v2 = minimum(z, S(0.0));
  const auto [e, expm1] = exponentials(v2);
  const V f = where(v1, S(1.0507009873554805) * z, S(1.7580993408473766) * expm1);
  if constexpr (ORDER == 0) return {f};
  const V v3 = S(1.7580993408473766) * e;
  const V d1 = where(v1, S(1.0507009873554805), v3);
  if constexpr (ORDER == 1) return {f, d1};
  const V d2 = where(z < S(0.0), v3, v2);
  if constexpr (ORDER == 2) return {f, d1, d2};
  return {f, d1, d2, d2};
}

// `z - tanh z`.
template <int ORDER, class V, class S>
FASTSSM_HD FASTSSM_INLINE Jet<V> tanhshrink_jet(V z, const S*) {
  const auto [t, slope] = tanh_slope(z);
  const V f = z - t;
  if constexpr (ORDER == 0) return {f};
  const V d1 = t * t;
  if constexpr (ORDER == 1) return {f, d1};
  const V d2 = S(2.0) * t * slope;
  if constexpr (ORDER == 2) return {f, d1, d2};
  const V d3 = slope * (slope + slope - S(4.0) * d1);
  return {f, d1, d2, d3};
}

// `z min(max(z + 3, 0), 6) / 6`.
template <int ORDER, class V, class S>
FASTSSM_HD FASTSSM_INLINE Jet<V> hardswish_jet(V z, const S*) {
  const V v1 = -minimum(-minimum(z + S(3.0), S(6.0)), S(0.0));
  const V f = z * (v1 / S(6.0));
  if constexpr (ORDER == 0) return {f};
  const auto v2 = z > S(-3.0);
  const auto v3 = z < S(3.0);
  const V d1 = where(v2, where(v3, z / S(3.0) + S(0.5), S(1.0)), v1);
  if constexpr (ORDER == 1) return {f, d1};
  const V d2 = where(v2, where(v3, full_like(z, S(0.3333333333333333)), S(0.0)), v1);
  if constexpr (ORDER == 2) return {f, d1, d2};
  const V d3 = where(v2, S(0.0), v1);
  return {f, d1, d2, d3};
}

// `min(max(z + 3, 0), 6) / 6`.
template <int ORDER, class V, class S>
FASTSSM_HD FASTSSM_INLINE Jet<V> hardsigmoid_jet(V z, const S*) {
  const V f = -minimum(-minimum(z + S(3.0), S(6.0)), S(0.0)) / S(6.0);
  if constexpr (ORDER == 0) return {f};
  const V d1 = where(z > S(-3.0), where(z < S(3.0), full_like(z, S(0.16666666666666666)), S(0.0)), S(0.0));
  if constexpr (ORDER == 1) return {f, d1};
  const V d2 = full_like(z, S(0.0));
  if constexpr (ORDER == 2) return {f, d1, d2};
  return {f, d1, d2, d2};
}

// `min(max(z, low), high)`.
template <int ORDER, class V, class S>
FASTSSM_HD FASTSSM_INLINE Jet<V> hardtanh_jet(V z, const S* c) {
  const S min_val = c[0], max_val = c[1];
  const V f = -minimum(-minimum(z, max_val), -min_val);
  if constexpr (ORDER == 0) return {f};
  const V d1 = where(z > min_val, where(z < max_val, full_like(z, S(1.0)), S(0.0)), S(0.0));
  if constexpr (ORDER == 1) return {f, d1};
  const V d2 = full_like(z, S(0.0));
  if constexpr (ORDER == 2) return {f, d1, d2};
  return {f, d1, d2, d2};
}

template <int ORDER, class V, class S>
FASTSSM_HD FASTSSM_INLINE Jet<V> relu6_jet(V z, const S* c) { return hardtanh_jet<ORDER>(z, c); }

// `z` moved by `width` towards zero, zero where it is nearer than that.
template <int ORDER, class V, class S>
FASTSSM_HD FASTSSM_INLINE Jet<V> softshrink_jet(V z, const S* c) {
  const S lambd = c[0];
  const V f = z + minimum(-minimum(z, lambd), lambd);
  if constexpr (ORDER == 0) return {f};
  const V d1 = where(abs(z) > lambd, full_like(z, S(1.0)), S(0.0));
  if constexpr (ORDER == 1) return {f, d1};
  const V d2 = full_like(z, S(0.0));
  if constexpr (ORDER == 2) return {f, d1, d2};
  return {f, d1, d2, d2};
}

// `z`, zero where `|z| <= width`.
template <int ORDER, class V, class S>
FASTSSM_HD FASTSSM_INLINE Jet<V> hardshrink_jet(V z, const S* c) {
  const S lambd = c[0];
  const auto v1 = abs(z) > lambd;
  const V f = where(v1, z, z - z);
  if constexpr (ORDER == 0) return {f};
  const V d1 = where(v1, full_like(z, S(1.0)), S(0.0));
  if constexpr (ORDER == 1) return {f, d1};
  const V d2 = full_like(z, S(0.0));
  if constexpr (ORDER == 2) return {f, d1, d2};
  return {f, d1, d2, d2};
}

// Row ID of the table and its first ORDER derivatives at z; c are the activation's parameters.
template <int ID, int ORDER, class V, class S>
FASTSSM_HD FASTSSM_INLINE Jet<V> jet(V z, const S* c) {
  static_assert(ID >= 0 && ID < activation_count && ORDER >= 0 && ORDER <= 3);
  if constexpr (ID == 0) return identity_jet<ORDER>(z, c);
  if constexpr (ID == 1) return relu_jet<ORDER>(z, c);
  if constexpr (ID == 2) return leaky_relu_jet<ORDER>(z, c);
  if constexpr (ID == 3) return softplus_jet<ORDER>(z, c);
  if constexpr (ID == 4) return log_sigmoid_jet<ORDER>(z, c);
  if constexpr (ID == 5) return sigmoid_jet<ORDER>(z, c);
  if constexpr (ID == 6) return tanh_jet<ORDER>(z, c);
  if constexpr (ID == 7) return silu_jet<ORDER>(z, c);
  if constexpr (ID == 8) return gelu_jet<ORDER>(z, c);
  if constexpr (ID == 9) return gelu_tanh_jet<ORDER>(z, c);
  if constexpr (ID == 10) return mish_jet<ORDER>(z, c);
  if constexpr (ID == 11) return elu_jet<ORDER>(z, c);
  if constexpr (ID == 12) return celu_jet<ORDER>(z, c);
  if constexpr (ID == 13) return softsign_jet<ORDER>(z, c);
  if constexpr (ID == 14) return sin_jet<ORDER>(z, c);
  if constexpr (ID == 15) return selu_jet<ORDER>(z, c);
  if constexpr (ID == 16) return tanhshrink_jet<ORDER>(z, c);
  if constexpr (ID == 17) return hardswish_jet<ORDER>(z, c);
  if constexpr (ID == 18) return hardsigmoid_jet<ORDER>(z, c);
  if constexpr (ID == 19) return hardtanh_jet<ORDER>(z, c);
  if constexpr (ID == 20) return relu6_jet<ORDER>(z, c);
  if constexpr (ID == 21) return softshrink_jet<ORDER>(z, c);
  if constexpr (ID == 22) return hardshrink_jet<ORDER>(z, c);
}

}  // namespace fastssm
