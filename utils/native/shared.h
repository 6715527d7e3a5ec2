// What training.cc and losses.cc share: threads, products, memory, dropout, prefetching.

#pragma once

#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <memory>

extern "C" int MKL_Set_Num_Threads_Local(int count);  // of the calling thread; returns the number before
extern "C" void cblas_sgemm(int order, int transpose_a, int transpose_b, int rows, int columns, int inner, float alpha,
                            const float* a, int a_stride, const float* b, int b_stride, float beta, float* c,
                            int c_stride);

namespace {

// Some of the things that several threads have to do: from the first to before the last.
struct Part {
  int64_t first, last;
  int64_t size() const { return last - first; }
  bool has(int64_t thing) const { return thing >= first && thing < last; }
};

// A thread of those that compute a function together. Which part it has depends on nothing but its number and on how
// many there are, and what several rows add to has one thread to add it up, in the order of the rows. So the same
// number of threads gives the same result, to the last bit, and with MKL's AVX-512 any number does: there a row of a
// product is rounded alike with kFewest other rows and with more. Within a thread, MKL takes no further ones.
struct Thread {
  int64_t number = omp_get_thread_num(), count = omp_get_num_threads();

  // This thread's part of so many things; there are no parts of fewer than `fewest`, unless all are fewer.
  Part part(int64_t things, int64_t fewest = 1) const {
    const int64_t parts = Thread::parts(things, fewest, count);
    if (number >= parts) return {things, things};
    return {things * number / parts, things * (number + 1) / parts};
  }

  // The same in whole blocks.
  Part blocks(int64_t things, int64_t block) const {
    const Part found = part((things + block - 1) / block);
    return {std::min(things, found.first * block), std::min(things, found.last * block)};
  }

  static int64_t parts(int64_t things, int64_t fewest, int64_t most) {
    return std::max<int64_t>(1, std::min(most, things / fewest));
  }
};

constexpr int64_t kFewest = 16;
constexpr int64_t kLine = 16;          // floats that a processor loads at once: a block of columns
constexpr int64_t kWorthwhile = 4096;  // numbers; fewer are computed in less time than it takes to share them out

// Room for numbers, not filled with zeros first, and aligned, since MKL rounds by where numbers lie.
using Room = std::unique_ptr<float[], void (*)(void*)>;

inline Room room(int64_t size) {
  const size_t bytes = (size * sizeof(float) / 64 + 1) * 64;
  void* memory = std::aligned_alloc(64, bytes);
  if (!memory) std::abort();
  return Room((float*)memory, std::free);
}

// c = a b + beta c, where `a` [rows, inner] and `b` [inner, columns] may be stored transposed.
inline void product(bool transpose_a, bool transpose_b, int64_t rows, int64_t columns, int64_t inner, const float* a,
                    int64_t a_stride, const float* b, int64_t b_stride, float beta, float* c, int64_t c_stride) {
  if (rows <= 0 || columns <= 0) return;  // of a thread that has nothing to do
  constexpr int kRowMajor = 101, kNoTranspose = 111, kTranspose = 112;
  const int threads = MKL_Set_Num_Threads_Local(1);  // by the number it chooses how it rounds, too
  cblas_sgemm(kRowMajor, transpose_a ? kTranspose : kNoTranspose, transpose_b ? kTranspose : kNoTranspose, (int)rows,
              (int)columns, (int)inner, 1.0f, a, (int)a_stride, b, (int)b_stride, beta, c, (int)c_stride);
  MKL_Set_Num_Threads_Local(threads);
}

// sums[j] = the sum over rows of matrix[row][j], for some of the columns j.
inline void column_sums(const float* matrix, int64_t rows, int64_t width, Part columns, float* sums) {
  std::fill(sums + columns.first, sums + columns.last, 0.0f);
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t j = columns.first; j < columns.last; ++j) sums[j] += matrix[row * width + j];
}

// Random bits for a number: SplitMix64 (Steele et al., OOPSLA 2014).
inline uint64_t mixed(uint64_t number) {
  number *= 0x9E3779B97F4A7C15u;
  number = (number ^ (number >> 30)) * 0xBF58476D1CE4E5B9u;
  number = (number ^ (number >> 27)) * 0x94D049BB133111EBu;
  return number ^ (number >> 31);
}

// Zeroes a random share of numbers and scales the others by 1 / (1 - share); key and place of a number say which.
struct Dropout {
  Dropout(float share, uint64_t key)
      : first(mixed(key)),
        kept_below((uint32_t)std::min((1.0 - share) * 4294967296.0, 4294967295.0)),
        scale(1 / (1 - share)) {}

  void apply(float* values, int64_t count, int64_t place) const {
    const uint64_t start = first + place;  // in variables of its own, since `values` might be this mask for all we know
    const uint32_t below = kept_below;
    const float factor = scale;
    for (int64_t i = 0; i < count; ++i) values[i] *= (uint32_t)(mixed(start + i) >> 32) < below ? factor : 0.0f;
  }

  uint64_t first;
  uint32_t kept_below;
  float scale;
};

constexpr int64_t kAhead = 4;  // rows: far enough for the memory to answer before they are needed

inline void prefetch_row(const float* row, int64_t width) {
  for (int64_t j = 0; j < width; j += 16) __builtin_prefetch(row + j, 1);
}

}  // namespace
