// The hot parts of a training step on the processor, each one pass where Paddle's own operations take ten or more.
//
// utils/native.py compiles and calls this; what each function computes stands there and in the plain version beside its call
// (net.py, losses.py, optimizers.py), which a test holds equal. All matrices are float32, row by row without gaps.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "activations.h"

extern "C" void cblas_sgemm(int order, int transpose_a, int transpose_b, int rows, int columns, int inner, float alpha,
                            const float* a, int a_stride, const float* b, int b_stride, float beta, float* c, int c_stride);

namespace {

using Numbers = std::vector<float>;
// Room for numbers, not filled with zeros first, and aligned, since MKL rounds by where numbers lie.
using Room = std::unique_ptr<float[], void (*)(void*)>;

Room room(int64_t size) {
  const size_t bytes = (size * sizeof(float) / 64 + 1) * 64;
  void* memory = std::aligned_alloc(64, bytes);
  if (!memory) std::abort();
  return Room((float*)memory, std::free);
}

// c = a b + beta c, where `a` [rows, inner] and `b` [inner, columns] may be stored transposed.
void product(bool transpose_a, bool transpose_b, int64_t rows, int64_t columns, int64_t inner, const float* a, int64_t a_stride,
             const float* b, int64_t b_stride, float beta, float* c, int64_t c_stride) {
  constexpr int kRowMajor = 101, kNoTranspose = 111, kTranspose = 112;
  cblas_sgemm(kRowMajor, transpose_a ? kTranspose : kNoTranspose, transpose_b ? kTranspose : kNoTranspose, (int)rows,
              (int)columns, (int)inner, 1.0f, a, (int)a_stride, b, (int)b_stride, beta, c, (int)c_stride);
}

// Replaces a row of scores by exp(score + bias - shift); returns their sum.
float exponentials_of_row(float* row, const float* bias, int64_t count, float shift) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = 0; j < count; ++j) {
    row[j] = exponential(row[j] + bias[j] - shift);
    sum += row[j];
  }
  return sum;
}

// sums[j] = the sum over rows of matrix[row][j].
void column_sums(const float* matrix, int64_t rows, int64_t columns, float* sums) {
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
      : first(mixed(key)), kept_below((uint32_t)std::min((1.0 - share) * 4294967296.0, 4294967295.0)), scale(1 / (1 - share)) {}

  void apply(float* values, int64_t count, int64_t place) const {
    for (int64_t i = 0; i < count; ++i) values[i] *= (uint32_t)(mixed(first + place + i) >> 32) < kept_below ? scale : 0.0f;
  }

  uint64_t first;
  uint32_t kept_below;
  float scale;
};

constexpr int64_t kAhead = 4;  // rows: far enough for the memory to answer before they are needed

inline void prefetch_row(const float* row, int64_t width) {
  for (int64_t j = 0; j < width; j += 16) __builtin_prefetch(row + j, 1);
}

constexpr float kSafeSum = 1e30f;  // sums of exponentials between 1 / kSafeSum and kSafeSum lost nothing to overflow

}  // namespace

extern "C" {

void gru_forward(const float* gate_inputs, const float* weight, const float* bias, const float* before, const int64_t* rows_per_step,
                 int64_t steps, int64_t units, int64_t reset_after, float dropped_share, uint64_t key, float* states, float* saved) {
  const int64_t gates = 3 * units;
  const Dropout dropout(dropped_share, key);
  int64_t place = 0;  // of the step's first number among all states
  const Room products = room(rows_per_step[0] * gates);
  for (int64_t step = 0; step < steps; ++step) {
    const int64_t rows = rows_per_step[step];
    product(false, false, rows, reset_after ? gates : 2 * units, units, before, units, weight, gates, 0, products.get(), gates);
#pragma omp parallel for if (rows * units > 16384)
    for (int64_t row = 0; row < rows; ++row) {
      const float *in = gate_inputs + row * gates, *p = products.get() + row * gates, *h = before + row * units;
      float *reset = saved + row * 4 * units, *update = reset + units, *third = update + units, *candidate = third + units;
      float* state = states + row * units;
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
    if (!reset_after) {
      float* candidate_products = products.get() + 2 * units;
      product(false, false, rows, units, units, saved + 2 * units, 4 * units, weight + 2 * units, gates, 0, candidate_products, gates);
      for (int64_t row = 0; row < rows; ++row) {
        const float *in = gate_inputs + row * gates + 2 * units, *p = candidate_products + row * gates, *h = before + row * units;
        float *update = saved + row * 4 * units + units, *candidate = update + 2 * units, *state = states + row * units;
        for (int64_t j = 0; j < units; ++j) {
          candidate[j] = hyperbolic_tangent(in[j] + p[j] + bias[2 * units + j]);
          state[j] = candidate[j] + update[j] * (h[j] - candidate[j]);
        }
      }
    }
    if (dropped_share > 0) dropout.apply(states, rows * units, place);
    before = states;
    gate_inputs += rows * gates, states += rows * units, saved += rows * 4 * units, place += rows * units;
  }
}

void gru_backward(const float* states_gradient, const float* states, const float* saved, const float* weight, const float* first,
                  const int64_t* rows_per_step, int64_t steps, int64_t units, int64_t reset_after, int64_t through_time,
                  float* inputs_gradient, float* weight_gradient, float* bias_gradient) {
  const int64_t gates = 3 * units;
  int64_t clicks = 0;
  for (int64_t step = 0; step < steps; ++step) clicks += rows_per_step[step];
  const Room products_gradient = room(reset_after ? clicks * gates : 0), befores = room(clicks * units);
  const Room through_reset = room(reset_after ? 0 : rows_per_step[0] * units);
  const Room later = room(rows_per_step[0] * units);
  std::fill(later.get(), later.get() + rows_per_step[0] * units, 0.0f);
  int64_t end = clicks;
  for (int64_t step = steps - 1; step >= 0; --step) {
    const int64_t rows = rows_per_step[step], start = end - rows;
    const float* before = step ? states + (start - rows_per_step[step - 1]) * units : first;
    std::memcpy(befores.get() + start * units, before, rows * units * sizeof(float));
    float* gradients = reset_after ? products_gradient.get() : inputs_gradient;  // of what the recurrent products went into
#pragma omp parallel for if (rows * units > 16384)
    for (int64_t row = 0; row < rows; ++row) {
      const int64_t click = start + row;
      const float *reset = saved + click * 4 * units, *update = reset + units, *third = update + units, *candidate = third + units;
      const float *h = before + row * units, *from_loss = states_gradient + click * units;
      float *gradient = later.get() + row * units, *in = inputs_gradient + click * gates;
      for (int64_t j = 0; j < units; ++j) {
        gradient[j] = through_time ? gradient[j] + from_loss[j] : from_loss[j];
        in[2 * units + j] = gradient[j] * (1 - update[j]) * (1 - candidate[j] * candidate[j]);
        in[units + j] = gradient[j] * (h[j] - candidate[j]) * update[j] * (1 - update[j]);
        gradient[j] *= update[j];
      }
      if (reset_after) {
        float* out = gradients + click * gates;
        for (int64_t j = 0; j < units; ++j) {
          in[j] = in[2 * units + j] * third[j] * reset[j] * (1 - reset[j]);
          out[j] = in[j], out[units + j] = in[units + j], out[2 * units + j] = in[2 * units + j] * reset[j];
        }
      }
    }
    float* step_gradients = gradients + start * gates;
    if (!reset_after) {
      product(false, true, rows, units, units, step_gradients + 2 * units, gates, weight + 2 * units, gates, 0,
              through_reset.get(), units);
      for (int64_t row = 0; row < rows; ++row) {
        const float *reset = saved + (start + row) * 4 * units, *h = before + row * units, *back = through_reset.get() + row * units;
        float *gradient = later.get() + row * units, *in = step_gradients + row * gates;
        for (int64_t j = 0; j < units; ++j) {
          in[j] = back[j] * h[j] * reset[j] * (1 - reset[j]);
          gradient[j] += back[j] * reset[j];
        }
      }
    }
    if (step && through_time)
      product(false, true, rows, units, reset_after ? gates : 2 * units, step_gradients, gates, weight, gates, 1, later.get(), units);
    end = start;
  }
  const float* gradients = reset_after ? products_gradient.get() : inputs_gradient;
  product(true, false, units, reset_after ? gates : 2 * units, clicks, befores.get(), units, gradients, gates, 0, weight_gradient, gates);
  if (!reset_after)
    product(true, false, units, units, clicks, saved + 2 * units, 4 * units, gradients + 2 * units, gates, 0,
            weight_gradient + 2 * units, gates);
  column_sums(gradients, clicks, gates, bias_gradient);
}

void softmax_cross_entropy(const float* hidden, const float* matrix, const float* shift, const int64_t* targets,
                           const float* own_shift, int64_t rows, int64_t units, int64_t items, int64_t chunk, float smoothing,
                           float* losses, float* hidden_gradient, float* matrix_gradient) {
  const int64_t width = units + 1;
  chunk = std::min(chunk, rows);
  const Room scores = room(chunk * items), scaled = room(chunk * width), bias = room(items), factors = room(chunk);
  Numbers mean_row(width, 0.0f), hidden_sum(width, 0.0f);
  for (int64_t item = 0; item < items; ++item) bias[item] = matrix[item * width + units] + (shift ? shift[item] : 0.0f);
  if (smoothing > 0) {
    for (int64_t item = 0; item < items; ++item) {
      for (int64_t j = 0; j < units; ++j) mean_row[j] += matrix[item * width + j] / items;
      mean_row[units] += bias[item] / items;
    }
  }
  for (int64_t start = 0; start < rows; start += chunk) {
    const int64_t count = std::min(chunk, rows - start);
    const float* h = hidden + start * units;
    product(false, true, count, items, units, h, units, matrix, width, 0, scores.get(), items);
#pragma omp parallel for
    for (int64_t row = 0; row < count; ++row) {
      const int64_t number = targets[start + row];
      float* e = scores.get() + row * items;
      const float *own = h + row * units, *target = matrix + number * width;
      float target_score = bias[number], mean_score = mean_row[units];
#pragma omp simd reduction(+ : target_score, mean_score)
      for (int64_t j = 0; j < units; ++j) target_score += own[j] * target[j], mean_score += own[j] * mean_row[j];
      float sum = exponentials_of_row(e, bias.get(), items, 0.0f), largest = 0;
      if (!(sum > 1 / kSafeSum && sum < kSafeSum)) {  // the scores are gone: compute them again, and subtract the largest
        largest = -INFINITY;
        for (int64_t item = 0; item < items; ++item) {
          float score = 0;
#pragma omp simd reduction(+ : score)
          for (int64_t j = 0; j < units; ++j) score += own[j] * matrix[item * width + j];
          e[item] = score;
          largest = std::max(largest, score + bias[item]);
        }
        sum = exponentials_of_row(e, bias.get(), items, largest);
      }
      if (own_shift) {  // the row's target is a candidate of its own, beside what it is as one of the items
        target_score += own_shift[start + row] - (shift ? shift[number] : 0.0f);
        const float own_exponential = exponential(target_score - largest);
        e[number] += own_exponential;
        sum += own_exponential;
      }
      losses[start + row] = std::log(sum) + largest - target_score + smoothing * (target_score - mean_score);
      factors[row] = 1 / sum;
      const float scale = 1 / (sum * rows);
      float* scaled_row = scaled.get() + row * width;
      for (int64_t j = 0; j < units; ++j) scaled_row[j] = own[j] * scale;
      scaled_row[units] = scale;  // so that the last column of the product below is the gradient of the bias
    }
    float* gradient = hidden_gradient + start * units;
    product(false, false, count, units, items, scores.get(), items, matrix, width, 0, gradient, units);
    product(true, false, items, width, count, scores.get(), items, scaled.get(), width, start ? 1 : 0, matrix_gradient, width);
    for (int64_t row = 0; row < count; ++row, gradient += units) {
      const float* target = matrix + targets[start + row] * width;
      for (int64_t j = 0; j < units; ++j) {
        gradient[j] = (gradient[j] * factors[row] - (1 - smoothing) * target[j] - smoothing * mean_row[j]) / rows;
        hidden_sum[j] += h[row * units + j];
      }
    }
  }
  hidden_sum[units] = rows;
  const float share = (1 - smoothing) / rows;
  for (int64_t row = 0; row < rows; ++row) {
    float* gradient = matrix_gradient + targets[row] * width;
    for (int64_t j = 0; j < units; ++j) gradient[j] -= hidden[row * units + j] * share;
    gradient[units] -= share;
  }
  if (smoothing > 0) {
    for (int64_t item = 0; item < items; ++item)
      for (int64_t j = 0; j < width; ++j) matrix_gradient[item * width + j] -= hidden_sum[j] * smoothing / items / rows;
  }
}

void adagrad(float* weight, float* sums, float* velocity, const float* gradient, const int64_t* numbers, int64_t rows,
             int64_t rows_with_bias, int64_t width, float rate, float momentum, float epsilon, int64_t epsilon_inside) {
#pragma omp parallel for if (rows * width > 65536)
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t begin = (numbers ? numbers[row] : row) * width, count = row < rows_with_bias ? width : width - 1;
    float *w = weight + begin, *s = sums + begin;
    if (numbers && row + kAhead < rows) {
      const int64_t later = numbers[row + kAhead] * width;
      prefetch_row(weight + later, width), prefetch_row(sums + later, width);
      if (velocity) prefetch_row(velocity + later, width);
    }
    const float* g = gradient + row * width;
    if (velocity) {
      float* v = velocity + begin;
      for (int64_t j = 0; j < count; ++j) {
        s[j] += g[j] * g[j];
        v[j] = momentum * v[j] - rate * g[j] / (epsilon_inside ? std::sqrt(s[j] + epsilon) : std::sqrt(s[j]) + epsilon);
        w[j] += v[j];
      }
    } else {
      for (int64_t j = 0; j < count; ++j) {
        s[j] += g[j] * g[j];
        w[j] -= rate * g[j] / (epsilon_inside ? std::sqrt(s[j] + epsilon) : std::sqrt(s[j]) + epsilon);
      }
    }
  }
}

void gather(const float* source, int64_t source_width, const int64_t* numbers, int64_t rows, int64_t width, float* target) {
  for (int64_t row = 0; row < rows; ++row) {
    if (row + kAhead < rows) prefetch_row(source + numbers[row + kAhead] * source_width, width);
    std::memcpy(target + row * width, source + numbers[row] * source_width, width * sizeof(float));
  }
}

void add_rows(float* target, int64_t target_width, const float* source, int64_t width, const int64_t* numbers, int64_t rows) {
  for (int64_t row = 0; row < rows; ++row) {
    float* sums = target + numbers[row] * target_width;
    for (int64_t j = 0; j < width; ++j) sums[j] += source[row * width + j];
  }
}

void linear_forward(const float* inputs, const float* weight, const float* bias, int64_t rows, int64_t columns, int64_t outputs,
                    float* result) {
  for (int64_t row = 0; row < rows; ++row) std::memcpy(result + row * outputs, bias, outputs * sizeof(float));
  product(false, false, rows, outputs, columns, inputs, columns, weight, outputs, 1, result, outputs);
}

void linear_backward(const float* gradient, const float* inputs, const float* weight, int64_t rows, int64_t columns, int64_t outputs,
                     float* inputs_gradient, float* weight_gradient, float* bias_gradient) {
  product(false, true, rows, columns, outputs, gradient, outputs, weight, outputs, 0, inputs_gradient, columns);
  product(true, false, columns, outputs, rows, inputs, columns, gradient, outputs, 0, weight_gradient, outputs);
  column_sums(gradient, rows, outputs, bias_gradient);
}

void dropout(float* values, int64_t count, float share, uint64_t key) { Dropout(share, key).apply(values, count, 0); }

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

void search(const double* cumulative, const int64_t* start, int64_t size, const double* numbers, int64_t count, int64_t* found) {
  for (int64_t i = 0; i < count; ++i) {
    int64_t place = start[(int64_t)(numbers[i] * size)];
    while (cumulative[place] <= numbers[i]) ++place;
    while (place && cumulative[place - 1] > numbers[i]) --place;  // where number * size was rounded up
    found[i] = place;
  }
}

}  // extern "C"
