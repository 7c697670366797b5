// The parameters of samples.cu.
#pragma once

#include <cstdint>

struct SampleArrays {
  const float* in;
  float* out;
  int64_t count;
};

struct SampleProduct {
  const uint32_t* a;
  const uint32_t* b;
  const float* c;
  float* d;
};
