// Products of small matrices, held in registers block by block. Lanes are columns; all matrices are row-major, and
// their rows are padded to whole vectors.
#pragma once
#include "vec.h"

// One block: C[r][v] = I[r][v] + sum over k of A(r,k) B[k][v], with A(r,k) = A[r lda + k] or, transposed, A[k lda + r].
template <class T, int ROWS, int VECTORS, bool TRANSPOSED>
static void block(const T *A, size_t lda, const T *B, size_t ldb, int K, const T *I, size_t ldi, T *C, size_t ldc) {
  typedef typename Simd<T>::V V;
  V sum[ROWS][VECTORS];
  UNROLL for (int r = 0; r < ROWS; r++)
    UNROLL for (int v = 0; v < VECTORS; v++) sum[r][v] = I ? load(I + r * ldi + v * lanes<T>) : V{};
  for (int k = 0; k < K; k++) {
    V b[VECTORS];
    UNROLL for (int v = 0; v < VECTORS; v++) b[v] = load(B + k * ldb + v * lanes<T>);
    UNROLL for (int r = 0; r < ROWS; r++) {
      V a = splat(TRANSPOSED ? A[k * lda + r] : A[r * lda + k]);
      UNROLL for (int v = 0; v < VECTORS; v++) sum[r][v] += a * b[v];
    }
  }
  UNROLL for (int r = 0; r < ROWS; r++)
    UNROLL for (int v = 0; v < VECTORS; v++) store(C + r * ldc + v * lanes<T>, sum[r][v]);
}

template <class T, bool TRANSPOSED> struct Blocks {
  typedef void (*Fn)(const T *, size_t, const T *, size_t, int, const T *, size_t, T *, size_t);
#define BLOCK_ROW(m) {block<T, m, 1, TRANSPOSED>, block<T, m, 2, TRANSPOSED>, block<T, m, 3, TRANSPOSED>}
#define BLOCK_BIG(m) (BLOCK_ROWS > 4 ? m : 4)  // no more rows than there are registers for
  static constexpr Fn table[8][3] = {BLOCK_ROW(1), BLOCK_ROW(2), BLOCK_ROW(3), BLOCK_ROW(4),
                                     BLOCK_ROW(BLOCK_BIG(5)), BLOCK_ROW(BLOCK_BIG(6)), BLOCK_ROW(BLOCK_BIG(7)), BLOCK_ROW(BLOCK_BIG(8))};
#undef BLOCK_ROW
#undef BLOCK_BIG
};

// One row: y[v] = I[v] + sum over k of a[k] B[k][v], the sum split into chains that do not wait for each other.
template <class T, int VECTORS> static void row(const T *a, const T *B, size_t ldb, int K, const T *I, T *y) {
  typedef typename Simd<T>::V V;
  constexpr int wanted = (CHAINS + VECTORS - 1) / VECTORS;
  constexpr int S = VECTORS >= CHAINS - 1 ? 1 : wanted > 4 ? 4 : wanted;
  V sum[S][VECTORS];
  UNROLL for (int v = 0; v < VECTORS; v++) sum[0][v] = I ? load(I + v * lanes<T>) : V{};
  UNROLL for (int s = 1; s < S; s++)
    UNROLL for (int v = 0; v < VECTORS; v++) sum[s][v] = V{};
  int k = 0;
  for (; k + S <= K; k += S)
    UNROLL for (int s = 0; s < S; s++) {
      V x = splat(a[k + s]);
      UNROLL for (int v = 0; v < VECTORS; v++) sum[s][v] += x * load(B + (k + s) * ldb + v * lanes<T>);
    }
  for (; k < K; k++) {
    V x = splat(a[k]);
    UNROLL for (int v = 0; v < VECTORS; v++) sum[0][v] += x * load(B + k * ldb + v * lanes<T>);
  }
  UNROLL for (int v = 0; v < VECTORS; v++) {
    V total = sum[0][v];
    UNROLL for (int s = 1; s < S; s++) total += sum[s][v];
    store(y + v * lanes<T>, total);
  }
}

template <class T> struct Rows {
  typedef void (*Fn)(const T *, const T *, size_t, int, const T *, T *);
  static constexpr Fn table[9] = {row<T, 1>, row<T, 2>, row<T, 3>, row<T, 4>, row<T, 5>, row<T, 6>,
                                  row<T, (ROW_VECTORS > 6 ? 7 : 1)>, row<T, (ROW_VECTORS > 6 ? 8 : 1)>, row<T, (ROW_VECTORS > 6 ? 9 : 1)>};
};

// C[M][columns] = I + A B, A being [M][K] or, transposed, [K][M]. I may be C itself, one row for all (ldi 0), or null.
template <class T, bool TRANSPOSED = false>
INLINE void multiply(int M, int vectors, int K, const T *A, size_t lda, const T *B, size_t ldb, const T *I, size_t ldi, T *C, size_t ldc) {
  if (M == 1 && (!TRANSPOSED || lda == 1)) {
    int parts = (vectors + ROW_VECTORS - 1) / ROW_VECTORS, v = 0;
    for (int i = 0; i < parts; i++) {
      int wide = (vectors - v) / (parts - i), at = v * lanes<T>;
      Rows<T>::table[wide - 1](A, B + at, ldb, K, I ? I + at : I, C + at);
      v += wide;
    }
    return;
  }
  int rows = (M + BLOCK_ROWS - 1) / BLOCK_ROWS, columns = (vectors + BLOCK_VECTORS - 1) / BLOCK_VECTORS, v = 0;
  for (int i = 0; i < columns; i++) {  // blocks of nearly equal size
    int wide = (vectors - v) / (columns - i), at = v * lanes<T>, m = 0;
    for (int j = 0; j < rows; j++) {
      int high = (M - m) / (rows - j);
      Blocks<T, TRANSPOSED>::table[high - 1][wide - 1](TRANSPOSED ? A + m : A + m * lda, lda, B + at, ldb, K, I ? I + m * ldi + at : I, ldi,
                                                       C + m * ldc + at, ldc);
      m += high;
    }
    v += wide;
  }
}

// out[v] = base[v] + the sum of the rows of W that `first .. last` lists, four at a time: one pass over the list.
template <class T, int VECTORS> static void sum_rows(const T *W, size_t ldw, const T *base, const uint16_t *first, const uint16_t *last, T *out) {
  typename Simd<T>::V a[VECTORS];
  UNROLL for (int v = 0; v < VECTORS; v++) a[v] = load(base + v * lanes<T>);
  for (; first < last; first += 4) {
    const T *w = W + first[0] * ldw, *x = W + first[1] * ldw, *y = W + first[2] * ldw, *z = W + first[3] * ldw;
    UNROLL for (int v = 0; v < VECTORS; v++) {
      int at = v * lanes<T>;
      a[v] += (load(w + at) + load(x + at)) + (load(y + at) + load(z + at));
    }
  }
  UNROLL for (int v = 0; v < VECTORS; v++) store(out + v * lanes<T>, a[v]);
}

// w[v] += the sum of the rows of d that `first .. last` lists.
template <class T, int VECTORS> static void add_rows(const T *d, size_t ldd, const int32_t *first, const int32_t *last, T *w) {
  typename Simd<T>::V a[VECTORS];
  UNROLL for (int v = 0; v < VECTORS; v++) a[v] = load(w + v * lanes<T>);
  for (; first < last; first++) {
    const T *row = d + *first * ldd;
    UNROLL for (int v = 0; v < VECTORS; v++) a[v] += load(row + v * lanes<T>);
  }
  UNROLL for (int v = 0; v < VECTORS; v++) store(w + v * lanes<T>, a[v]);
}

enum { LIST_VECTORS = 9 };  // columns that the two functions above take at once
template <class T> struct Lists {
  typedef void (*Sum)(const T *, size_t, const T *, const uint16_t *, const uint16_t *, T *);
  typedef void (*Add)(const T *, size_t, const int32_t *, const int32_t *, T *);
#define ALL_WIDTHS(f) {f<T, 1>, f<T, 2>, f<T, 3>, f<T, 4>, f<T, 5>, f<T, 6>, f<T, 7>, f<T, 8>, f<T, 9>}
  static constexpr Sum sum[LIST_VECTORS] = ALL_WIDTHS(sum_rows);
  static constexpr Add add[LIST_VECTORS] = ALL_WIDTHS(add_rows);
#undef ALL_WIDTHS
};

// total[columns] += the sum of the rows of d.
template <class T> INLINE void add_all_rows(const T *d, size_t ldd, int rows, int vectors, T *total) {
  for (int v = 0; v < vectors; v++) {
    auto a = load(total + v * lanes<T>);
    for (int r = 0; r < rows; r++) a += load(d + r * ldd + v * lanes<T>);
    store(total + v * lanes<T>, a);
  }
}

#if defined(__clang__)
#define SHUFFLE(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l)
#else
#define SHUFFLE(a, b, i, j, k, l) __builtin_shuffle(a, b, Places{i, j, k, l})
#endif

// out[c][r] = in[r][c]; rows of `out` are padded with zeros to ldo, those of `in` to a multiple of 4.
template <class T> static void transpose(const T *in, size_t ldi, int rows, int columns, T *out, size_t ldo) {
  typedef T Quad __attribute__((vector_size(4 * sizeof(T)), aligned(sizeof(T)), may_alias));
  typedef typename Simd<T>::Int Places __attribute__((vector_size(4 * sizeof(T))));
  for (int c = 0; c < columns; c += 4)
    for (int r = 0; r < (int)ldo; r += 4) {
      Quad a[4];
      for (int i = 0; i < 4; i++) a[i] = r + i < rows ? *(const Quad *)(in + (r + i) * ldi + c) : Quad{};
      Quad x = SHUFFLE(a[0], a[1], 0, 4, 1, 5), y = SHUFFLE(a[0], a[1], 2, 6, 3, 7);
      Quad z = SHUFFLE(a[2], a[3], 0, 4, 1, 5), w = SHUFFLE(a[2], a[3], 2, 6, 3, 7);
      Quad o[4] = {SHUFFLE(x, z, 0, 1, 4, 5), SHUFFLE(x, z, 2, 3, 6, 7), SHUFFLE(y, w, 0, 1, 4, 5), SHUFFLE(y, w, 2, 3, 6, 7)};
      const size_t wide = (lanes<T> % 4 == 0 || r + 4 <= (int)ldo ? 4 : 2) * sizeof(T);  // a row may end with half a Quad
      for (int i = 0; i < 4 && c + i < columns; i++) memcpy(out + (size_t)(c + i) * ldo + r, &o[i], wide);
    }
}
