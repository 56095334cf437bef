// One step of each cell, forward and back, for the rows of one step. Equations: rnnbench/cells.py.
//
// What is kept of a row (`act`), each piece Hp wide:   GRU  z r h_tilde   cuDNN's  r z h_tilde (U h)_h   LSTM  i f c_tilde o c tanh(c)
// Its gradient (`pre` in the backward pass):           in the order of U's columns; cuDNN's form has W's part behind it.
#pragma once
#include "tile.h"

template <class T> void Tile<T>::forward(int t, int t0, int64_t base) {
  const int m = count[t], H = net.H, Hv = net.Hv;
  const size_t Hp = net.Hp, J = net.J, A = net.act, row = off[t] - base;
  const T *U = p + net.U, *h0 = previous(t, t0, base);
  T *ht = h + row * Hp, *a = act + row * A;
  const bool started = t > 0;  // before the first step the state is zero
  if (net.cell == TANH) {
    if (started) multiply<T>(m, Hv, H, h0, Hp, U, J, ht, Hp, ht, Hp, t % 2);
    for (size_t i = 0; i < m * Hp; i += L) store(ht + i, vtanh(load(ht + i)));
  } else if (net.cell == GRU) {
    // r first: the products for z and h_tilde hide the latency of the sigmoids
    T *z = a, *r = a + Hp, *n = a + 2 * Hp;
    if (started) multiply<T>(m, Hv, H, h0, Hp, U + Hp, J, r, A, r, A);
    for (int s = 0; s < m; s++)
      for (size_t i = 0; i < Hp; i += L) {
        V reset = sigmoid(load(r + s * A + i));
        store(r + s * A + i, reset);
        store(tmp + s * Hp + i, reset * load(h0 + s * Hp + i));
      }
    if (started) multiply<T>(m, Hv, H, h0, Hp, U, J, z, A, z, A);
    for (int s = 0; s < m; s++)
      for (size_t i = 0; i < Hp; i += L) store(z + s * A + i, sigmoid(load(z + s * A + i)));
    if (started) multiply<T>(m, Hv, H, tmp, Hp, U + 2 * Hp, J, n, A, n, A);
    for (int s = 0; s < m; s++)
      for (size_t i = 0; i < Hp; i += L) {
        V candidate = vtanh(load(n + s * A + i)), old = load(h0 + s * Hp + i);
        store(n + s * A + i, candidate);
        store(ht + s * Hp + i, old + load(z + s * A + i) * (candidate - old));
      }
  } else if (net.cell == CUDNN_GRU) {
    T *r = a, *z = a + Hp, *n = a + 2 * Hp, *q = a + 3 * Hp;  // columns of U: h_tilde, r, z
    if (started) {
      multiply<T>(m, 2 * Hv, H, h0, Hp, U + Hp, J, r, A, r, A);
      multiply<T>(m, Hv, H, h0, Hp, U, J, nullptr, 0, q, A);
    } else {
      for (int s = 0; s < m; s++) memset(q + s * A, 0, Hp * sizeof(T));
    }
    for (int s = 0; s < m; s++)
      for (size_t i = 0; i < Hp; i += L) {
        const size_t at = s * A + i;
        V reset = sigmoid(load(r + at)), update = sigmoid(load(z + at)), candidate = vtanh(load(n + at) + reset * load(q + at));
        store(r + at, reset), store(z + at, update), store(n + at, candidate);
        store(ht + s * Hp + i, candidate + update * (load(h0 + s * Hp + i) - candidate));
      }
  } else {
    T *y = pre + (off[t] - off[t0]) * J;
    const T *V_ = p + net.peephole, *c0 = before_c;
    size_t ldc = Hp;
    if (t > 0 && (g || t > t0)) c0 = act + (off[t - 1] - base) * A + 4 * Hp, ldc = A;
    if (started) multiply<T>(m, net.Jv, H, h0, Hp, U, J, y, J, y, J);
    // gates are packed in y: unaligned loads, and the last lanes of a gate are rubbish that lane_H takes out of c
    const size_t G = net.gate;
    for (int s = 0; s < m; s++)
      for (size_t i = 0; i < Hp; i += L) {
        const T *q = y + s * J + i;
        T *k = a + s * A + i;
        V old = load(c0 + s * ldc + i);
        V in = sigmoid(load(q) + load(V_ + i) * old), forget = sigmoid(load(q + G) + load(V_ + Hp + i) * old), candidate = vtanh(load(q + 2 * G));
        store(k, in), store(k + Hp, forget), store(k + 2 * Hp, candidate);
        store(k + 4 * Hp, keep(forget * old + in * candidate, load_bits(lane_H + i)));
      }
    for (int s = 0; s < m; s++)  // a loop of its own: shorter chains of dependent operations
      for (size_t i = 0; i < Hp; i += L) {
        T *k = a + s * A + i;
        V c = load(k + 4 * Hp), out = sigmoid(load(y + s * J + i + 3 * G) + load(V_ + 2 * Hp + i) * c), tc = vtanh(c);
        store(k + 3 * Hp, out), store(k + 5 * Hp, tc);
        store(ht + s * Hp + i, out * tc);
      }
  }
}

// In: dh, the gradient of the output of step t by all later steps. Out: dh of step t - 1, and the rows of `pre` of step t.
template <class T> void Tile<T>::backward(int t, size_t row) {
  const int m = count[t], H = net.H, Hv = net.Hv;
  const size_t Hp = net.Hp, A = net.act, D = net.d_width;
  const T *h0 = previous(t, -1, 0), *a = act + off[t] * A, *gh = dh_readout + off[t] * Hp;
  T *d = pre + row * D;
  memcpy(h_before + row * Hp, h0, m * Hp * sizeof(T));
  if (net.cell == TANH) {
    const T *ht = h + off[t] * Hp;
    for (size_t i = 0; i < m * Hp; i += L) {
      V y = load(ht + i);
      store(d + i, (load(dh + i) + load(gh + i)) * (T(1) - y * y));
    }
    if (t) multiply<T>(m, Hv, H, d, D, UT, Hp, nullptr, 0, dh, Hp, t % 2);
  } else if (net.cell == GRU) {
    T *r_h = rh + row * Hp;
    for (int s = 0; s < m; s++)
      for (size_t i = 0; i < Hp; i += L) {
        const size_t at = s * A + i, to = s * D + i, in = s * Hp + i;
        V z = load(a + at), r = load(a + at + Hp), n = load(a + at + 2 * Hp), old = load(h0 + in), G = load(dh + in) + load(gh + in);
        store(d + to, G * (n - old) * z * (T(1) - z));
        store(d + to + 2 * Hp, G * z * (T(1) - n * n));
        store(dh + in, G * (T(1) - z));
        store(r_h + in, r * old);
      }
    multiply<T>(m, Hv, H, d + 2 * Hp, D, UT + 2 * Hp * Hp, Hp, nullptr, 0, tmp, Hp);
    for (int s = 0; s < m; s++)
      for (size_t i = 0; i < Hp; i += L) {
        V r = load(a + s * A + i + Hp), x = load(tmp + s * Hp + i) * r;
        store(d + s * D + i + Hp, x * load(h0 + s * Hp + i) * (T(1) - r));
        store(dh + s * Hp + i, load(dh + s * Hp + i) + x);
      }
    if (t) multiply<T>(m, Hv, 2 * Hp, d, D, UT, Hp, dh, Hp, dh, Hp);
  } else if (net.cell == CUDNN_GRU) {
    for (int s = 0; s < m; s++)
      for (size_t i = 0; i < Hp; i += L) {
        const size_t at = s * A + i, to = s * D + i, in = s * Hp + i;
        V r = load(a + at), z = load(a + at + Hp), n = load(a + at + 2 * Hp), q = load(a + at + 3 * Hp), old = load(h0 + in);
        V G = load(dh + in) + load(gh + in), dn = G * (T(1) - z) * (T(1) - n * n);
        V dr = dn * q * r * (T(1) - r), dz = G * (old - n) * z * (T(1) - z);
        store(d + to, dn * r), store(d + to + Hp, dr), store(d + to + 2 * Hp, dz), store(d + to + 3 * Hp, dn);
        store(dh + in, G * z);
      }
    if (t) multiply<T>(m, Hv, 3 * Hp, d, D, UT, Hp, dh, Hp, dh, Hp);
  } else {
    const T *V_ = p + net.peephole, *c0 = before_c;
    size_t ldc = Hp;
    if (t) c0 = act + off[t - 1] * A + 4 * Hp, ldc = A;
    T *gV = g + net.peephole;
    const size_t G = net.gate;
    for (size_t i = Hp; i;) {  // the last vector first: what a gate's last vector spills, the next gate's first overwrites
      i -= L;
      const I mask = load_bits(lane_H + i);
      V pi = load(V_ + i), pf = load(V_ + Hp + i), po = load(V_ + 2 * Hp + i);
      V gi = load(gV + i), gf = load(gV + Hp + i), go = load(gV + 2 * Hp + i);
      for (int s = 0; s < m; s++) {
        const T *k = a + s * A + i;
        T *to = d + s * D + i;
        V in = load(k), forget = load(k + Hp), candidate = load(k + 2 * Hp), out = load(k + 3 * Hp), c = load(k + 4 * Hp), tc = load(k + 5 * Hp);
        V old = load(c0 + s * ldc + i), dy = load(dh + s * Hp + i) + load(gh + s * Hp + i);
        V d_o = keep(dy * tc * out * (T(1) - out), mask);
        V d_c = keep(load(dc + s * Hp + i) + dy * out * (T(1) - tc * tc) + d_o * po, mask);
        V d_i = d_c * candidate * in * (T(1) - in), d_f = d_c * old * forget * (T(1) - forget), d_g = d_c * in * (T(1) - candidate * candidate);
        if (i + L == Hp) store(d + s * D + net.J - L, V{});
        store(to, d_i), store(to + G, d_f), store(to + 2 * G, d_g), store(to + 3 * G, d_o);
        store(dc + s * Hp + i, d_c * forget + d_i * pi + d_f * pf);
        gi += d_i * old, gf += d_f * old, go += d_o * c;
      }
      if (net.peepholes) store(gV + i, keep(gi, mask)), store(gV + Hp + i, keep(gf, mask)), store(gV + 2 * Hp + i, go);
    }
    if (t) multiply<T>(m, Hv, 4 * G, d, D, UT, Hp, nullptr, 0, dh, Hp);
  }
}
