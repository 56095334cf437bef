// What the core can do: multiply-adds that wait for nothing, as wide as the kernels' vectors. Compiled by scripts/workload.py.
#include "vec.h"

#if defined(__AVX512F__) || defined(__aarch64__)
enum { SUMS = 24 };  // of 32 registers
#else
enum { SUMS = 12 };  // of 16
#endif

// n times SUMS multiply-adds of whole vectors; returns the number of multiply-adds of single numbers.
extern "C" __attribute__((visibility("default"))) int64_t multiply_adds(int64_t n, float factor, float term, float *out) {
  const vf b = splat(factor), c = splat(term);
  vf sums[SUMS];
#pragma GCC unroll 24
  for (int i = 0; i < SUMS; i++) sums[i] = splat(0.001f * i);
  for (int64_t k = 0; k < n; k++) {
#pragma GCC unroll 24
    for (int i = 0; i < SUMS; i++) sums[i] = sums[i] * b + c;
  }
  vf total = {};
  for (int i = 0; i < SUMS; i++) total += sums[i];
  *out = sum_lanes<float>(total);
  return n * SUMS * lanes<float>;
}
