// The update of one member: weight noise before the gradient, clipping and the optimiser after it.
// Equations and constants: rnnbench/optim.py. Padding stays zero, since its gradient is.
#pragma once
#include "network.h"
#include "noise.h"

enum OptimizerKind { RMSPROP, LIBRNN, ADAM };

struct Protocol {
  int32_t optimizer, mean;   // mean: over the scored rows of a batch, instead of the sum
  double clip, noise;        // norm above which a gradient is rescaled (infinity: never); standard deviation of the noise
  double constants[4];       // rmsprop: decay, epsilon; librnn: decay, momentum, floor, limit; adam: beta1, beta2, epsilon
  uint64_t key;              // of the stream of the noise
};

// out = parameters with noise on W and U. Noise is numbered matrix by matrix, input by input, and within an input in the
// order of the cell's gates, so without any padding.
template <class T> static void add_noise(const Net &net, const Protocol &protocol, uint64_t update, const T *p, T *out, T *z) {
  typedef typename Simd<T>::I I;
  constexpr int L = lanes<T>;
  const int H = net.H, columns = net.gates * H;
  const int64_t total = (int64_t)(net.I + H) * columns;
  for (int64_t i = 0; i < total; i += NORMALS) normals(protocol.key, update, i / NORMALS, z + i);
  const T sigma = protocol.noise;
  I lane;
  for (int i = 0; i < L; i++) lane[i] = i;
  auto spread = [&](int64_t at, const T *from, int n) {
    for (; n >= L; n -= L, at += L, from += L) store(out + at, load(p + at) + sigma * load(from));
    if (n > 0) store(out + at, load(p + at) + sigma * keep(load(from), lane < n));
  };
  for (int i = 0; i < net.I + H; i++, z += columns) {
    const bool recurrent = i >= net.I;
    const int64_t to = recurrent ? net.U + (i - net.I) * net.J : net.W + i * net.J;
    if (net.gate == H)
      spread(to, z, columns);
    else
      for (int k = 0; k < net.gates; k++) spread(to + (recurrent ? net.u_order[k] : k) * net.gate, z + k * H, H);
  }
  memset(out + net.W + net.I * net.J, 0, net.J * sizeof(T));
  memcpy(out + net.b, p + net.b, (net.total - net.b) * sizeof(T));
}

template <class T> static double norm_of(const T *g, int64_t n) {
  constexpr int L = lanes<T>;
  typename Simd<T>::V s[4] = {};
  int64_t i = 0;
  for (; i + 4 * L <= n; i += 4 * L)
    UNROLL for (int j = 0; j < 4; j++) s[j] += load(g + i + j * L) * load(g + i + j * L);
  for (; i < n; i += L) s[0] += load(g + i) * load(g + i);
  double squares = sum_lanes<T>((s[0] + s[1]) + (s[2] + s[3]));
  if (std::isinf(squares)) {  // of float numbers the squares may be too large for float
    squares = 0;
    for (i = 0; i < n; i++) squares += (double)g[i] * g[i];
  }
  return std::sqrt(squares);
}

// p, g and the optimiser's accumulators a and b: [n]; t counts updates from 1; norm is that of g.
template <class T> static void update(const Protocol &o, double lr_, int64_t t, double norm, int64_t n, T *p, T *g, T *a, T *b) {
  constexpr int L = lanes<T>;
  const T scale = norm > o.clip ? o.clip / norm : 1, lr = lr_;
  const T c0 = o.constants[0], c1 = o.constants[1], c2 = o.constants[2];
  if (o.optimizer == RMSPROP) {
    const T fresh = 1 - o.constants[0];
    for (int64_t i = 0; i < n; i += L) {
      auto x = load(g + i) * scale, ms = load(a + i) * c0 + x * x * fresh;
      store(a + i, ms);
      store(p + i, load(p + i) - lr * x * inverse_root(ms + c1));
    }
  } else if (o.optimizer == LIBRNN) {
    const T fresh = 1 - o.constants[0];
    for (int64_t i = 0; i < n; i += L) {
      auto x = load(g + i) * scale, ms = load(a + i) * c0 + x * x * fresh;
      store(a + i, ms);
      store(b + i, load(b + i) * c1 - lr * x / vmax(splat(c2), vsqrt(ms)));
    }
    const T length = norm_of(b, n) / o.constants[3], shorten = length > 1 ? 1 / length : T(1);
    for (int64_t i = 0; i < n; i += L) store(p + i, load(p + i) + load(b + i) * shorten);
  } else {
    const T fresh1 = 1 - o.constants[0], fresh2 = 1 - o.constants[1];
    const T step = lr_ / (1 - std::pow(o.constants[0], (double)t)), bias = 1 / (1 - std::pow(o.constants[1], (double)t));
    for (int64_t i = 0; i < n; i += L) {
      auto x = load(g + i) * scale, m = load(a + i), v = load(b + i) * c1 + x * x * fresh2;
      m = m + (x - m) * fresh1;
      store(a + i, m), store(b + i, v);
      store(p + i, load(p + i) - step * m / (vsqrt(v * bias) + c2));
    }
  }
}
