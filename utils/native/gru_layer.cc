// A GRU layer over sessions, for answering on the processor.
//
// utils/model/native_scorer.py compiles and calls this. utils/model/scorer.py computes the same in NumPy, and a test
// compares both. A session's states don't depend on which sessions are computed together, to the last bit.

#include <algorithm>
#include <cstdint>
#include <vector>

#include "activations.h"

namespace {

#if defined(__AVX512F__)
constexpr int64_t kRegister = 16;  // floats in a register
#else
constexpr int64_t kRegister = 8;
#endif
constexpr int64_t kLanes = 16;  // columns of a weight that are computed at once
// At any address of a float.
typedef float Register __attribute__((vector_size(kRegister * sizeof(float)), aligned(4), may_alias));

int64_t padded(int64_t size) { return (size + kLanes - 1) / kLanes * kLanes; }

// results[row] [columns] += x[row] [inputs] times weight [inputs, columns], for kRows rows; kRegisters registers of
// columns from `column` on.
template <int kRows, int kRegisters>
void add_columns(const float* const* x, const float* weight, int64_t inputs, int64_t columns, float* const* results,
                 int64_t column) {
  Register sums[kRows][kRegisters];
#pragma GCC unroll 8
  for (int row = 0; row < kRows; ++row)
#pragma GCC unroll 8
    for (int part = 0; part < kRegisters; ++part) sums[row][part] = ((const Register*)(results[row] + column))[part];
  for (int64_t i = 0; i < inputs; ++i) {
    const Register* weights = (const Register*)(weight + i * columns + column);
#pragma GCC unroll 8
    for (int row = 0; row < kRows; ++row)
#pragma GCC unroll 8
      for (int part = 0; part < kRegisters; ++part) sums[row][part] += x[row][i] * weights[part];
  }
#pragma GCC unroll 8
  for (int row = 0; row < kRows; ++row)
#pragma GCC unroll 8
    for (int part = 0; part < kRegisters; ++part) ((Register*)(results[row] + column))[part] = sums[row][part];
}

// The same for all columns.
template <int kRows>
void add_products(const float* const* x, const float* weight, int64_t inputs, int64_t columns, float* const* results) {
  constexpr int kMany = 8 / kRows, kFew = kLanes / kRegister;  // registers; columns are a multiple of kLanes
  int64_t column = 0;
  for (; column + kMany * kRegister <= columns; column += kMany * kRegister)
    add_columns<kRows, kMany>(x, weight, inputs, columns, results, column);
  for (; column < columns; column += kLanes) add_columns<kRows, kFew>(x, weight, inputs, columns, results, column);
}

// The same for any number of rows. The result of a row doesn't depend on the other rows.
void add_products(int64_t rows, const float* const* x, const float* weight, int64_t inputs, int64_t columns,
                  float* const* results) {
  for (; rows >= 4; rows -= 4, x += 4, results += 4) add_products<4>(x, weight, inputs, columns, results);
  for (; rows >= 1; rows -= 1, x += 1, results += 1) add_products<1>(x, weight, inputs, columns, results);
}

}  // namespace

extern "C" {

void gru_layer(const float* vectors, int64_t stride, int64_t inputs, const int32_t* rows_of_clicks,
               const float* fc_weight, const float* fc_bias, const float* gates_weight, const float* candidate_weight,
               const float* bias, int64_t units, int64_t reset_after, const int64_t* ends, int64_t sessions,
               float* states, int64_t states_stride, float* outputs) {
  const int64_t gates = 3 * units, both = 2 * units;
  const int64_t gates_size = padded(gates), both_size = padded(both), candidate_size = padded(units);
  std::vector<float> room(sessions * (gates_size + both_size + candidate_size + units));
  std::vector<const float*> below(sessions);
  std::vector<float*> before(sessions), reset_states(sessions), in(sessions), recurrent(sessions), candidates(sessions);
  std::vector<int64_t> clicks(sessions);
  for (int64_t step = 0;; ++step) {
    int64_t rows = 0;  // sessions that have a click in this step
    for (int64_t session = 0; session < sessions; ++session) {
      const int64_t click = (session ? ends[session - 1] : 0) + step;
      if (click >= ends[session]) continue;
      float* numbers = room.data() + rows * (gates_size + both_size + candidate_size + units);
      in[rows] = numbers, recurrent[rows] = numbers += gates_size, candidates[rows] = numbers += both_size;
      reset_states[rows] = numbers + candidate_size;
      below[rows] = vectors + (rows_of_clicks ? rows_of_clicks[click] : click) * stride;
      before[rows] = states + session * states_stride;
      std::copy_n(fc_weight ? fc_bias : below[rows], gates, in[rows]);
      std::copy_n(bias, both, recurrent[rows]);
      std::copy_n(bias + both, units, candidates[rows]);
      clicks[rows++] = click;
    }
    if (!rows) break;
    if (fc_weight) add_products(rows, below.data(), fc_weight, inputs, gates_size, in.data());
    add_products(rows, before.data(), gates_weight, units, both_size, recurrent.data());
    for (int64_t row = 0; row < rows; ++row) {
      float *reset = recurrent[row], *reset_state = reset_states[row];
      for (int64_t j = 0; j < both; ++j) reset[j] = sigmoid(in[row][j] + reset[j]);
      for (int64_t j = 0; j < units; ++j) reset_state[j] = reset_after ? before[row][j] : reset[j] * before[row][j];
    }
    add_products(rows, reset_states.data(), candidate_weight, units, candidate_size, candidates.data());
    for (int64_t row = 0; row < rows; ++row) {
      const float *reset = recurrent[row], *update = reset + units;
      const float *last_in = in[row] + both, *candidate = candidates[row];
      float* state = before[row];
      for (int64_t j = 0; j < units; ++j) {
        const float value = hyperbolic_tangent(last_in[j] + (reset_after ? reset[j] * candidate[j] : candidate[j]));
        state[j] = value + update[j] * (state[j] - value);
      }
      if (outputs) std::copy_n(state, units, outputs + clicks[row] * units);
    }
  }
}

}  // extern "C"
