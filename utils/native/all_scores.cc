// The scores of all items after several sessions, as utils/model/scorer.py computes them in NumPy, and ln of the sum of
// their exponentials, as utils/model/mixture.py does.
//
// utils/model/native_scorer.py compiles and calls this. The matrix is read once for all sessions. A session's scores
// don't depend on the others, to the last bit: each is the sum of the same products in the same order.

#include <algorithm>
#include <cstdint>
#include <vector>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#include "activations.h"

namespace {

#if defined(__AVX512F__)
constexpr int64_t kRegister = 16;  // floats in a register
constexpr int kTogether = 4;  // items, and sessions, whose products are summed at once; the sums fill the registers
#else
constexpr int64_t kRegister = 8;
constexpr int kTogether = 2;
#endif
constexpr int64_t kAhead = 8;  // items: far enough for the memory to answer before they are needed
// At any address of a float.
typedef float Register __attribute__((vector_size(kRegister * sizeof(float)), aligned(4), may_alias));

float sum_of(const Register& values) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps((__m512)values);
#else
  float parts[kRegister / 2];
  for (int64_t j = 0; j < kRegister / 2; ++j) parts[j] = values[j] + values[j + kRegister / 2];
  return (parts[0] + parts[2]) + (parts[1] + parts[3]);
#endif
}

// scores[session][item] for kItems items, one after another in memory, each of `width` numbers, and kSessions states
// of `registers` registers. What is read beyond an item's numbers meets zeros of the states.
template <int kItems, int kSessions>
void add_products(const float* items, int64_t width, const Register* const* states, int64_t registers,
                  float* const* scores) {
  Register sums[kItems][kSessions] = {};
  for (int64_t part = 0; part < registers; ++part)
#pragma GCC unroll 4
    for (int item = 0; item < kItems; ++item) {
      const Register weights = *(const Register*)(items + item * width + part * kRegister);
#pragma GCC unroll 4
      for (int session = 0; session < kSessions; ++session) sums[item][session] += weights * states[session][part];
    }
#pragma GCC unroll 4
  for (int item = 0; item < kItems; ++item)
#pragma GCC unroll 4
    for (int session = 0; session < kSessions; ++session) scores[session][item] = sum_of(sums[item][session]);
}

// The same for any number of sessions.
template <int kItems>
void add_products(const float* items, int64_t width, const Register* const* states, int64_t sessions, int64_t registers,
                  float* const* scores) {
  for (; sessions >= kTogether; sessions -= kTogether, states += kTogether, scores += kTogether)
    add_products<kItems, kTogether>(items, width, states, registers, scores);
  for (; sessions; --sessions) add_products<kItems, 1>(items, width, states++, registers, scores++);
}

}  // namespace

extern "C" {

// matrix [count, units + 1] with the biases in the last column, states [rows, units], scores [rows, count]
void score_all(const float* matrix, int64_t count, int64_t units, const float* states, int64_t rows, float* scores) {
  const int64_t width = units + 1, registers = (width + kRegister - 1) / kRegister, size = registers * kRegister;
  std::vector<float> padded(rows * size);
  std::vector<const Register*> of_rows(rows);
  std::vector<float*> into(rows);
  for (int64_t row = 0; row < rows; ++row) {
    std::copy_n(states + row * units, units, &padded[row * size]);
    padded[row * size + units] = 1;  // for the bias
    of_rows[row] = (const Register*)&padded[row * size];
    into[row] = scores + row * count;
  }
  int64_t item = 0;
  const auto next = [&](int64_t items) {
    item += items;
    for (float*& place : into) place += items;
  };
  // The last items may have nothing behind them that could be read.
  const int64_t safe = std::max<int64_t>(count - (size + width - 1) / width, 0);
  for (; item + kTogether <= safe; next(kTogether)) {
    const float* ahead = matrix + (item + kAhead) * width;  // nothing is read there yet, so it may lie beyond the end
    for (int64_t j = 0; j < kTogether * width; j += 16) __builtin_prefetch(ahead + j);
    add_products<kTogether>(matrix + item * width, width, of_rows.data(), rows, registers, into.data());
  }
  std::vector<float> alone(size);
  for (; item < count; next(1)) {
    std::copy_n(matrix + item * width, width, alone.data());
    add_products<1>(alone.data(), width, of_rows.data(), rows, registers, into.data());
  }
}

// sums[row] = ln of the sum of exp(scores[row] [count])
void log_sums(const float* scores, int64_t rows, int64_t count, double* sums) {
  constexpr int64_t kPart = 4096;  // numbers that are summed in float, so that little is lost
  for (int64_t row = 0; row < rows; ++row, scores += count) {
    float largest = -INFINITY;
#pragma omp simd reduction(max : largest)
    for (int64_t j = 0; j < count; ++j) largest = std::max(largest, scores[j]);
    double total = 0;
    for (int64_t first = 0; first < count; first += kPart) {
      const float* part = scores + first;
      const int64_t size = std::min(kPart, count - first);
      float sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t j = 0; j < size; ++j) sum += exponential(part[j] - largest);
      total += sum;
    }
    sums[row] = std::log(total) + largest;
  }
}

}  // extern "C"
