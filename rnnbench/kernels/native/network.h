// What the step is told: the network, where its parameters lie, and the sequences.
#pragma once
#include <chrono>
#include <cstdlib>
#include <new>
#include "linear.h"

enum CellKind { TANH, LSTM, GRU, CUDNN_GRU };
enum LossKind { BERNOULLI, CATEGORICAL, SQUARED_ERROR };

// Plain structures, as kernels/library.py has them too. All sizes are numbers of elements.
struct Shape {
  int32_t cell, loss, inputs, hidden, outputs, peepholes;
};

// Where the parameters of a member lie, in an array of `total` numbers whose padding is zero:
//   W [I + 1][J] (the last row zero: lists of notes are filled up with it)   U [H][J]   b [J]   peephole [3][Hp]
//   V [H][Op]   c [Op]
// Columns J: the gates one after another, each padded to whole vectors (Hp); those of the LSTM unpadded but for the last.
struct Layout {
  int64_t total, W, U, b, peephole, V, c, J, Hp, Op, gate;  // gate: the distance of two gates in a row of J columns
  int64_t gates, u_order[4];                                // where the cell's gates stand among the columns of U
};

// Sequences in one of two forms.
// Rolls: sequence q has the 0/1 frames start[q] + t. Frame f lists the inputs that are on in notes[first[f] .. first[f + 1]),
//   filled up to a multiple of 4 with I; bits[f * bit_bytes ..] is the same as a bit map. The target of a row is the next frame.
// Packed rows: inputs [N][I], the rows of a step one after another as in torch's PackedSequence, batch after batch;
//   target_row[n] is the row of the targets that belongs to row n, or -1 for a row that is not scored.
struct Data {
  const int32_t *first;
  const uint16_t *notes;
  const uint8_t *bits;
  int64_t bit_bytes;
  const int64_t *start;
  const void *inputs;
  const int32_t *target_row;
  const void *targets;        // squared error: [M][O] numbers
  const int64_t *classes;     // categorical: [M]
  const int32_t *length;      // scored or not, the steps of each sequence
};

struct Net : Layout {
  int cell, loss, I, H, O, Hv, Ov, Jv, peepholes;
  size_t act, d_width, d_input;  // numbers kept of a row's activations; of its gradient; where W's part of that begins
  template <class T> static Net of(const Shape &s) {
    constexpr int L = lanes<T>;
    Net n;
    n.cell = s.cell, n.loss = s.loss, n.I = s.inputs, n.H = s.hidden, n.O = s.outputs, n.peepholes = s.peepholes;
    n.Hv = (n.H + L - 1) / L, n.Ov = (n.O + L - 1) / L;
    n.Hp = n.Hv * L, n.Op = n.Ov * L;
    n.gates = n.cell == TANH ? 1 : n.cell == LSTM ? 4 : 3;
    n.gate = n.cell == LSTM ? n.H : n.Hp;
    n.Jv = (n.gates * n.gate + L - 1) / L, n.J = n.Jv * L;
    for (int g = 0; g < 4; g++) n.u_order[g] = n.cell == CUDNN_GRU ? (g + 1) % 3 : g;  // there U's columns are h_tilde, r, z
    n.W = 0, n.U = n.W + (n.I + 1) * n.J, n.b = n.U + n.H * n.J, n.peephole = n.b + n.J;
    n.V = n.peephole + 3 * n.Hp, n.c = n.V + n.H * n.Op, n.total = n.c + n.Op;
    n.act = n.cell == TANH ? 0 : n.cell == LSTM ? 6 * n.Hp : n.cell == GRU ? 3 * n.Hp : 4 * n.Hp;
    n.d_width = n.cell == LSTM ? n.J + L : n.cell == CUDNN_GRU ? 4 * n.Hp : n.J;
    n.d_input = n.cell == CUDNN_GRU ? n.Hp : 0;
    return n;
  }
};

// Memory that grows and is kept, one a thread; every piece starts at a cache line.
// With -DSANITIZE (tests/sanitize.sh) a piece begins as NaNs, and what lies between two pieces must not be touched.
#if defined(SANITIZE)
#include <sanitizer/asan_interface.h>
enum { GAP = 256 };
#else
enum { GAP = 0 };
#define ASAN_POISON_MEMORY_REGION(p, n)
#define ASAN_UNPOISON_MEMORY_REGION(p, n)
#endif
class Scratch {
  char *base = nullptr;
  size_t capacity = 0, asked = 0, used = 0;

 public:
  Scratch() = default;
  Scratch(const Scratch &) = delete;
  ~Scratch() { release(); }
  void reserve(size_t bytes) {
    used = 0, asked = bytes + 64 * GAP;
    if (asked > capacity) {
      release();
      capacity = (asked + asked / 4 + 4095) & ~(size_t)4095;
      base = (char *)aligned_alloc(4096, capacity);
      if (!base) { capacity = 0; throw std::bad_alloc(); }
      memset(base, 0, capacity);
    }
    if (!GAP) return;
    ASAN_UNPOISON_MEMORY_REGION(base, capacity);
    memset(base, 0xff, capacity);
    ASAN_POISON_MEMORY_REGION(base, capacity);
  }
  template <class X> X *take(size_t n) {
    X *p = (X *)(base + used);
    ASAN_UNPOISON_MEMORY_REGION(p, n * sizeof(X));
    used += ((n * sizeof(X) + 63) & ~(size_t)63) + GAP;
    if (used > asked) abort();  // a size was computed wrongly: a bug
    return p;
  }

 private:
  void release() {
    ASAN_UNPOISON_MEMORY_REGION(base, capacity);
    free(base);
  }
};

// Where the time goes, for scripts/profile_step.py; compiled in with -DPROFILE alone.
enum Phase { PACK, INPUT, FORWARD, READOUT, LOSS, READOUT_GRADIENT, BACKWARD, U_GRADIENT, W_GRADIENT, NOISE, UPDATE, PHASES };
#if defined(PROFILE)
static double phase_seconds[PHASES];
struct Clock {
  std::chrono::steady_clock::time_point last = std::chrono::steady_clock::now();
  void add(Phase phase) {
    auto now = std::chrono::steady_clock::now();
    phase_seconds[phase] += std::chrono::duration<double>(now - last).count();
    last = now;
  }
};
#else
struct Clock {
  void add(Phase) {}
};
#endif
