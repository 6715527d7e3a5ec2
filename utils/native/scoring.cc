// The best items after sessions, found without reading the whole item matrix.
//
// utils/model/native_scorer.py compiles and calls this. utils/model/scorer.py computes the same in NumPy, and a test
// compares both. Nothing here depends on which sessions are answered together: a session's result is always the same,
// to the last bit.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "packed_products.h"

namespace {

constexpr int64_t kAhead = 8;  // items: far enough for the memory to answer before they are needed
constexpr size_t kNoted = 16;  // items that may be among the best, before they are scored; by then they are there
#if defined(__AVX512F__)
constexpr int64_t kRegister = 16;  // floats in a register
#else
constexpr int64_t kRegister = 8;
#endif
// At any address of a float.
typedef float Register __attribute__((vector_size(kRegister * sizeof(float)), aligned(4), may_alias));

// An item's largest weight becomes this share of the largest packed one, whichever rounds best. What is larger is cut.
constexpr float kShares[] = {1.0f, 0.85f, 0.7f};

double length_of(const float* values, int64_t size) {
  double squares = 0;
  for (int64_t j = 0; j < size; ++j) squares += (double)values[j] * values[j];
  return std::sqrt(squares);
}

float largest_of(const float* values, int64_t size) {
  float largest = 1e-30f;
  for (int64_t j = 0; j < size; ++j) largest = std::max(largest, std::fabs(values[j]));
  return largest;
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

// Which of the kLanes numbers values[j] scales[j] factor + offsets[j] are not below `least`.
uint32_t scale_and_compare(const float* values, const float* scales, float factor, const float* offsets, float least) {
  uint32_t bits = 0;
#pragma GCC unroll 2
  for (int part = 0; part < kLanes / kRegister; ++part) {
    const Register scaled = ((const Register*)values)[part] * (((const Register*)scales)[part] * factor);
    bits |= reached(scaled + ((const Register*)offsets)[part], least) << part * kRegister;
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

// One session's state with 8 bits per unit, and its best items so far.
struct Session {
  Session(const float* state, int64_t units, int64_t k, const int64_t* excluded, const int64_t* excluded_end,
          const uint16_t* allowed)
      : state(state), k(k), excluded(excluded), excluded_end(excluded_end), allowed(allowed) {
    factor = largest_of(state, units) / kLargestUnit;
    packed.resize(2 * groups_of(units));
    int8_t* integers = (int8_t*)packed.data();
    int32_t sum = 0;
    double lost_squares = 0;
    for (int64_t j = 0; j < units; ++j) {
      const float rounded = std::nearbyint(state[j] / factor);
      integers[j] = (int8_t)(rounded >= -kLargestUnit ? std::min<float>(rounded, kLargestUnit) : -kLargestUnit);
      sum += integers[j];
      const double difference = (double)state[j] - (double)integers[j] * factor;
      lost_squares += difference * difference;
    }
    shift = kLargestWeight * sum;
    length = length_of(state, units) * 1.0001;
    lost = std::sqrt(lost_squares) * 1.0001 + length * (units + 8) * 0x1p-22;  // the second term: rounding of floats
    best.reserve(k);
  }

  // Which of a block's items may be among the best, the first in the lowest bit.
  uint16_t allowed_of(int64_t block) const { return allowed ? allowed[block] : 0xffff; }

  // Notes an item whose score is `highest` at most, and asks the memory for its weights.
  void note(int64_t item, float highest, const float* weights, int64_t units) {
    if (std::binary_search(excluded, excluded_end, item)) return;
    for (int64_t j = 0; j <= units; j += 16) __builtin_prefetch(weights + j);
    noted.push_back({highest, item});
  }

  // Scores the items noted, and takes those among the k best that belong there.
  void score_noted(const float* matrix, int64_t units) {
    for (const Scored& each : noted)
      if (each.score >= threshold) consider({exact_score(matrix + each.item * (units + 1), state, units), each.item});
    noted.clear();
  }

  void consider(const Scored& scored) {
    if ((int64_t)best.size() == k) {
      if (!(scored < best.front())) return;
      std::pop_heap(best.begin(), best.end());
      best.back() = scored;
    } else {
      best.push_back(scored);
    }
    std::push_heap(best.begin(), best.end());
    if ((int64_t)best.size() == k) threshold = best.front().score;
  }

  const float* state;
  int64_t k;
  const int64_t *excluded, *excluded_end;  // ascending
  const uint16_t* allowed;                 // a bit for each item; null: all of them
  std::vector<int32_t> packed;
  int32_t shift;
  float factor, length, lost;
  std::vector<Scored> noted;     // with their highest possible scores
  std::vector<Scored> best;      // a heap with the worst in front
  float threshold = -HUGE_VALF;  // its score, once there are k
};

// The item matrix with 4 bits per weight, in blocks of kLanes items, as packed_products.h has it.
//
// For an item's vector w, rounded to w', and a state h, rounded to h', the Cauchy-Schwarz inequality gives
// |w h - w' h'| <= |w - w'| |h| + |w'| |h - h'|. `bounds` holds the largest |w - w'|, |w'| or |w|, and |bias| of each
// block. So an item whose rough score w' h' is below the k-th best exact one by more than this is not among the k best.
// The others are scored with the exact matrix.
struct Items {
  const float* matrix;  // [count, units + 1]
  int64_t count, units;
  const uint8_t* packed;
  const float *factors, *biases, *bounds;

  template <int kSessions>
  void look_at(int64_t block, Session* sessions) const {
    const int64_t groups = groups_of(units), first = block * kLanes;
    const int32_t* states[kSessions];
    int32_t shifts[kSessions];
    for (int s = 0; s < kSessions; ++s) states[s] = sessions[s].packed.data(), shifts[s] = sessions[s].shift;
    float rough[kSessions][kLanes];
    sum_products<kSessions>(packed + block * groups * kGroupBytes, groups, states, shifts, rough);
    const uint32_t filled = (1u << std::min(kLanes, count - first)) - 1;  // the last block may have fewer items
    const float* bound = bounds + block * 3;
    for (int s = 0; s < kSessions; ++s) {
      Session& session = sessions[s];
      const float margin = bound[0] * session.length + bound[1] * session.lost + bound[2] * 0x1p-21f;
      uint32_t left =
          scale_and_compare(rough[s], factors + first, session.factor, biases + first, session.threshold - margin);
      for (left &= session.allowed_of(block) & filled; left; left &= left - 1) {
        const int64_t lane = __builtin_ctz(left), item = first + lane;
        const float score = rough[s][lane] * (factors[item] * session.factor) + biases[item];
        session.note(item, score + margin, matrix + item * (units + 1), units);
      }
      if (session.noted.size() >= kNoted) session.score_noted(matrix, units);
    }
  }
};

// The number of the step that a weight is rounded to; the steps are kLargestWeight, kLargestWeight - 2, ...
// -kLargestWeight times a factor, the lowest number 0.
float step_of(float weight, float factor) {
  const float step = std::nearbyint((weight / factor + kLargestWeight) * 0.5f);
  return std::min(std::max(step, 0.0f), (float)kLargestWeight);
}

// What rounding an item's weights loses, its length.
double lost_length(const float* weights, int64_t units, float factor) {
  double squares = 0;
#pragma omp simd reduction(+ : squares)
  for (int64_t j = 0; j < units; ++j) {
    const double lost = weights[j] - (2 * step_of(weights[j], factor) - kLargestWeight) * (double)factor;
    squares += lost * lost;
  }
  return std::sqrt(squares);
}

}  // namespace

extern "C" {

void pack_items(const float* matrix, int64_t count, int64_t units, uint8_t* packed, float* factors, float* biases,
                float* bounds) {
  const int64_t groups = groups_of(units);
  for (int64_t item = 0; item < count; ++item) {
    const float* weights = matrix + item * (units + 1);
    const int64_t block = item / kLanes, lane = item % kLanes;
    const float largest = largest_of(weights, units);
    double lost = HUGE_VAL, squares = 0;
    for (const float share : kShares) {
      const float factor = largest * share / kLargestWeight;
      const double this_lost = lost_length(weights, units, factor);
      if (this_lost < lost) lost = this_lost, factors[item] = factor;
    }
    for (int64_t j = 0; j < units; ++j) {
      const int step = (int)step_of(weights[j], factors[item]);
      const double rounded = (2 * step - kLargestWeight) * (double)factors[item];
      squares += rounded * rounded;
      packed[place_of(block * groups, lane, j)] |= j % kGroup < kGroup / 2 ? step : step << 4;
    }
    biases[item] = weights[units];
    float* bound = bounds + block * 3;
    bound[0] = std::max(bound[0], (float)(lost * 1.0001));
    bound[1] = std::max(bound[1], (float)(std::max(std::sqrt(squares), length_of(weights, units)) * 1.0001));
    bound[2] = std::max(bound[2], std::fabs(weights[units]));
  }
}

void best_items(const float* matrix, int64_t count, int64_t units, const uint8_t* packed, const float* factors,
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
    sessions[row].score_noted(matrix, units);
    std::vector<Scored>& of_session = sessions[row].best;
    std::sort_heap(of_session.begin(), of_session.end());
    found[row] = of_session.size();
    for (int64_t place = 0; place < found[row]; ++place) {
      best[row * width + place] = of_session[place].item;
      scores[row * width + place] = of_session[place].score;
    }
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

}  // extern "C"
