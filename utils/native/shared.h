// What training.cc and losses.cc share: products, memory, dropout, prefetching.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <memory>

extern "C" void cblas_sgemm(int order, int transpose_a, int transpose_b, int rows, int columns, int inner, float alpha,
                            const float* a, int a_stride, const float* b, int b_stride, float beta, float* c,
                            int c_stride);

namespace {

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
  constexpr int kRowMajor = 101, kNoTranspose = 111, kTranspose = 112;
  cblas_sgemm(kRowMajor, transpose_a ? kTranspose : kNoTranspose, transpose_b ? kTranspose : kNoTranspose, (int)rows,
              (int)columns, (int)inner, 1.0f, a, (int)a_stride, b, (int)b_stride, beta, c, (int)c_stride);
}

// sums[j] = the sum over rows of matrix[row][j].
inline void column_sums(const float* matrix, int64_t rows, int64_t columns, float* sums) {
  std::fill(sums, sums + columns, 0.0f);
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t j = 0; j < columns; ++j) sums[j] += matrix[row * columns + j];
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
    for (int64_t i = 0; i < count; ++i)
      values[i] *= (uint32_t)(mixed(first + place + i) >> 32) < kept_below ? scale : 0.0f;
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
