// Answering on the processor: a GRU layer over sessions, and the best items without reading the whole item matrix.
//
// utils/model/native_scorer.py compiles and calls this. utils/model/scorer.py computes the same in NumPy, and a test
// compares both. Nothing here depends on which sessions are answered together: a session's result is always the same,
// to the last bit.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <vector>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "activations.h"

namespace {

constexpr int64_t kLanes = 16;  // items, or columns of a weight, that are computed at once
constexpr int64_t kLargest = 127;
constexpr int64_t kAhead = 8;  // items: far enough for the memory to answer before they are needed
#if defined(__AVX512BW__)
constexpr int kTogether = 8;  // sessions for which items are loaded only once; their sums fill the registers
#else
constexpr int kTogether = 4;
#endif

#if defined(__AVX512F__)
constexpr int64_t kRegister = 16;  // floats in a register
#else
constexpr int64_t kRegister = 8;
#endif
// At any address of a float.
using Register = float __attribute__((vector_size(kRegister * sizeof(float)), aligned(4), may_alias));

// sums[j] += weights[2 j] pair[0] + weights[2 j + 1] pair[1] for the kLanes items j of a block, in exact integers.
#if defined(__AVX512BW__)
struct Weights {
  explicit Weights(const int8_t* bytes) : values(_mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i*)bytes))) {}
  __m512i values;
};
struct Sums {
  void add(const Weights& weights, int32_t pair) {
    values = _mm512_add_epi32(values, _mm512_madd_epi16(weights.values, _mm512_set1_epi32(pair)));
  }
  void write(float* numbers) const { _mm512_storeu_ps(numbers, _mm512_cvtepi32_ps(values)); }
  __m512i values = _mm512_setzero_si512();
};
#elif defined(__AVX2__)
struct Weights {
  explicit Weights(const int8_t* bytes)
      : first(_mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)bytes))),
        second(_mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)bytes + 1))) {}
  __m256i first, second;
};
struct Sums {
  void add(const Weights& weights, int32_t pair) {
    const __m256i both = _mm256_set1_epi32(pair);
    first = _mm256_add_epi32(first, _mm256_madd_epi16(weights.first, both));
    second = _mm256_add_epi32(second, _mm256_madd_epi16(weights.second, both));
  }
  void write(float* numbers) const {
    _mm256_storeu_ps(numbers, _mm256_cvtepi32_ps(first));
    _mm256_storeu_ps(numbers + 8, _mm256_cvtepi32_ps(second));
  }
  __m256i first = _mm256_setzero_si256(), second = _mm256_setzero_si256();
};
#else
struct Weights {
  explicit Weights(const int8_t* bytes) : bytes(bytes) {}
  const int8_t* bytes;
};
struct Sums {
  void add(const Weights& weights, int32_t pair) {
    int16_t both[2];
    std::memcpy(both, &pair, sizeof both);
    for (int64_t j = 0; j < kLanes; ++j)
      values[j] += weights.bytes[2 * j] * both[0] + weights.bytes[2 * j + 1] * both[1];
  }
  void write(float* numbers) const {
    for (int64_t j = 0; j < kLanes; ++j) numbers[j] = (float)values[j];
  }
  int32_t values[kLanes] = {};
};
#endif

int64_t padded(int64_t size) { return (size + kLanes - 1) / kLanes * kLanes; }

double length_of(const float* values, int64_t size) {
  double squares = 0;
  for (int64_t j = 0; j < size; ++j) squares += (double)values[j] * values[j];
  return std::sqrt(squares);
}

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

// Which numbers are not below `least`: a bit for each, the first in the lowest.
uint32_t reached(Register values, float least) {
#if defined(__AVX512F__)
  return _mm512_cmp_ps_mask((__m512)values, _mm512_set1_ps(least), _CMP_GE_OQ);
#elif defined(__AVX2__)
  return _mm256_movemask_ps(_mm256_cmp_ps((__m256)values, _mm256_set1_ps(least), _CMP_GE_OQ));
#else
  uint32_t bits = 0;
  for (int64_t j = 0; j < kRegister; ++j) bits |= (uint32_t)(values[j] >= least) << j;
  return bits;
#endif
}

// values[j] = values[j] scales[j] factor + offsets[j] for kLanes numbers; returns which of them are not below `least`.
uint32_t scale_and_compare(float* values, const float* scales, float factor, const float* offsets, float least) {
  uint32_t bits = 0;
#pragma GCC unroll 2
  for (int part = 0; part < kLanes / kRegister; ++part) {
    Register& value = ((Register*)values)[part];
    value = value * (((const Register*)scales)[part] * factor) + ((const Register*)offsets)[part];
    bits |= reached(value, least) << part * kRegister;
  }
  return bits;
}

// The score of one item. All calls compute it in the same way, to the last bit.
float exact_score(const float* item, const float* state, int64_t units) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = 0; j < units; ++j) sum += item[j] * state[j];
  return sum + item[units];
}

struct Scored {
  float score;
  int64_t item;
  bool operator<(const Scored& other) const { return score != other.score ? score > other.score : item < other.item; }
};

// One session's state with 16 bits per unit, and what is known so far about its best items.
//
// An item's exact score differs from its rough score, computed with rounded numbers, by at most `margin` (see `Items`).
// So each item has a lowest possible score. `threshold` is the k-th best of these: k items reach it for certain, so an
// item that can't reach it is not among the k best.
struct Session {
  Session(const float* state, int64_t units, int64_t k, const int64_t* excluded, const int64_t* excluded_end,
          const uint16_t* allowed)
      : k(k), excluded(excluded), excluded_end(excluded_end), allowed(allowed), pairs((units + 1) / 2) {
    float largest = 1e-30f;
    for (int64_t j = 0; j < units; ++j) largest = std::max(largest, std::fabs(state[j]));
    // so large that sums of products still fit in 32 bits
    const int64_t most = std::min<int64_t>(32767, INT32_MAX / (kLargest * 2 * pairs.size()));
    factor = largest / most;
    double lost_squares = 0;
    for (int64_t j = 0; j < units; ++j) {
      const float rounded = std::nearbyint(state[j] / factor);
      const int16_t integer = (int16_t)std::min(std::max(rounded, (float)-most), (float)most);
      std::memcpy((int16_t*)pairs.data() + j, &integer, sizeof integer);
      const double difference = (double)state[j] - (double)integer * factor;
      lost_squares += difference * difference;
    }
    length = length_of(state, units) * 1.0001;
    lost = std::sqrt(lost_squares) * 1.0001 + length * (units + 8) * 0x1p-22;  // the second term: rounding of floats
  }

  // Which of a block's items may be among the best, the first in the lowest bit.
  uint16_t allowed_of(int64_t block) const { return allowed ? allowed[block] : 0xffff; }

  void consider(int64_t item, float rough, float margin) {
    if (std::binary_search(excluded, excluded_end, item)) return;
    candidates.push_back({rough + margin, item});
    const float lowest = rough - margin;
    if ((int64_t)lowest_scores.size() < k) {
      lowest_scores.push_back(lowest);
    } else if (lowest > lowest_scores.front()) {
      std::pop_heap(lowest_scores.begin(), lowest_scores.end(), std::greater<float>());
      lowest_scores.back() = lowest;
    } else {
      return;
    }
    std::push_heap(lowest_scores.begin(), lowest_scores.end(), std::greater<float>());
    if ((int64_t)lowest_scores.size() == k) threshold = lowest_scores.front();
  }

  int64_t k;
  const int64_t *excluded, *excluded_end;  // ascending
  const uint16_t* allowed;                 // a bit for each item; null: all of them
  std::vector<int32_t> pairs;
  float factor, length, lost;
  float threshold = -HUGE_VALF;
  std::vector<float> lowest_scores;  // the k best lowest possible scores, a heap with the smallest in front
  std::vector<Scored> candidates;    // with their highest possible scores
};

// The item matrix with 8 bits per weight, in blocks of kLanes items. In a block, pairs of units follow one another, and
// in each pair the items.
//
// For an item's vector w, rounded to w', and a state h, rounded to h', the Cauchy-Schwarz inequality gives
// |w h - w' h'| <= |w - w'| |h| + |w'| |h - h'|. `bounds` holds the largest |w - w'|, |w'| and |bias| of each block.
struct Items {
  const float* matrix;  // [count, units + 1]
  int64_t count, units;
  const int8_t* packed;
  const float *factors, *biases, *bounds;

  template <int kSessions>
  void look_at(int64_t block, Session* sessions) const {
    const int64_t pairs = (units + 1) / 2;
    const int8_t* bytes = packed + block * pairs * 2 * kLanes;
    const int32_t* states[kSessions];
    for (int s = 0; s < kSessions; ++s) states[s] = sessions[s].pairs.data();
    Sums sums[kSessions];
    for (int64_t pair = 0; pair < pairs; ++pair) {
      const Weights weights(bytes + pair * 2 * kLanes);
#pragma GCC unroll 8
      for (int s = 0; s < kSessions; ++s) sums[s].add(weights, states[s][pair]);
    }
    float rough[kSessions][kLanes];
#pragma GCC unroll 8
    for (int s = 0; s < kSessions; ++s) sums[s].write(rough[s]);
    const int64_t first = block * kLanes;
    const uint32_t filled = (1u << std::min(kLanes, count - first)) - 1;  // the last block may have fewer items
    for (int s = 0; s < kSessions; ++s) {
      Session& session = sessions[s];
      const float* bound = bounds + block * 3;
      const float margin = bound[0] * session.length + bound[1] * session.lost + bound[2] * 0x1p-21f;
      uint32_t left =
          scale_and_compare(rough[s], factors + first, session.factor, biases + first, session.threshold - margin);
      for (left &= session.allowed_of(block) & filled; left; left &= left - 1) {
        const int64_t j = __builtin_ctz(left);
        if (rough[s][j] >= session.threshold - margin) session.consider(first + j, rough[s][j], margin);
      }
    }
  }
};

// Writes the k best of some items by their exact scores, the best first; returns how many there are.
int64_t write_best(std::vector<Scored>& found, const Items& items, const float* state, int64_t k, int64_t* best,
                   float* scores) {
  for (Scored& candidate : found)
    candidate.score = exact_score(items.matrix + candidate.item * (items.units + 1), state, items.units);
  const int64_t count = std::min<int64_t>(k, found.size());
  std::partial_sort(found.begin(), found.begin() + count, found.end());
  for (int64_t place = 0; place < count; ++place) {
    best[place] = found[place].item;
    scores[place] = found[place].score;
  }
  return count;
}

}  // namespace

extern "C" {

void pack_items(const float* matrix, int64_t count, int64_t units, int8_t* packed, float* factors, float* biases,
                float* bounds) {
  const int64_t pairs = (units + 1) / 2;
  for (int64_t item = 0; item < count; ++item) {
    const float* weights = matrix + item * (units + 1);
    const int64_t block = item / kLanes, lane = item % kLanes;
    float largest = 1e-30f;
    for (int64_t j = 0; j < units; ++j) largest = std::max(largest, std::fabs(weights[j]));
    const float factor = largest / kLargest;
    double lost_squares = 0, squares = 0;
    for (int64_t j = 0; j < units; ++j) {
      const double rounded = std::nearbyint(weights[j] / factor);
      const double integer = std::min<double>(std::max<double>(rounded, -kLargest), kLargest);
      packed[((block * pairs + j / 2) * kLanes + lane) * 2 + j % 2] = (int8_t)integer;
      const double difference = weights[j] - integer * factor;
      lost_squares += difference * difference;
      squares += integer * factor * integer * factor;
    }
    factors[item] = factor;
    biases[item] = weights[units];
    float* bound = bounds + block * 3;
    bound[0] = std::max(bound[0], (float)(std::sqrt(lost_squares) * 1.0001));
    bound[1] = std::max(bound[1], (float)(std::sqrt(squares) * 1.0001));
    bound[2] = std::max(bound[2], std::fabs(weights[units]));
  }
}

void best_items(const float* matrix, int64_t count, int64_t units, const int8_t* packed, const float* factors,
                const float* biases, const float* bounds, const float* states, int64_t rows, const int64_t* ks,
                const int64_t* excluded, const int64_t* excluded_offsets, const uint16_t* const* allowed, int64_t width,
                int64_t* best, float* scores, int64_t* found) {
  const Items items{matrix, count, units, packed, factors, biases, bounds};
  std::vector<Session> sessions;
  sessions.reserve(rows);
  for (int64_t row = 0; row < rows; ++row)
    sessions.emplace_back(states + row * units, units, ks[row], excluded + excluded_offsets[row],
                          excluded + excluded_offsets[row + 1], allowed[row]);
  for (int64_t block = 0; block * kLanes < count; ++block) {
    int64_t row = 0;
    for (; row + kTogether <= rows; row += kTogether) items.look_at<kTogether>(block, &sessions[row]);
    for (; row < rows; ++row) items.look_at<1>(block, &sessions[row]);
  }
  for (int64_t row = 0; row < rows; ++row) {
    std::vector<Scored>& candidates = sessions[row].candidates;
    const float threshold = sessions[row].threshold;
    candidates.erase(std::remove_if(candidates.begin(), candidates.end(),
                                    [threshold](const Scored& candidate) { return candidate.score < threshold; }),
                     candidates.end());
    found[row] = write_best(candidates, items, states + row * units, ks[row], best + row * width, scores + row * width);
  }
}

void score_items(const float* matrix, int64_t units, const float* state, const int64_t* items, int64_t count,
                 float* scores) {
  for (int64_t place = 0; place < count; ++place) {
    const float* next = matrix + items[std::min(place + kAhead, count - 1)] * (units + 1);
    for (int64_t j = 0; j < units; j += 16) __builtin_prefetch(next + j);
    scores[place] = exact_score(matrix + items[place] * (units + 1), state, units);
  }
}

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
