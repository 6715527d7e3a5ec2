// The network's part of a training step on the processor: each function is one pass where Paddle's operations take ten
// or more.
//
// utils/native/kernels.py calls this, and says what each function computes; utils/training/proof.py compares it with
// net.py and optimizers.py before it is used. All matrices are float32, row by row without gaps.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <vector>

#include "activations.h"
#include "shared.h"

namespace {

constexpr int64_t kScanned = 64;  // scores that are looked at together for one of the best

// Which sessions a thread has in a step of a GRU: those in each `apart`-th slot from the `first` on. Sessions lie in
// slots from the longest to the shortest, so that all threads have as much to do.
struct Slots {
  explicit Slots(int64_t all) { share_out(all); }

  // Share out so many slots; whether that differs from before, so that threads go on with other threads' sessions.
  bool share_out(int64_t all) {
    const Thread thread;
    const int64_t before = apart;
    apart = Thread::parts(all, kFewest, thread.count);
    first = thread.number;
    rows = first < apart ? (all - first + apart - 1) / apart : 0;
    return apart != before;
  }

  int64_t apart = 0, first, rows;
};

// The gates of a click, kept as reset, update, third, candidate, and its state; without `reset_after` what the reset
// gate lets through, as third, and neither candidate nor state.
inline void gates_of(const float* in, const float* p, const float* bias, const float* h, int64_t units,
                     int64_t reset_after, float* kept, float* state) {
  float *reset = kept, *update = reset + units, *third = update + units, *candidate = third + units;
  for (int64_t j = 0; j < units; ++j) reset[j] = sigmoid(in[j] + p[j] + bias[j]);
  for (int64_t j = 0; j < units; ++j) update[j] = sigmoid(in[units + j] + p[units + j] + bias[units + j]);
  if (reset_after) {
    for (int64_t j = 0; j < units; ++j) {
      third[j] = p[2 * units + j] + bias[2 * units + j];
      candidate[j] = hyperbolic_tangent(in[2 * units + j] + reset[j] * third[j]);
      state[j] = candidate[j] + update[j] * (h[j] - candidate[j]);
    }
  } else {
    for (int64_t j = 0; j < units; ++j) third[j] = reset[j] * h[j];
  }
}

// An item and its score, and which of two is better: among equal scores, the lower item.
struct Scored {
  float score;
  int32_t item;
};
inline bool is_better(const Scored& a, const Scored& b) {
  return a.score > b.score || (a.score == b.score && a.item < b.item);
}

// The k best items by their scores, the best first. `heap` has room for k, and the worst of them in front.
void best_of_row(const float* scores, int64_t items, int64_t k, std::vector<Scored>& heap, int32_t* best) {
  heap.clear();
  for (int64_t start = 0; start < items; start += kScanned) {
    const int64_t end = std::min(items, start + kScanned);
    float largest = scores[start];
#pragma omp simd reduction(max : largest)
    for (int64_t j = start; j < end; ++j) largest = std::max(largest, scores[j]);
    if ((int64_t)heap.size() == k && largest <= heap.front().score) continue;
    for (int64_t j = start; j < end; ++j) {
      const bool is_full = (int64_t)heap.size() == k;
      if (is_full && scores[j] <= heap.front().score) continue;
      if (is_full) std::pop_heap(heap.begin(), heap.end(), is_better), heap.pop_back();
      heap.push_back({scores[j], (int32_t)j});
      std::push_heap(heap.begin(), heap.end(), is_better);
    }
  }
  std::sort_heap(heap.begin(), heap.end(), is_better);
  for (const Scored& scored : heap) *best++ = scored.item;
}

// Candidate and state of a click without `reset_after`, from the product of what the reset gate let through.
inline void candidate_of(const float* in, const float* p, const float* bias, const float* h, int64_t units, float* kept,
                         float* state) {
  float *update = kept + units, *candidate = update + 2 * units;
  for (int64_t j = 0; j < units; ++j) {
    candidate[j] = hyperbolic_tangent(in[j] + p[j] + bias[j]);
    state[j] = candidate[j] + update[j] * (h[j] - candidate[j]);
  }
}

// Gradients of a click by the gates' inputs, `in`, and by the recurrent products, `out`; `gradient` is that by its
// state from the clicks after it, and becomes that by the state before it as far as the update gate carries it.
inline void gates_gradient(const float* from_loss, const float* kept, const float* h, int64_t units,
                           int64_t through_time, int64_t reset_after, float* gradient, float* in, float* out) {
  const float *reset = kept, *update = reset + units, *third = update + units, *candidate = third + units;
  for (int64_t j = 0; j < units; ++j) {
    gradient[j] = through_time ? gradient[j] + from_loss[j] : from_loss[j];
    in[2 * units + j] = gradient[j] * (1 - update[j]) * (1 - candidate[j] * candidate[j]);
    in[units + j] = gradient[j] * (h[j] - candidate[j]) * update[j] * (1 - update[j]);
    gradient[j] *= update[j];
  }
  if (!reset_after) return;
  for (int64_t j = 0; j < units; ++j) {
    in[j] = in[2 * units + j] * third[j] * reset[j] * (1 - reset[j]);
    out[j] = in[j], out[units + j] = in[units + j], out[2 * units + j] = in[2 * units + j] * reset[j];
  }
}

// The same for the reset gate without `reset_after`: `back` is the gradient by what it let through.
inline void reset_gradient(const float* back, const float* reset, const float* h, int64_t units, float* gradient,
                           float* in) {
  for (int64_t j = 0; j < units; ++j) {
    in[j] = back[j] * h[j] * reset[j] * (1 - reset[j]);
    gradient[j] += back[j] * reset[j];
  }
}

}  // namespace

extern "C" {

void gru_forward(const float* gate_inputs, const float* weight, const float* bias, const float* before,
                 const int64_t* rows_per_step, int64_t steps, int64_t units, int64_t reset_after, float dropped_share,
                 uint64_t key, float* states, float* saved) {
  const int64_t gates = 3 * units, clicks = std::accumulate(rows_per_step, rows_per_step + steps, int64_t{0});
  const Dropout dropout(dropped_share, key);
#pragma omp parallel if (clicks * units > kWorthwhile)
  {
    Slots slots(rows_per_step[0]);
    // With fewer threads for fewer sessions a thread may get more of them, but never so many.
    const Room products = room(std::max(slots.rows, 2 * kFewest) * gates);
    const float* earlier = before;
    int64_t start = 0;  // of the step's rows among all
    for (int64_t step = 0; step < steps; start += rows_per_step[step++]) {
      if (slots.share_out(rows_per_step[step])) {
#pragma omp barrier
      }
      const int64_t rows = slots.rows, apart = slots.apart, row = start + slots.first;
      const float *in = gate_inputs + row * gates, *h = earlier + slots.first * units;
      float *state = states + row * units, *kept = saved + row * 4 * units;
      product(false, false, rows, reset_after ? gates : 2 * units, units, h, apart * units, weight, gates, 0,
              products.get(), gates);
      for (int64_t i = 0; i < rows; ++i)
        gates_of(in + i * apart * gates, products.get() + i * gates, bias, h + i * apart * units, units, reset_after,
                 kept + i * apart * 4 * units, state + i * apart * units);
      if (!reset_after) {
        product(false, false, rows, units, units, kept + 2 * units, apart * 4 * units, weight + 2 * units, gates, 0,
                products.get(), gates);
        for (int64_t i = 0; i < rows; ++i)
          candidate_of(in + i * apart * gates + 2 * units, products.get() + i * gates, bias + 2 * units,
                       h + i * apart * units, units, kept + i * apart * 4 * units, state + i * apart * units);
      }
      for (int64_t i = 0; i < rows && dropped_share > 0; ++i)
        dropout.apply(state + i * apart * units, units, (row + i * apart) * units);
      earlier = states + start * units;
    }
  }
}

void gru_backward(const float* states_gradient, const float* states, const float* saved, const float* weight,
                  const float* first, const int64_t* rows_per_step, int64_t steps, int64_t units, int64_t reset_after,
                  int64_t through_time, float* inputs_gradient, float* weight_gradient, float* bias_gradient) {
  const int64_t gates = 3 * units, clicks = std::accumulate(rows_per_step, rows_per_step + steps, int64_t{0});
  const Room products_gradient = room(reset_after ? clicks * gates : 0), befores = room(clicks * units);
  const Room products = room(rows_per_step[0] * units), later = room(rows_per_step[0] * units);
  std::fill(later.get(), later.get() + rows_per_step[0] * units, 0.0f);
  // Of what the recurrent products went into.
  float* gradients = reset_after ? products_gradient.get() : inputs_gradient;
#pragma omp parallel if (clicks * units > kWorthwhile)
  {
    Slots slots(rows_per_step[steps - 1]);
    int64_t start = clicks;
    for (int64_t step = steps - 1; step >= 0; --step) {
      start -= rows_per_step[step];
      if (slots.share_out(rows_per_step[step])) {
#pragma omp barrier
      }
      const int64_t rows = slots.rows, apart = slots.apart, row = start + slots.first;
      const float* before = (step ? states + (start - rows_per_step[step - 1]) * units : first) + slots.first * units;
      float *own_gradients = gradients + row * gates, *own_later = later.get() + slots.first * units,
            *back = products.get() + slots.first * units;
      for (int64_t i = 0; i < rows; ++i) {
        const int64_t click = row + i * apart;
        const float* h = before + i * apart * units;
        std::memcpy(befores.get() + click * units, h, units * sizeof(float));
        gates_gradient(states_gradient + click * units, saved + click * 4 * units, h, units, through_time, reset_after,
                       own_later + i * apart * units, inputs_gradient + click * gates, gradients + click * gates);
      }
      if (!reset_after) {
        product(false, true, rows, units, units, own_gradients + 2 * units, apart * gates, weight + 2 * units, gates, 0,
                back, apart * units);
        for (int64_t i = 0; i < rows; ++i)
          reset_gradient(back + i * apart * units, saved + (row + i * apart) * 4 * units, before + i * apart * units,
                         units, own_later + i * apart * units, own_gradients + i * apart * gates);
      }
      if (!step || !through_time) continue;
      product(false, true, rows, units, reset_after ? gates : 2 * units, own_gradients, apart * gates, weight, gates, 0,
              back, apart * units);
      for (int64_t i = 0; i < rows; ++i)  // MKL would round a sum with what is there by how many rows there are
        for (int64_t j = i * apart * units; j < (i * apart + 1) * units; ++j) own_later[j] += back[j];
    }
#pragma omp barrier
    const Part columns = Thread().blocks(gates, kLine);
    // Without `reset_after` the candidate's products are of the states that the reset gate let through.
    const int64_t by_states = reset_after ? gates : std::max(columns.first, std::min(columns.last, 2 * units));
    const int64_t middle = std::min(by_states, columns.last);
    product(true, false, units, middle - columns.first, clicks, befores.get(), units, gradients + columns.first, gates,
            0, weight_gradient + columns.first, gates);
    product(true, false, units, columns.last - middle, clicks, saved + 2 * units, 4 * units, gradients + middle, gates,
            0, weight_gradient + middle, gates);
    column_sums(gradients, clicks, gates, columns, bias_gradient);
  }
}

void gather(const float* source, int64_t source_width, const int64_t* numbers, int64_t rows, int64_t width,
            float* target) {
#pragma omp parallel for schedule(static) if (rows * width > kWorthwhile)
  for (int64_t row = 0; row < rows; ++row) {
    if (row + kAhead < rows) prefetch_row(source + numbers[row + kAhead] * source_width, width);
    std::memcpy(target + row * width, source + numbers[row] * source_width, width * sizeof(float));
  }
}

void add_rows(float* target, int64_t target_width, const float* source, int64_t width, const int64_t* numbers,
              int64_t rows) {
#pragma omp parallel if (rows * width > kWorthwhile)
  {
    const Part columns = Thread().blocks(width, kLine);
    for (int64_t row = 0; row < rows; ++row) {
      float* sums = target + numbers[row] * target_width;
      for (int64_t j = columns.first; j < columns.last; ++j) sums[j] += source[row * width + j];
    }
  }
}

void set_lengths(const float* vectors, int64_t rows, int64_t width, int64_t units, float length, float least_square,
                 float* result, float* factors) {
#pragma omp parallel for schedule(static) if (rows * width > kWorthwhile)
  for (int64_t row = 0; row < rows; ++row) {
    const float* from = vectors + row * width;
    float *to = result + row * width, square = least_square;
#pragma omp simd reduction(+ : square)
    for (int64_t j = 0; j < units; ++j) square += from[j] * from[j];
    const float factor = factors[row] = length / std::sqrt(square);
    for (int64_t j = 0; j < units; ++j) to[j] = from[j] * factor;
    for (int64_t j = units; j < width; ++j) to[j] = from[j];
  }
}

void lengths_gradient(const float* result, const float* factors, int64_t rows, int64_t width, int64_t units,
                      float length, float* gradient) {
#pragma omp parallel for schedule(static) if (rows * width > kWorthwhile)
  for (int64_t row = 0; row < rows; ++row) {
    const float* vector = result + row * width;
    float *own = gradient + row * width, along = 0;
#pragma omp simd reduction(+ : along)
    for (int64_t j = 0; j < units; ++j) along += own[j] * vector[j];
    along /= length * length;
    for (int64_t j = 0; j < units; ++j) own[j] = factors[row] * (own[j] - along * vector[j]);
  }
}

void linear_forward(const float* inputs, const float* weight, const float* bias, int64_t rows, int64_t columns,
                    int64_t outputs, float* result) {
#pragma omp parallel if (rows * outputs > kWorthwhile)
  {
    const Part own = Thread().part(rows, kFewest);
    for (int64_t row = own.first; row < own.last; ++row)
      std::memcpy(result + row * outputs, bias, outputs * sizeof(float));
    product(false, false, own.size(), outputs, columns, inputs + own.first * columns, columns, weight, outputs, 1,
            result + own.first * outputs, outputs);
  }
}

void linear_backward(const float* gradient, const float* inputs, const float* weight, int64_t rows, int64_t columns,
                     int64_t outputs, float* inputs_gradient, float* weight_gradient, float* bias_gradient) {
#pragma omp parallel if (rows * outputs > kWorthwhile)
  {
    const Part own = Thread().part(rows, kFewest), wide = Thread().blocks(outputs, kLine);
    product(false, true, own.size(), columns, outputs, gradient + own.first * outputs, outputs, weight, outputs, 0,
            inputs_gradient + own.first * columns, columns);
    product(true, false, columns, wide.size(), rows, inputs, columns, gradient + wide.first, outputs, 0,
            weight_gradient + wide.first, outputs);
    column_sums(gradient, rows, outputs, wide, bias_gradient);
  }
}

void dropout(float* values, int64_t count, float share, uint64_t key) {
  const Dropout mask(share, key);
#pragma omp parallel if (count > kWorthwhile)
  {
    const Part own = Thread().blocks(count, kLine);
    mask.apply(values + own.first, own.size(), own.first);
  }
}

int64_t distinct(const int64_t* items, int64_t count, int64_t* place_of_item, int64_t* found, int64_t* places) {
  for (int64_t i = 0; i < count; ++i) place_of_item[items[i]] = -1;
  int64_t size = 0;
  for (int64_t i = 0; i < count; ++i) {
    int64_t& place = place_of_item[items[i]];
    if (place < 0) {
      place = size;
      found[size++] = items[i];
    }
    places[i] = place;
  }
  return size;
}

void search(const double* cumulative, const int64_t* start, int64_t size, const double* numbers, int64_t count,
            int64_t* found) {
#pragma omp parallel for schedule(static) if (count > kWorthwhile)
  for (int64_t i = 0; i < count; ++i) {
    int64_t place = start[(int64_t)(numbers[i] * size)];
    while (cumulative[place] <= numbers[i]) ++place;
    while (place && cumulative[place - 1] > numbers[i]) --place;  // where number * size was rounded up
    found[i] = place;
  }
}

void count_above(const float* hidden, const float* items_by_unit, const int64_t* targets, int64_t rows, int64_t width,
                 int64_t items, int64_t chunk, int64_t k, int64_t* above, int64_t* at_least, int32_t* best) {
#pragma omp parallel
  {
    std::vector<Scored> heap;
    heap.reserve(k);
    const Part own = Thread().part(rows, kFewest);
    const int64_t chunks = (own.size() + chunk - 1) / chunk;
    const Room scores = room(std::min(chunk, own.size()) * items);
    for (int64_t number = 0; number < chunks; ++number) {  // all of about the same size, so that none rounds otherwise
      const int64_t start = own.first + own.size() * number / chunks;
      const int64_t count = own.first + own.size() * (number + 1) / chunks - start;
      product(false, false, count, items, width, hidden + start * width, width, items_by_unit, items, 0, scores.get(),
              items);
      for (int64_t row = start; row < start + count; ++row) {
        const float *of_row = scores.get() + (row - start) * items, threshold = of_row[targets[row]];
        int32_t more = 0, same = 0;
#pragma omp simd reduction(+ : more, same)
        for (int64_t j = 0; j < items; ++j) more += of_row[j] > threshold, same += of_row[j] == threshold;
        above[row] = more, at_least[row] = more + same;
        if (k) best_of_row(of_row, items, k, heap, best + row * k);
      }
    }
  }
}

void set_threads(int64_t count) { omp_set_num_threads((int)count); }

}  // extern "C"
