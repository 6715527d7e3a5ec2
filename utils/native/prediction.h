// One prediction of a step: its loss, and the gradients by its scores, for each of the losses of utils/losses.py.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "activations.h"

namespace {

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
      case 4: return top1_max();
      default: return own = NAN;  // a kind that is unknown here: training stops at a loss that is no number
    }
  }
};

}  // namespace
