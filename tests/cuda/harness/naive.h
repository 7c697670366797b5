// What tests of the engine without torch compute naively: its products, and the loss of its terms.
#pragma once

#include <stdexcept>

#include "cuda/engine.h"
#include "tests/cases.h"

namespace naive {

template <class T>
using View = fastssm::cuda::View<T>;

template <class T>
void multiply(View<const T> a, View<const T> b, View<T> c, bool accumulate) {
  if (a.columns != b.rows || a.rows != c.rows || b.columns != c.columns || !a.rows || !a.columns || !b.columns)
    throw std::logic_error("views that do not fit each other");
  for (int64_t i = 0; i < c.rows; i++)
    for (int64_t j = 0; j < c.columns; j++) {
      T sum(0);
      for (int64_t k = 0; k < a.columns; k++)
        sum += a.p[i * a.row_stride + k * a.column_stride] * b.p[k * b.row_stride + j * b.column_stride];
      T& out = c.p[i * c.row_stride + j * c.column_stride];
      out = accumulate ? out + sum : sum;
    }
}

// Compare the loss with the terms of `out`, which lie on the host.
template <class T>
void expect_loss(T loss, const fastssm::Objective<T>& out, int64_t samples, double tolerance = 1e-7) {
  double sum = 0, size = 0;
  for (int64_t b = 0; b < samples; b++) {
    const double part = double(out.weight[b]) * (double(out.projected_jacobian[b]) + double(out.square[b]));
    sum += part, size += std::abs(part);
  }
  if (std::isfinite(sum)) cases::expect_close<T>({loss}, {sum}, size, tolerance, "the loss");
}

}  // namespace naive
