// The updates of utils/training/optimizers.py: each struct here has the formula of the class of its name there.
//
// utils/native/kernels.py calls this; utils/training/proof.py compares it with optimizers.py before it is used. All
// numbers are float32, row by row without gaps.

#include <cmath>

#include "shared.h"

namespace {

// What a step changes of a weight; as kernels.Kernels.update_weights writes it.
struct Update {
  float *weight, *first, *second;  // the weight, and what the optimiser keeps of it or null
  const float* gradient;
  const int64_t* numbers;  // of the rows, or null
  int64_t rows, rows_with_bias, width;
  double rate;

  template <typename Formula>
  void row(int64_t row, const Formula& formula) const {
    const int64_t begin = (numbers ? numbers[row] : row) * width, count = row < rows_with_bias ? width : width - 1;
    if (numbers && row + kAhead < rows) {
      const int64_t later = numbers[row + kAhead] * width;
      prefetch_row(weight + later, width);
      if (first) prefetch_row(first + later, width);
      if (second) prefetch_row(second + later, width);
    }
    formula.update(weight + begin, first ? first + begin : nullptr, second ? second + begin : nullptr,
                   gradient + row * width, count, (float)rate);
  }
};

template <typename Formula>
void update_all(const Update* updates, int64_t count, const Formula& formula) {
#pragma omp parallel
  {
    for (const Update* update = updates; update < updates + count; ++update) {
      const Part own = Thread().part(update->rows);
      for (int64_t row = own.first; row < own.last; ++row) update->row(row, formula);
    }
  }
}

// Each update begins with copies of the struct's numbers: for all the compiler knows, the weights might be those.

struct Adagrad {
  float weight_decay, momentum, epsilon;
  bool epsilon_inside;

  void update(float* w, float* s, float* v, const float* gradient, int64_t count, float rate) const {
    const float decay = weight_decay, moving = momentum;
    const float inside = epsilon_inside ? epsilon : 0, outside = epsilon_inside ? 0 : epsilon;
    for (int64_t j = 0; j < count; ++j) {
      const float g = gradient[j] + decay * w[j];
      s[j] += g * g;
      const float root = std::sqrt(s[j] + inside) + outside;
      if (v) {
        v[j] = moving * v[j] - rate * g / root;
        w[j] += v[j];
      } else {
        w[j] -= rate * g / root;
      }
    }
  }
};

struct RMSProp {
  float weight_decay, momentum, decay, epsilon;

  void update(float* w, float* s, float* v, const float* gradient, int64_t count, float rate) const {
    const auto [l2, moving, kept, small] = *this;
    for (int64_t j = 0; j < count; ++j) {
      const float g = gradient[j] + l2 * w[j];
      s[j] = kept * s[j] + (1 - kept) * g * g;
      const float change = rate * g / std::sqrt(s[j] + small);
      if (v) {
        v[j] = moving * v[j] - change;
        w[j] += v[j];
      } else {
        w[j] -= change;
      }
    }
  }
};

struct SGD {
  float weight_decay, momentum;

  void update(float* w, float* m, float*, const float* gradient, int64_t count, float rate) const {
    const auto [decay, moving] = *this;
    for (int64_t j = 0; j < count; ++j) {
      const float g = gradient[j] + decay * w[j];
      w[j] -= rate * (m ? m[j] = moving * m[j] + g : g);
    }
  }
};

// Nadam too, which has another `of_mean`, and an `of_gradient` that isn't 0.
struct Adam {
  float weight_decay;
  bool decoupled;
  float decay, square_decay, epsilon, of_mean, of_gradient, of_square;

  void update(float* w, float* m, float* s, const float* gradient, int64_t count, float rate) const {
    const Adam own = *this;
    const float l2 = decoupled ? 0 : weight_decay, left = decoupled ? 1 - rate * weight_decay : 1;
    for (int64_t j = 0; j < count; ++j) {
      const float g = gradient[j] + l2 * w[j];
      m[j] = own.decay * m[j] + (1 - own.decay) * g;
      s[j] = own.square_decay * s[j] + (1 - own.square_decay) * g * g;
      const float root = std::sqrt(s[j] * own.of_square) + own.epsilon;
      w[j] = left * w[j] - rate * (own.of_mean * m[j] + own.of_gradient * g) / root;
    }
  }
};

}  // namespace

extern "C" {

void adagrad(const Update* updates, int64_t count, float weight_decay, float momentum, float epsilon,
             int64_t epsilon_inside) {
  update_all(updates, count, Adagrad{weight_decay, momentum, epsilon, epsilon_inside != 0});
}

void rmsprop(const Update* updates, int64_t count, float weight_decay, float momentum, float decay, float epsilon) {
  update_all(updates, count, RMSProp{weight_decay, momentum, decay, epsilon});
}

void sgd(const Update* updates, int64_t count, float weight_decay, float momentum) {
  update_all(updates, count, SGD{weight_decay, momentum});
}

void adam(const Update* updates, int64_t count, float weight_decay, int64_t decoupled, float decay, float square_decay,
          float epsilon, float of_mean, float of_gradient, float of_square) {
  update_all(updates, count,
             Adam{weight_decay, decoupled != 0, decay, square_decay, epsilon, of_mean, of_gradient, of_square});
}

}  // extern "C"
