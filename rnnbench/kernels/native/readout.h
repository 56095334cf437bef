// The read-out, the losses with their derivatives, and the gradients that follow from them at once.
#pragma once
#include "tile.h"

// The rows of a chunk that have a target: where they are, whose they are, and their target's row.
template <class T> void Tile<T>::find_scored(int t0, int t1) {
  scored = 0;
  for (int t = t0; t < t1; t++)
    for (int s = 0; s < count[t]; s++) {
      const int64_t f = frame(t, s), target = data.notes ? f + 1 : data.target_row[f];
      if (target < 0) continue;
      row_of[scored] = off[t] - off[t0] + s, seq_of[scored] = s, target_of[scored++] = target;
    }
}

// ht: the outputs of the chunk's rows. Adds to `loss` and, where a gradient is wanted, to that of V and c; sets dh_readout.
template <class T> void Tile<T>::read_out(int t0, int t1, const T *ht, int count_rows) {
  const size_t Hp = net.Hp, Op = net.Op;
  find_scored(t0, t1);
  const bool all = scored == count_rows;
  if (!all) {
    for (int i = 0; i < scored; i++) memcpy(h_before + i * Hp, ht + row_of[i] * Hp, Hp * sizeof(T));
    ht = h_before;
  }
  if (scored) multiply<T>(scored, net.Ov, net.H, ht, Hp, p + net.V, Op, p + net.c, 0, S, Op);
  clock.add(READOUT);
  for (int s = 0; s < count[t0]; s++) sums[s] = V{};
  for (int i = 0; i < scored; i++) {
    T *y = S + i * Op;
    if (net.loss == BERNOULLI)
      sums[seq_of[i]] += g ? bernoulli<true>(y, target_of[i]) : bernoulli<false>(y, target_of[i]);
    else
      loss[sequence[seq_of[i]]] += net.loss == CATEGORICAL ? categorical(y, target_of[i]) : squared_error(y, target_of[i]);
  }
  if (net.loss == BERNOULLI)
    for (int s = 0; s < count[t0]; s++) loss[sequence[s]] += sum_lanes<T>(sums[s]);
  clock.add(LOSS);
  if (!g) return;
  T *gh = dh_readout + off[t0] * Hp, *to = all ? gh : rh;
  if (!all) memset(gh, 0, count_rows * Hp * sizeof(T));
  if (scored) {
    multiply<T>(scored, net.Hv, net.O, S, Op, VT, Hp, nullptr, 0, to, Hp);
    multiply<T, true>(net.H, net.Ov, scored, ht, Hp, S, Op, g + net.V, Op, g + net.V, Op);
    add_all_rows(S, Op, scored, net.Ov, g + net.c);
    if (!all)
      for (int i = 0; i < scored; i++) memcpy(gh + row_of[i] * Hp, to + i * Hp, Hp * sizeof(T));
  }
  clock.add(READOUT_GRADIENT);
}

INLINE vfi lane_bits(const uint8_t *bits, vf) {  // -1 in the lanes whose bit is set
  uint32_t word = 0;
  memcpy(&word, bits, sizeof(vf) / 32 ? sizeof(vf) / 32 : 1);
  vfi bit;
  for (int i = 0; i < lanes<float>; i++) bit[i] = 1 << i;
  return (((int32_t)word - (vfi){}) & bit) != 0;
}
INLINE vdi lane_bits(const uint8_t *bits, vd) {
  vdi on;
  for (int i = 0; i < lanes<double>; i++) on[i] = -(int64_t)(bits[0] >> i & 1);
  return on;
}

// Sum over the notes of -log p(on or off) for the log-odds y: max(y, 0) - y [on] + log(1 + exp -|y|); lane by lane. In y the
// weighted derivative, p - [on], takes the place of the log-odds.
template <class T> template <bool GRADIENT> typename Simd<T>::V Tile<T>::bernoulli(T *y, int target) const {
  const uint8_t *bits = data.bits + target * data.bit_bytes;
  V sum{};
  for (int i = 0; i < (int)net.Op; i += L) {
    uint8_t part[8] = {};
    I on;
    if constexpr (L >= 8) {
      on = lane_bits(bits + i / 8, V{});
    } else {
      part[0] = bits[i / 8] >> (i % 8);
      on = lane_bits(part, V{});
    }
    const I used = load_bits(lane_O + i);
    V v = load(y + i), e = exp_negative(sign_to_minus(v));
    sum += keep(vmax(v, V{}) + log1p_unit(e), used) - keep(v, on);
    if (!GRADIENT) continue;
    V r = T(1) / (T(1) + e);
    store(y + i, keep((v < T(0) ? e * r : r), used) * weight - keep(splat(weight), on));
  }
  return sum;
}

// -log softmax(y)[class]; in y its weighted derivative, softmax - [class].
template <class T> T Tile<T>::categorical(T *y, int target) const {
  const int64_t answer = data.classes[target];
  T largest = y[0];
  for (int k = 1; k < net.O; k++) largest = y[k] > largest ? y[k] : largest;
  const T of_answer = y[answer] - largest;
  V sum{};
  for (int i = 0; i < (int)net.Op; i += L) {
    V e = keep(exp_negative(vmin(load(y + i) - largest, V{})), load_bits(lane_O + i));
    sum += e;
    store(y + i, e);
  }
  const T total = sum_lanes<T>(sum), scale = weight / total;
  for (int i = 0; i < (int)net.Op; i += L) store(y + i, load(y + i) * scale);
  y[answer] -= weight;
  return std::log(total) - of_answer;
}

// Sum over the outputs of (y - target)^2; in y its weighted derivative.
template <class T> T Tile<T>::squared_error(T *y, int target) const {
  const T *wanted = (const T *)data.targets + (int64_t)target * net.O;
  T sum = 0;
  for (int k = 0; k < net.O; k++) {
    const T error = y[k] - wanted[k];
    sum += error * error;
    y[k] = 2 * error * weight;
  }
  for (int k = net.O; k < (int)net.Op; k++) y[k] = 0;
  return sum;
}
