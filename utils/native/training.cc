// The network's part of a training step on the processor: each function is one pass where Paddle's operations take ten
// or more.
//
// utils/native/kernels.py calls this, and says what each function computes; utils/training/proof.py compares it with
// net.py and optimizers.py before it is used. All matrices are float32, row by row without gaps.

#include <cmath>
#include <cstring>

#include "activations.h"
#include "shared.h"

extern "C" {

void gru_forward(const float* gate_inputs, const float* weight, const float* bias, const float* before,
                 const int64_t* rows_per_step, int64_t steps, int64_t units, int64_t reset_after, float dropped_share,
                 uint64_t key, float* states, float* saved) {
  const int64_t gates = 3 * units;
  const Dropout dropout(dropped_share, key);
  int64_t place = 0;  // of the step's first number among all states
  const Room products = room(rows_per_step[0] * gates);
  for (int64_t step = 0; step < steps; ++step) {
    const int64_t rows = rows_per_step[step];
    product(false, false, rows, reset_after ? gates : 2 * units, units, before, units, weight, gates, 0, products.get(),
            gates);
#pragma omp parallel for if (rows * units > 16384)
    for (int64_t row = 0; row < rows; ++row) {
      const float *in = gate_inputs + row * gates, *p = products.get() + row * gates, *h = before + row * units;
      float *reset = saved + row * 4 * units, *update = reset + units, *third = update + units,
            *candidate = third + units;
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
      product(false, false, rows, units, units, saved + 2 * units, 4 * units, weight + 2 * units, gates, 0,
              candidate_products, gates);
      for (int64_t row = 0; row < rows; ++row) {
        const float *in = gate_inputs + row * gates + 2 * units, *p = candidate_products + row * gates,
                    *h = before + row * units;
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

void gru_backward(const float* states_gradient, const float* states, const float* saved, const float* weight,
                  const float* first, const int64_t* rows_per_step, int64_t steps, int64_t units, int64_t reset_after,
                  int64_t through_time, float* inputs_gradient, float* weight_gradient, float* bias_gradient) {
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
    float* gradients =
        reset_after ? products_gradient.get() : inputs_gradient;  // of what the recurrent products went into
#pragma omp parallel for if (rows * units > 16384)
    for (int64_t row = 0; row < rows; ++row) {
      const int64_t click = start + row;
      const float *reset = saved + click * 4 * units, *update = reset + units, *third = update + units,
                  *candidate = third + units;
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
        const float *reset = saved + (start + row) * 4 * units, *h = before + row * units,
                    *back = through_reset.get() + row * units;
        float *gradient = later.get() + row * units, *in = step_gradients + row * gates;
        for (int64_t j = 0; j < units; ++j) {
          in[j] = back[j] * h[j] * reset[j] * (1 - reset[j]);
          gradient[j] += back[j] * reset[j];
        }
      }
    }
    if (step && through_time)
      product(false, true, rows, units, reset_after ? gates : 2 * units, step_gradients, gates, weight, gates, 1,
              later.get(), units);
    end = start;
  }
  const float* gradients = reset_after ? products_gradient.get() : inputs_gradient;
  product(true, false, units, reset_after ? gates : 2 * units, clicks, befores.get(), units, gradients, gates, 0,
          weight_gradient, gates);
  if (!reset_after)
    product(true, false, units, units, clicks, saved + 2 * units, 4 * units, gradients + 2 * units, gates, 0,
            weight_gradient + 2 * units, gates);
  column_sums(gradients, clicks, gates, bias_gradient);
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

void gather(const float* source, int64_t source_width, const int64_t* numbers, int64_t rows, int64_t width,
            float* target) {
  for (int64_t row = 0; row < rows; ++row) {
    if (row + kAhead < rows) prefetch_row(source + numbers[row + kAhead] * source_width, width);
    std::memcpy(target + row * width, source + numbers[row] * source_width, width * sizeof(float));
  }
}

void add_rows(float* target, int64_t target_width, const float* source, int64_t width, const int64_t* numbers,
              int64_t rows) {
  for (int64_t row = 0; row < rows; ++row) {
    float* sums = target + numbers[row] * target_width;
    for (int64_t j = 0; j < width; ++j) sums[j] += source[row * width + j];
  }
}

void linear_forward(const float* inputs, const float* weight, const float* bias, int64_t rows, int64_t columns,
                    int64_t outputs, float* result) {
  for (int64_t row = 0; row < rows; ++row) std::memcpy(result + row * outputs, bias, outputs * sizeof(float));
  product(false, false, rows, outputs, columns, inputs, columns, weight, outputs, 1, result, outputs);
}

void linear_backward(const float* gradient, const float* inputs, const float* weight, int64_t rows, int64_t columns,
                     int64_t outputs, float* inputs_gradient, float* weight_gradient, float* bias_gradient) {
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

void search(const double* cumulative, const int64_t* start, int64_t size, const double* numbers, int64_t count,
            int64_t* found) {
  for (int64_t i = 0; i < count; ++i) {
    int64_t place = start[(int64_t)(numbers[i] * size)];
    while (cumulative[place] <= numbers[i]) ++place;
    while (place && cumulative[place - 1] > numbers[i]) --place;  // where number * size was rounded up
    found[i] = place;
  }
}

}  // extern "C"
