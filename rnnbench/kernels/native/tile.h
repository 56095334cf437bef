// A tile: some sequences of one batch, through the network and back.
//
// Lanes are units at every batch size. Rows (step, sequence) are packed as in torch's PackedSequence, the longest
// sequence first, so that the rows of one step lie together and a sequence that has ended costs nothing. Time is cut
// into chunks of about 128 rows: the recurrence of a chunk runs, and then everything that is a plain product (read-out,
// loss, gradients of the matrices) runs on the chunk while it is in the cache.
#pragma once
#include "network.h"

enum { CHUNK = 128 };

template <class T> struct Tile {
  typedef typename Simd<T>::V V;
  typedef typename Simd<T>::I I;
  static constexpr int L = lanes<T>;

  const Net &net;
  const Data &data;
  const T *p;                // parameters
  T *g;                      // their gradient, added to; null where only the loss is wanted
  const int32_t *sequence;   // the sequences, longest first
  const int n;               // how many
  const int place;           // the place of the first of them in its batch
  const int64_t batch_row;   // packed rows: the first row of the batch, and
  const int32_t *batch_off;  //   where each of its steps begins
  const T weight;            // of a row's loss in the gradient
  double *loss;              // of each sequence, summed over its rows

  int steps;
  int64_t rows;
  int32_t *off, *count;              // of each step: its first row, and its number of rows
  T *h, *dh_readout, *act;           // of each row: output, its gradient by the read-out, activations
  T *before, *before_c, *dh, *dc, *tmp;
  T *pre, *h_before, *rh, *S, *x;    // of each row of a chunk
  T *UT, *VT;
  T *lane_H, *lane_O;                // -1 (all bits) in the lanes in use
  V *sums;                           // the loss of each sequence within a chunk
  int32_t *row_of, *seq_of, *target_of, *note_end, *note_rows;
  int scored;
  Clock clock;

  Tile(const Net &net, const Data &data, const T *p, T *g, const int32_t *sequence, int n, int place, int64_t batch_row,
       const int32_t *batch_off, T weight, double *loss, Scratch &scratch)
      : net(net), data(data), p(p), g(g), sequence(sequence), n(n), place(place), batch_row(batch_row), batch_off(batch_off),
        weight(weight), loss(loss) {
    steps = data.length[sequence[0]];
    rows = 0;
    for (int i = 0; i < n; i++) rows += data.length[sequence[i]];
    const size_t chunk = (CHUNK > n ? CHUNK : n) + n, kept = g ? rows : chunk, Hp = net.Hp;
    const size_t pairs = data.notes ? chunk * (net.I + 4) : 0;
    const size_t numbers = kept * (2 * Hp + net.act) + n * (5 * Hp + 2 * L) + chunk * (net.d_width + 2 * Hp + net.Op + net.I + 1) +
                           4 * Hp * Hp * 2 + net.O * Hp + Hp + net.Op + 16 * 64;
    scratch.reserve(numbers * sizeof(T) + n * sizeof(V) + (2 * steps + 3 * chunk + net.I + pairs + 16) * 4 + 64 * 64);
    off = scratch.take<int32_t>(steps + 1), count = scratch.take<int32_t>(steps);
    h = scratch.take<T>(kept * Hp), act = scratch.take<T>(kept * net.act), dh_readout = scratch.take<T>(g ? kept * Hp : 0);
    before = scratch.take<T>(n * Hp), before_c = scratch.take<T>(n * Hp);
    dh = scratch.take<T>(n * Hp), dc = scratch.take<T>(n * Hp), tmp = scratch.take<T>(n * Hp + L);
    pre = scratch.take<T>(chunk * net.d_width + 4 * L), h_before = scratch.take<T>(chunk * Hp), rh = scratch.take<T>(chunk * Hp);
    S = scratch.take<T>(chunk * net.Op), x = scratch.take<T>(data.notes ? 0 : chunk * net.I);
    UT = scratch.take<T>(g ? net.J * Hp : 0), VT = scratch.take<T>(g ? net.O * Hp : 0);
    lane_H = scratch.take<T>(Hp), lane_O = scratch.take<T>(net.Op), sums = scratch.take<V>(n);
    row_of = scratch.take<int32_t>(chunk), seq_of = scratch.take<int32_t>(chunk), target_of = scratch.take<int32_t>(chunk);
    note_end = scratch.take<int32_t>(net.I + 3), note_rows = scratch.take<int32_t>(pairs);

    memset(before, 0, n * Hp * sizeof(T)), memset(before_c, 0, n * Hp * sizeof(T));
    for (int i = 0; i < (int)Hp; i++) ((typename Simd<T>::Int *)lane_H)[i] = -(i < net.H);
    for (int i = 0; i < (int)net.Op; i++) ((typename Simd<T>::Int *)lane_O)[i] = -(i < net.O);
    for (int t = 0, m = n, at = 0; t < steps; t++) {
      while (data.length[sequence[m - 1]] <= t) m--;
      off[t] = at, count[t] = m, off[t + 1] = at += m;
    }
    for (int i = 0; i < n; i++) loss[sequence[i]] = 0;
    if (g) {
      transpose(p + net.U, net.J, net.H, (int)(net.gates * net.gate), UT, Hp);
      transpose(p + net.V, net.Op, net.H, net.O, VT, Hp);
      memset(dh, 0, n * Hp * sizeof(T)), memset(dc, 0, n * Hp * sizeof(T));
    }
    clock.add(PACK);
  }

  int64_t frame(int t, int s) const {
    return data.notes ? data.start[sequence[s]] + t : batch_row + batch_off[t] + place + s;
  }
  int end_of_chunk(int t0) const {
    int t1 = t0 + 1;
    while (t1 < steps && off[t1 + 1] - off[t0] <= CHUNK) t1++;
    return t1;
  }
  int start_of_chunk(int t1) const {
    int t0 = t1 - 1;
    while (t0 > 0 && off[t1] - off[t0 - 1] <= CHUNK) t0--;
    return t0;
  }

  void run() {
    for (int t0 = 0, t1; t0 < steps; t0 = t1) {
      t1 = end_of_chunk(t0);
      const int64_t base = g ? 0 : off[t0];  // without a gradient only the chunk is kept
      const int count_rows = off[t1] - off[t0];
      T *ht = h + (off[t0] - base) * net.Hp, *at = act + (off[t0] - base) * net.act;
      project(t0, t1, ht, at);
      clock.add(INPUT);
      for (int t = t0; t < t1; t++) forward(t, t0, base);
      clock.add(FORWARD);
      if (!g) carry(t1 - 1, base);
      read_out(t0, t1, ht, count_rows);
    }
    if (!g) return;
    for (int t1 = steps, t0; t1 > 0; t1 = t0) {
      t0 = start_of_chunk(t1);
      for (int t = t1 - 1; t >= t0; t--) backward(t, off[t] - off[t0]);
      clock.add(BACKWARD);
      gradient_of_U(off[t1] - off[t0]);
      clock.add(U_GRADIENT);
      gradient_of_W(t0, t1);
      clock.add(W_GRADIENT);
    }
  }

  // ------------------------------------------------------------ input

  // W x + b of the rows of a chunk, written where the recurrent product will be added.
  void project(int t0, int t1, T *ht, T *at) {
    T *out = net.cell == TANH ? ht : net.cell == LSTM ? pre : at;
    const size_t ldo = net.cell == TANH ? net.Hp : net.cell == LSTM ? net.J : net.act;
    if (!data.notes) {
      const int m = gather_inputs(t0, t1);
      multiply<T>(m, net.Jv, net.I, x, net.I, p + net.W, net.J, p + net.b, 0, out, ldo);
      return;
    }
    for (int t = t0; t < t1; t++)
      for (int s = 0; s < count[t]; s++, out += ldo) {
        const int64_t f = frame(t, s);
        const uint16_t *first = data.notes + data.first[f], *last = data.notes + data.first[f + 1];
        for (int v = 0; v < net.Jv; v += LIST_VECTORS)
          Lists<T>::sum[(net.Jv - v < LIST_VECTORS ? net.Jv - v : LIST_VECTORS) - 1](p + net.W + v * L, net.J, p + net.b + v * L, first, last,
                                                                                    out + v * L);
      }
  }
  int gather_inputs(int t0, int t1) {
    T *to = x;
    for (int t = t0; t < t1; t++, to += count[t - 1] * net.I)
      memcpy(to, (const T *)data.inputs + frame(t, 0) * net.I, count[t] * net.I * sizeof(T));
    return off[t1] - off[t0];
  }

  // ------------------------------------------------------------ recurrence: see recurrence.h

  const T *previous(int t, int t0, int64_t base) const { return t == 0 || (!g && t == t0) ? before : h + (off[t - 1] - base) * net.Hp; }
  void forward(int t, int t0, int64_t base);
  void backward(int t, size_t row);

  // Keeps the state after step t for the next chunk.
  void carry(int t, int64_t base) {
    const size_t Hp = net.Hp, row = off[t] - base;
    memcpy(before, h + row * Hp, count[t] * Hp * sizeof(T));
    if (net.cell == LSTM)
      for (int s = 0; s < count[t]; s++) memcpy(before_c + s * Hp, act + (row + s) * net.act + 4 * Hp, Hp * sizeof(T));
  }

  // ------------------------------------------------------------ read-out and loss: see readout.h

  void read_out(int t0, int t1, const T *ht, int count_rows);
  void find_scored(int t0, int t1);
  template <bool GRADIENT> V bernoulli(T *y, int target) const;
  T categorical(T *y, int target) const;
  T squared_error(T *y, int target) const;

  // ------------------------------------------------------------ gradients of the matrices

  void gradient_of_U(int m) {
    const size_t Hp = net.Hp, d = net.d_width;
    T *gU = g + net.U;
    if (net.cell == GRU) {  // z and r see h, the candidate sees r h
      multiply<T, true>(net.H, 2 * net.Hv, m, h_before, Hp, pre, d, gU, net.J, gU, net.J);
      multiply<T, true>(net.H, net.Hv, m, rh, Hp, pre + 2 * Hp, d, gU + 2 * Hp, net.J, gU + 2 * Hp, net.J);
    } else {
      multiply<T, true>(net.H, net.Jv, m, h_before, Hp, pre, d, gU, net.J, gU, net.J);
    }
    add_all_rows(pre + net.d_input, d, m, net.Jv, g + net.b);
  }

  void gradient_of_W(int t0, int t1) {
    const T *d = pre + net.d_input;
    T *gW = g + net.W;
    if (!data.notes) {
      const int m = gather_inputs(t0, t1);
      multiply<T, true>(net.I, net.Jv, m, x, net.I, d, net.d_width, gW, net.J, gW, net.J);
      return;
    }
    // sort the chunk's pairs (note, row) by note, then sum the rows of each note in registers
    memset(note_end, 0, (net.I + 3) * sizeof *note_end);
    for (int t = t0; t < t1; t++)
      for (int s = 0; s < count[t]; s++) {
        const int64_t f = frame(t, s);
        for (int k = data.first[f]; k < data.first[f + 1]; k++) note_end[data.notes[k] + 2]++;
      }
    for (int k = 0; k <= net.I; k++) note_end[k + 2] += note_end[k + 1];
    for (int t = t0; t < t1; t++)
      for (int s = 0; s < count[t]; s++) {
        const int64_t f = frame(t, s);
        for (int k = data.first[f]; k < data.first[f + 1]; k++) note_rows[note_end[data.notes[k] + 1]++] = off[t] - off[t0] + s;
      }
    for (int v = 0; v < net.Jv; v += LIST_VECTORS) {
      auto add = Lists<T>::add[(net.Jv - v < LIST_VECTORS ? net.Jv - v : LIST_VECTORS) - 1];
      for (int k = 0; k < net.I; k++)
        if (note_end[k + 1] > note_end[k]) add(d + v * L, net.d_width, note_rows + note_end[k], note_rows + note_end[k + 1], gW + k * net.J + v * L);
    }
  }
};
