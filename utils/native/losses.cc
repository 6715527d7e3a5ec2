// The losses of a training step on the processor, with their gradients by the hidden states and by the items' rows.
//
// utils/native/kernels.py calls this, and says what each function computes; utils/training/proof.py compares it with
// net.py and losses.py before it is used. All matrices are float32, row by row without gaps. A row of an item is its
// vector and its bias.

#include <cmath>
#include <vector>

#include "activations.h"
#include "shared.h"

namespace {

using Numbers = std::vector<float>;

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

constexpr float kSafeSum = 1e30f;  // sums of exponentials between 1 / kSafeSum and kSafeSum lost nothing to overflow

// Which loss, and its parameters; the numbers of the kinds are those of kernels.LOSSES.
struct Loss {
  int64_t kind;
  float smoothing, elu, regularisation;
};

constexpr float kSmallest = 1e-24f;  // losses.SMALLEST

// log(1 + x) for 0 <= x <= 1, by Cephes' polynomial.
inline float log_of_one_plus(float x) {
  const bool halved = x > 0.41421356f;
  const float z = halved ? 0.5f * x - 0.5f : x;
  float p = 7.0376836292e-2f;
  p = p * z - 1.1514610310e-1f;
  p = p * z + 1.1676998740e-1f;
  p = p * z - 1.2420140846e-1f;
  p = p * z + 1.4249322787e-1f;
  p = p * z - 1.6668057665e-1f;
  p = p * z + 2.0000714765e-1f;
  p = p * z - 2.4999993993e-1f;
  p = p * z + 3.3333331174e-1f;
  return z + (p * z - 0.5f) * z * z + (halved ? 0.69314718f : 0.0f);
}

// One prediction: the target's score, those of the candidates, and how often each candidate is one of the negatives. A
// loss replaces the scores by its gradients and returns its value.
struct Row {
  float* scores;
  const float* weights;
  int64_t count;
  float negatives;  // the sum of the weights
  float own;        // the target's score, then the gradient by it
  float *room, *more_room;

  float largest() const {
    float found = -INFINITY;
#pragma omp simd reduction(max : found)
    for (int64_t j = 0; j < count; ++j) found = std::max(found, weights[j] > 0 ? scores[j] : -INFINITY);
    return found;
  }

  float cross_entropy(float smoothing) {
    const float top = std::max(largest(), own), own_exponential = exponential(own - top);
    float sum = own_exponential, score_sum = own;
#pragma omp simd reduction(+ : sum, score_sum)
    for (int64_t j = 0; j < count; ++j) {
      score_sum += weights[j] * scores[j];
      scores[j] = weights[j] * exponential(scores[j] - top);
      sum += scores[j];
    }
    const float spread = smoothing / negatives, factor = 1 / sum;
    for (int64_t j = 0; j < count; ++j) scores[j] = scores[j] * factor - weights[j] * spread;
    const float loss = std::log(sum) + top - (1 - smoothing - spread) * own - spread * score_sum;
    own = own_exponential * factor - (1 - smoothing);
    return loss;
  }

  float bpr() {
    float sum = 0, gradient = 0;
    const float share = 1 / negatives;
#pragma omp simd reduction(+ : sum, gradient)
    for (int64_t j = 0; j < count; ++j) {
      const float x = scores[j] - own, e = exponential(-std::fabs(x)), weight = weights[j] * share;
      sum += weight * (std::max(x, 0.0f) + log_of_one_plus(e));
      scores[j] = weight * (x > 0 ? 1.0f : e) / (1 + e);
      gradient += scores[j];
    }
    own = -gradient;
    return sum;
  }

  float top1() {
    float sum = 0, gradient = 0;
    const float share = 1 / negatives;
#pragma omp simd reduction(+ : sum, gradient)
    for (int64_t j = 0; j < count; ++j) {
      const float s = scores[j], a = sigmoid(s - own), b = sigmoid(s * s), weight = weights[j] * share;
      const float slope = weight * a * (1 - a);
      sum += weight * (a + b);
      gradient += slope;
      scores[j] = slope + weight * 2 * s * b * (1 - b);
    }
    own = -gradient;
    return sum;
  }

  float top1_max() {
    const float top = largest();
    float sum = 0, loss = 0, gradient = 0;
#pragma omp simd reduction(+ : sum, loss, gradient)
    for (int64_t j = 0; j < count; ++j) {
      const float s = scores[j], a = sigmoid(s - own), b = sigmoid(s * s), e = weights[j] * exponential(s - top);
      room[j] = e, more_room[j] = a + b;
      scores[j] = a * (1 - a) + 2 * s * b * (1 - b);
      sum += e;
      loss += e * (a + b);
      gradient += e * a * (1 - a);
    }
    const float factor = 1 / sum;
    loss *= factor;
    for (int64_t j = 0; j < count; ++j) scores[j] = room[j] * factor * (more_room[j] - loss + scores[j]);
    own = -gradient * factor;
    return loss;
  }

  float bpr_max(float elu, float regularisation) {
    const bool has_elu = elu > 0;
    const float target = has_elu && own <= 0 ? elu * (exponential(own) - 1) : own;
    if (has_elu)
      for (int64_t j = 0; j < count; ++j) scores[j] = scores[j] > 0 ? scores[j] : elu * (exponential(scores[j]) - 1);
    const float top = largest();
    float sum = 0, better = 0, squares = 0, slopes = 0;
#pragma omp simd reduction(+ : sum, better, squares, slopes)
    for (int64_t j = 0; j < count; ++j) {
      const float s = scores[j], e = weights[j] * exponential(s - top), a = sigmoid(target - s);
      room[j] = e, more_room[j] = a;
      sum += e;
      better += e * a;
      squares += e * s * s;
      slopes += e * a * (1 - a);
    }
    const float factor = 1 / sum;
    better *= factor, squares *= factor, slopes *= factor;
    const float outer = 1 / (better + kSmallest);
    for (int64_t j = 0; j < count; ++j) {
      const float s = scores[j], a = more_room[j];
      const float slope = outer * (better - a * a) + regularisation * (s * s - squares + 2 * s);
      scores[j] = room[j] * factor * slope * (has_elu && s <= 0 ? s + elu : 1.0f);
    }
    own = -outer * slopes * (has_elu && own <= 0 ? target + elu : 1.0f);
    return -std::log(better + kSmallest) + regularisation * squares;
  }

  float loss(const Loss& which) {
    switch (which.kind) {
      case 0: return cross_entropy(which.smoothing);
      case 1: return bpr();
      case 2: return bpr_max(which.elu, which.regularisation);
      case 3: return top1();
      default: return top1_max();
    }
  }
};

}  // namespace

extern "C" {

void softmax_cross_entropy(const float* hidden, const float* matrix, const float* shift, const int64_t* targets,
                           const float* own_shift, int64_t rows, int64_t units, int64_t items, int64_t chunk,
                           float smoothing, float* losses, float* hidden_gradient, float* matrix_gradient) {
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
      if (!(sum > 1 / kSafeSum &&
            sum < kSafeSum)) {  // the scores are gone: compute them again, and subtract the largest
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
    product(true, false, items, width, count, scores.get(), items, scaled.get(), width, start ? 1 : 0, matrix_gradient,
            width);
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

void shared_loss(const float* hidden, const float* matrix, const float* shift, const float* weights,
                 const int64_t* targets, const float* own_shift, int64_t rows, int64_t units, int64_t items,
                 int64_t chunk, int64_t targets_are_candidates, int64_t kind, float smoothing, float elu,
                 float regularisation, float* losses, float* hidden_gradient, float* matrix_gradient) {
  const Loss which{kind, smoothing, elu, regularisation};
  const int64_t width = units + 1;
  chunk = std::min(chunk, rows);
  const Room scores = room(chunk * items), scaled = room(chunk * width), bias = room(items), own_gradients = room(rows);
  float negatives = targets_are_candidates ? -1 : 0;
  for (int64_t item = 0; item < items; ++item) {
    bias[item] = matrix[item * width + units] + (shift ? shift[item] : 0.0f);
    negatives += weights[item];
  }
  for (int64_t start = 0; start < rows; start += chunk) {
    const int64_t count = std::min(chunk, rows - start);
    const float* h = hidden + start * units;
    product(false, true, count, items, units, h, units, matrix, width, 0, scores.get(), items);
#pragma omp parallel
    {
      const Room room_of_thread = room(3 * items);
      float* own_weights = room_of_thread.get();
      std::copy(weights, weights + items, own_weights);
#pragma omp for
      for (int64_t row = 0; row < count; ++row) {
        const int64_t number = targets[start + row];
        float* s = scores.get() + row * items;
        const float *own = h + row * units, *target = matrix + number * width;
        for (int64_t j = 0; j < items; ++j) s[j] += bias[j];
        float own_score = s[number];
        if (targets_are_candidates) {
          own_weights[number] -= 1;
        } else {
          own_score = target[units] + (own_shift ? own_shift[start + row] : 0.0f);
#pragma omp simd reduction(+ : own_score)
          for (int64_t j = 0; j < units; ++j) own_score += own[j] * target[j];
        }
        Row prediction{s, own_weights, items, negatives, own_score, own_weights + items, own_weights + 2 * items};
        losses[start + row] = prediction.loss(which);
        own_gradients[start + row] = prediction.own / rows;
        if (targets_are_candidates) {
          own_weights[number] += 1;
          s[number] += prediction.own;
        }
        float* scaled_row = scaled.get() + row * width;
        for (int64_t j = 0; j < units; ++j) scaled_row[j] = own[j] / rows;
        scaled_row[units] = 1.0f / rows;  // so that the last column of the product below is the gradient of the bias
      }
    }
    float* gradient = hidden_gradient + start * units;
    product(false, false, count, units, items, scores.get(), items, matrix, width, 0, gradient, units);
    product(true, false, items, width, count, scores.get(), items, scaled.get(), width, start ? 1 : 0, matrix_gradient,
            width);
    for (int64_t i = 0; i < count * units; ++i) gradient[i] /= rows;
  }
  if (targets_are_candidates) return;
  for (int64_t row = 0; row < rows; ++row) {
    const float *own = hidden + row * units, *target = matrix + targets[row] * width, factor = own_gradients[row];
    float *gradient = hidden_gradient + row * units, *of_target = matrix_gradient + targets[row] * width;
    for (int64_t j = 0; j < units; ++j) gradient[j] += factor * target[j], of_target[j] += factor * own[j];
    of_target[units] += factor;
  }
}

void tiled_loss(const float* hidden, const float* matrix, const int64_t* candidates, int64_t rows, int64_t units,
                int64_t items, int64_t size, float dropped_share, uint64_t key, int64_t kind, float smoothing,
                float elu, float regularisation, float* losses, float* hidden_gradient, float* matrix_gradient) {
  const Loss which{kind, smoothing, elu, regularisation};
  const Dropout dropout(dropped_share, key);
  const int64_t width = units + 1;
  const Room vectors = room(size * units);
  Numbers scores(size), ones(size, 1.0f), room_of_row(2 * size), mask(units, 1.0f);
  std::fill(matrix_gradient, matrix_gradient + items * width, 0.0f);
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t* places = candidates + row * size;  // the target, then its negatives
    const float* own = hidden + row * units;
    for (int64_t c = 0; c < size; ++c) {
      float* vector = vectors.get() + c * units;
      std::copy(matrix + places[c] * width, matrix + places[c] * width + units, vector);
      if (dropped_share > 0) dropout.apply(vector, units, (row * size + c) * units);
      float score = 0;
#pragma omp simd reduction(+ : score)
      for (int64_t j = 0; j < units; ++j) score += own[j] * vector[j];
      scores[c] = score;
    }
    Row prediction{scores.data() + 1,        ones.data(), size - 1, (float)(size - 1), scores[0], room_of_row.data(),
                   room_of_row.data() + size};
    losses[row] = prediction.loss(which);
    scores[0] = prediction.own;
    float* gradient = hidden_gradient + row * units;
    std::fill(gradient, gradient + units, 0.0f);
    for (int64_t c = 0; c < size; ++c) {
      const float factor = scores[c] / rows, *vector = vectors.get() + c * units;
      float* of_item = matrix_gradient + places[c] * width;
      if (dropped_share > 0) {
        std::fill(mask.begin(), mask.end(), 1.0f);
        dropout.apply(mask.data(), units, (row * size + c) * units);
      }
      for (int64_t j = 0; j < units; ++j) gradient[j] += factor * vector[j], of_item[j] += factor * own[j] * mask[j];
    }
  }
}

}  // extern "C"
