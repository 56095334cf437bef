// The training step and the evaluation of one member, as functions that Python calls through a plain C interface
// (rnnbench/kernels/library.py); NUMBER, float or double, is given by the compiler's command line. Two calls share nothing,
// so any number of threads may call at once; a call itself may spread the tiles of a batch over threads.
//
// Python's parameters are flat vectors in the order of rnnbench.train.Member; place[i] is where number i of them lies in
// the layout of network.h. They are put there for the time of a call.
#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>
#include "optimizer.h"
#include "readout.h"
#include "recurrence.h"

enum { TILE = 8, INTERFACE = 1 };  // sequences of a batch that go through the network together

// The sequences of a batch, longest first; equal ones stay in order.
static void sort_by_length(const int32_t *sequences, int n, const int32_t *length, int32_t *sorted) {
  for (int i = 0; i < n; i++) {
    int j = i;
    for (; j > 0 && length[sorted[j - 1]] < length[sequences[i]]; j--) sorted[j] = sorted[j - 1];
    sorted[j] = sequences[i];
  }
}

struct Batch {
  std::vector<int32_t> sequences, off;  // longest first; the first packed row of each step, counted from `row`
  int64_t row = 0;                      // of packed rows: the batch's first

  void set(const Data &data, const int32_t *chosen, int n) {
    sequences.resize(n);
    sort_by_length(chosen, n, data.length, sequences.data());
    if (data.notes) return;
    off.assign(data.length[sequences[0]] + 1, 0);
    for (int q : sequences) off[data.length[q]]++;           // how many end after so many steps,
    int alive = n;
    int32_t at = 0;
    for (size_t t = 0; t < off.size(); t++) {                // and from that, where each step begins
      alive -= t ? off[t] : 0;
      const int32_t begin = at;
      at += alive;
      off[t] = begin;
    }
  }
  int tiles() const { return ((int)sequences.size() + TILE - 1) / TILE; }
};

template <class T>
static void run_tile(const Net &net, const Data &data, const T *p, T *g, const Batch &batch, int tile, T weight, double *loss, Scratch &scratch) {
  const int first = tile * TILE, left = (int)batch.sequences.size() - first;
  Tile<T>(net, data, p, g, batch.sequences.data() + first, left < TILE ? left : TILE, first, batch.row, batch.off.data(), weight, loss, scratch).run();
}

// The gradient of a batch. Each tile's is summed by itself and they are added in order: threads change no bit of it.
template <class T>
static void gradient(const Net &net, const Data &data, const T *p, T *g, const Batch &batch, T weight, double *loss, int threads, T *partial) {
  static thread_local std::vector<Scratch> scratches;
  const int tiles = batch.tiles(), extra = threads < tiles ? threads - 1 : tiles - 1;
  std::atomic<int> next{0};
  std::atomic<bool> no_memory{false};
  if ((int)scratches.size() < extra + 1) scratches = std::vector<Scratch>(extra + 1);
  auto work = [&](Scratch *scratch) {
    for (int tile; (tile = next++) < tiles && !no_memory;) {
      T *of_tile = tile ? partial + (tile - 1) * net.total : g;
      memset(of_tile, 0, net.total * sizeof(T));
      try {
        run_tile<T>(net, data, p, of_tile, batch, tile, weight, loss, *scratch);
      } catch (const std::bad_alloc &) {
        no_memory = true;  // an exception must not leave a thread
      }
    }
  };
  std::vector<std::thread> pool;
  for (int i = 0; i < extra; i++) pool.emplace_back(work, &scratches[i + 1]);
  work(&scratches[0]);
  for (auto &thread : pool) thread.join();
  if (no_memory) throw std::bad_alloc();
  for (int tile = 1; tile < tiles; tile++)
    for (int64_t i = 0; i < net.total; i += lanes<T>) store(g + i, load(g + i) + load(partial + (tile - 1) * net.total + i));
}

static int most_tiles(const int64_t *batches, int count) {
  int64_t most = 1;
  for (int u = 0; u < count; u++) most = std::max(most, (batches[u + 1] - batches[u] + TILE - 1) / TILE);
  return (int)most;
}

// Numbers in and out of the layout of the kernels; padding is zero.
template <class T> static void put(const Net &net, const int32_t *place, int64_t size, const T *from, T *to) {
  memset(to, 0, net.total * sizeof(T));
  for (int64_t i = 0; i < size; i++) to[place[i]] = from[i];
}
template <class T> static void get(const int32_t *place, int64_t size, const T *from, T *to) {
  for (int64_t i = 0; i < size; i++) to[i] = from[place[i]];
}

// What Python holds of a member: its parameters and the optimiser's accumulators (b null where there is but one), [size].
struct Flat {
  int64_t size;
  const int32_t *place;
  void *theta, *a, *b;
};

// `count` updates of one member. Update u takes the sequences order[batches[u] .. batches[u + 1]) and is number first + u.
// scored_rows, losses (per scored row) and norms (before clipping): [count]. Returns the number of updates made: fewer than
// `count` where a loss or a gradient was not finite; that update changes nothing, and its loss and norm are given.
template <class T>
static int train(const Shape &shape, const Protocol &protocol, const Data &data, const Flat &flat, double lr, int64_t first, int count,
                 const int64_t *batches, const int32_t *order, const int64_t *scored_rows, double *losses, double *norms, int threads) {
  static thread_local Scratch scratch;
  static thread_local std::vector<double> loss;
  const Net net = Net::of<T>(shape);
  const int64_t normal_count = (int64_t)(net.I + net.H) * net.gates * net.H + NORMALS;
  const int tiles = most_tiles(batches, count);
  scratch.reserve((net.total * (4 + tiles) + normal_count + 64 * 8) * sizeof(T) + 4096);
  T *p = scratch.take<T>(net.total), *a = scratch.take<T>(net.total), *b = scratch.take<T>(net.total);
  T *noisy = scratch.take<T>(net.total), *z = scratch.take<T>(normal_count + lanes<T>);
  T *g = scratch.take<T>(net.total), *partial = scratch.take<T>((tiles - 1) * net.total);
  put(net, flat.place, flat.size, (const T *)flat.theta, p), put(net, flat.place, flat.size, (const T *)flat.a, a);
  if (flat.b) put(net, flat.place, flat.size, (const T *)flat.b, b);
  Batch batch;
  int done = 0;
  for (; done < count; done++) {
    const int n = (int)(batches[done + 1] - batches[done]);
    const int32_t *chosen = order + batches[done];
    batch.set(data, chosen, n);
    int largest = 0;
    for (int i = 0; i < n; i++) largest = std::max(largest, chosen[i]);
    if ((int)loss.size() <= largest) loss.resize(largest + 1);
    Clock clock;
    if (protocol.noise > 0) add_noise(net, protocol, first + done, p, noisy, z);
    clock.add(NOISE);
    const T weight = protocol.mean ? T(1) / T(scored_rows[done]) : T(1);
    gradient<T>(net, data, protocol.noise > 0 ? noisy : p, g, batch, weight, loss.data(), threads, partial);
    double sum = 0;
    for (int q : batch.sequences) sum += loss[q], batch.row += data.length[q];
    clock = Clock();
    const double norm = norm_of(g, net.total);
    losses[done] = sum / scored_rows[done], norms[done] = norm;
    if (!std::isfinite(losses[done]) || !std::isfinite(norm)) break;
    update<T>(protocol, lr, first + done + 1, norm, net.total, p, g, a, b);
    clock.add(UPDATE);
  }
  get(flat.place, flat.size, p, (T *)flat.theta), get(flat.place, flat.size, a, (T *)flat.a);
  if (flat.b) get(flat.place, flat.size, b, (T *)flat.b);
  return done;
}

// The loss of each sequence, summed over its rows: losses[q] for the sequences q that the batches name.
template <class T>
static void evaluate(const Shape &shape, const Data &data, const Flat &flat, int count, const int64_t *batches, const int32_t *order,
                     double *losses) {
  static thread_local Scratch scratch, of_tile;
  const Net net = Net::of<T>(shape);
  scratch.reserve((net.total + 64) * sizeof(T));
  T *p = scratch.take<T>(net.total);
  put(net, flat.place, flat.size, (const T *)flat.theta, p);
  Batch batch;
  for (int u = 0; u < count; u++) {
    batch.set(data, order + batches[u], (int)(batches[u + 1] - batches[u]));
    for (int tile = 0; tile < batch.tiles(); tile++) run_tile<T>(net, data, p, nullptr, batch, tile, T(1), losses, of_tile);
    for (int q : batch.sequences) batch.row += data.length[q];
  }
}

// The gradient of one batch, put into flat.a; for the tests and the profile.
template <class T>
static void gradient_of(const Shape &shape, const Data &data, const Flat &flat, int n, const int32_t *order, double weight, double *losses,
                        int threads) {
  const Net net = Net::of<T>(shape);
  Batch batch;
  batch.set(data, order, n);
  Scratch scratch;
  scratch.reserve((net.total * (2 + batch.tiles()) + 64) * sizeof(T) + 4096);
  T *p = scratch.take<T>(net.total), *g = scratch.take<T>(net.total), *partial = scratch.take<T>((batch.tiles() - 1) * net.total);
  put(net, flat.place, flat.size, (const T *)flat.theta, p);
  gradient<T>(net, data, p, g, batch, T(weight), losses, threads, partial);
  get(flat.place, flat.size, g, (T *)flat.a);
}

#pragma GCC visibility push(default)
#define NO_MEMORY_IS_MINUS_ONE(...) \
  try {                             \
    __VA_ARGS__;                    \
  } catch (const std::bad_alloc &) { \
    return -1;                      \
  }
extern "C" {
int rnnbench_interface() { return INTERFACE; }
int rnnbench_vector_bytes() { return VECTOR_BYTES; }
void rnnbench_phases(double *seconds) {  // since the last call, by one thread; zero unless compiled with -DPROFILE
  for (int i = 0; i < PHASES; i++) seconds[i] = 0;
#if defined(PROFILE)
  for (int i = 0; i < PHASES; i++) seconds[i] = phase_seconds[i], phase_seconds[i] = 0;
#endif
}
void rnnbench_layout(const Shape *shape, Layout *out) { *out = Net::of<NUMBER>(*shape); }
int rnnbench_train(const Shape *shape, const Protocol *protocol, const Data *data, const Flat *flat, double lr, int64_t first, int count,
                   const int64_t *batches, const int32_t *order, const int64_t *scored_rows, double *losses, double *norms, int threads) {
  NO_MEMORY_IS_MINUS_ONE(return train<NUMBER>(*shape, *protocol, *data, *flat, lr, first, count, batches, order, scored_rows, losses, norms, threads))
}
int rnnbench_evaluate(const Shape *shape, const Data *data, const Flat *flat, int count, const int64_t *batches, const int32_t *order,
                       double *losses) {
  NO_MEMORY_IS_MINUS_ONE(evaluate<NUMBER>(*shape, *data, *flat, count, batches, order, losses); return 0)
}
int rnnbench_gradient(const Shape *shape, const Data *data, const Flat *flat, int n, const int32_t *order, double weight, double *losses,
                       int threads) {
  NO_MEMORY_IS_MINUS_ONE(gradient_of<NUMBER>(*shape, *data, *flat, n, order, weight, losses, threads); return 0)
}
void rnnbench_normals(uint64_t key, uint64_t index, int blocks, NUMBER *out) {
  for (int i = 0; i < blocks; i++) normals(key, index, i, out + i * NORMALS);
}
void rnnbench_function(int which, int n, const NUMBER *x, NUMBER *y) {
  for (int i = 0; i + lanes<NUMBER> <= n; i += lanes<NUMBER>) {
    auto a = load(x + i);
    store(y + i, which == 0 ? exp_negative(a) : which == 1 ? sigmoid(a) : which == 2 ? vtanh(a) : log1p_unit(a));
  }
}
}
#pragma GCC visibility pop
