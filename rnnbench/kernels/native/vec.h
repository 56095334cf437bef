// Vectors of the machine's width, for float and double, and the functions on them that the recurrences need.
//
// Written in the vector extensions that GCC and Clang share: AVX-512, AVX2 and NEON come from one text.
// Constants of the approximations for float: exp and log from Cephes (Moshier), expf.c and logf.c; the others are
// minimax fits of our own. tests/test_kernels.py holds all of them against NumPy. In double the C library is called,
// lane by lane: double is there to prove the kernels right, not to be fast.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#if defined(__AVX__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#elif defined(__AVX__)
#define VECTOR_BYTES 32
#else
#define VECTOR_BYTES 16
#endif
#define INLINE static inline __attribute__((always_inline))
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 10")
#endif

typedef float vf __attribute__((vector_size(VECTOR_BYTES), aligned(4), may_alias));
typedef int32_t vfi __attribute__((vector_size(VECTOR_BYTES), aligned(4), may_alias));
typedef uint32_t vfu __attribute__((vector_size(VECTOR_BYTES), aligned(4), may_alias));
typedef double vd __attribute__((vector_size(VECTOR_BYTES), aligned(8), may_alias));
typedef int64_t vdi __attribute__((vector_size(VECTOR_BYTES), aligned(8), may_alias));
typedef uint64_t vdu __attribute__((vector_size(VECTOR_BYTES), aligned(8), may_alias));

// The vector V, the vector of integers I as wide, and the number of lanes that belong to a number type.
template <class T> struct Simd;
template <> struct Simd<float> { typedef vf V; typedef vfi I; typedef int32_t Int; };
template <> struct Simd<double> { typedef vd V; typedef vdi I; typedef int64_t Int; };
template <class T> constexpr int lanes = VECTOR_BYTES / (int)sizeof(T);

// Blocks of registers for a matrix product: rows x vectors, columns of a product with one row, chains to hide latency.
#if defined(__AVX512F__)
enum { BLOCK_ROWS = 8, BLOCK_VECTORS = 3, ROW_VECTORS = 9, CHAINS = 10 };  // 24 sums in 32 registers
#elif defined(__AVX__)
enum { BLOCK_ROWS = 4, BLOCK_VECTORS = 3, ROW_VECTORS = 6, CHAINS = 10 };  // 12 sums in 16 registers
#else
enum { BLOCK_ROWS = 8, BLOCK_VECTORS = 3, ROW_VECTORS = 9, CHAINS = 10 };  // 24 sums in NEON's 32 registers
#endif

INLINE vf load(const float *p) { return *(const vf *)p; }
INLINE vd load(const double *p) { return *(const vd *)p; }
INLINE void store(float *p, vf v) { *(vf *)p = v; }
INLINE void store(double *p, vd v) { *(vd *)p = v; }
INLINE vfi load_bits(const float *p) { return *(const vfi *)p; }
INLINE vdi load_bits(const double *p) { return *(const vdi *)p; }
INLINE vf splat(float a) { return a - (vf){}; }
INLINE vd splat(double a) { return a - (vd){}; }
INLINE vf keep(vf v, vfi mask) { return (vf)((vfi)v & mask); }  // v where the mask is -1, else 0
INLINE vd keep(vd v, vdi mask) { return (vd)((vdi)v & mask); }

// Where one of the two is not a number, the second is returned: what may be so stands second, and is passed on.
#if defined(__AVX512F__)  // one instruction instead of a comparison and a blend
INLINE vf vmax(vf a, vf b) { return (vf)_mm512_max_ps((__m512)a, (__m512)b); }
INLINE vf vmin(vf a, vf b) { return (vf)_mm512_min_ps((__m512)a, (__m512)b); }
INLINE vf vsqrt(vf x) { return (vf)_mm512_sqrt_ps((__m512)x); }
#elif defined(__AVX__)
INLINE vf vmax(vf a, vf b) { return (vf)_mm256_max_ps((__m256)a, (__m256)b); }
INLINE vf vmin(vf a, vf b) { return (vf)_mm256_min_ps((__m256)a, (__m256)b); }
INLINE vf vsqrt(vf x) { return (vf)_mm256_sqrt_ps((__m256)x); }
#else
INLINE vf vmax(vf a, vf b) { return a > b ? a : b; }
INLINE vf vmin(vf a, vf b) { return a < b ? a : b; }
INLINE vf vsqrt(vf x) { for (int i = 0; i < lanes<float>; i++) x[i] = sqrtf(x[i]); return x; }
#endif
#if defined(__AVX512F__)
INLINE vf inverse_root(vf x) {  // 14 bits by the processor and a step of Newton's: to rounding, at a fifth of the cost
  vf y = (vf)_mm512_rsqrt14_ps((__m512)x);
  return y * (1.5f - 0.5f * x * y * y);
}
#else
INLINE vf inverse_root(vf x) { return 1.f / vsqrt(x); }
#endif
INLINE vd vmax(vd a, vd b) { return a > b ? a : b; }
INLINE vd vmin(vd a, vd b) { return a < b ? a : b; }

template <class V, class F> INLINE V each_lane(V x, F f) {
  for (int i = 0; i < (int)(sizeof(V) / sizeof(x[0])); i++) x[i] = f(x[i]);
  return x;
}
INLINE vd vsqrt(vd x) { return each_lane(x, [](double a) { return std::sqrt(a); }); }
INLINE vd inverse_root(vd x) { return 1.0 / vsqrt(x); }

// The sum of the lanes, pairwise and so in the same order on every machine of one width.
template <class T> INLINE T sum_lanes(typename Simd<T>::V v) {
  T part[lanes<T>];
  store(part, v);
  for (int n = lanes<T> / 2; n > 0; n /= 2)
    for (int i = 0; i < n; i++) part[i] += part[i + n];
  return part[0];
}

// exp(x) = scale (1 + p), scale = 2^n, p = expm1 of the reduced argument; x within [-87, 88].
INLINE void exp_parts(vf x, vf &scale, vf &p) {
  const vf magic = splat(12582912.f);  // 1.5 * 2^23: adding it rounds to a whole number in the lowest bits
  vf t = x * 1.44269504088896341f + magic, n = t - magic;
  vf f = x - n * 0.693359375f;  // ln 2 in two parts, the first exact
  f = f + n * 2.12194440e-4f;
  vf f2 = f * f;
  vf q = (f * 1.9875691500e-4f + 1.3981999507e-3f) * f2 + (f * 8.3334519073e-3f + 4.1665795894e-2f);
  q = q * f2 + (f * 1.6666665459e-1f + 5.0000001201e-1f);
  p = q * f2 + f;
  scale = (vf)(((vfi)t << 23) + (127 << 23));
}
INLINE vf exp_negative(vf x) {  // x <= 0
  vf scale, p;
  exp_parts(vmax(splat(-87.f), x), scale, p);
  return scale * p + scale;
}
INLINE vf sigmoid(vf x) {
  vf scale, p;
  exp_parts(vmin(splat(88.f), vmax(splat(-87.f), -x)), scale, p);
  return 1.f / (scale * p + (scale + 1.f));
}
INLINE vf vtanh(vf x) {  // expm1(2x) / (expm1(2x) + 2), accurate near 0 too
  vf scale, p;
  exp_parts(vmin(splat(40.f), vmax(splat(-40.f), x + x)), scale, p);
  vf e = scale * p + (scale - 1.f);
  return e / (e + 2.f);
}
INLINE vf log1p_unit(vf e) {  // log(1 + e), 0 <= e <= 1, relative error 5e-9 before rounding
  vf q = splat(-0.003243904560804367f);
  q = q * e + 0.019850919023156166f;
  q = q * e - 0.05695851147174835f;
  q = q * e + 0.106035515666008f;
  q = q * e - 0.1530553102493286f;
  q = q * e + 0.1967591792345047f;
  q = q * e - 0.2495412975549698f;
  q = q * e + 0.3332996070384979f;
  q = q * e - 0.4999990165233612f;
  q = q * e + 1.f;
  return q * e;
}
INLINE vd exp_negative(vd x) { return each_lane(x, [](double a) { return std::exp(a); }); }
INLINE vd sigmoid(vd x) { return each_lane(x, [](double a) { return 1.0 / (1.0 + std::exp(-a)); }); }
INLINE vd vtanh(vd x) { return each_lane(x, [](double a) { return std::tanh(a); }); }
INLINE vd log1p_unit(vd x) { return each_lane(x, [](double a) { return std::log1p(a); }); }
INLINE vf sign_to_minus(vf x) { return (vf)((vfi)x | INT32_MIN); }  // -|x|
INLINE vd sign_to_minus(vd x) { return (vd)((vdi)x | INT64_MIN); }
