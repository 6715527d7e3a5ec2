// The losses of a training step on the processor, with their gradients by the hidden states and by the items' rows.
//
// utils/native/kernels.py calls this, and says what each function computes; utils/training/proof.py compares it with
// net.py and losses.py before it is used. All matrices are float32, row by row without gaps. A row of an item is its
// vector and its bias.

#include <cmath>
#include <vector>

#include "activations.h"
#include "prediction.h"
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

constexpr int64_t kBlock = 1024;   // items whose mean is taken at once
constexpr float kSafeSum = 1e30f;  // sums of exponentials between 1 / kSafeSum and kSafeSum lost nothing to overflow

// How a loss over candidates that all rows share goes through its rows: so many at once as fit into the caches of all
// threads, in chunks. Where chunks end doesn't depend on the threads, since the gradients by the items are added up
// chunk by chunk.
struct Chunks {
  Chunks(int64_t rows, int64_t most) {
    const int64_t count = std::max<int64_t>(1, (rows + most - 1) / most);
    size =
        std::max<int64_t>(1, (rows + count - 1) / count);  // all of about the same size: MKL rounds few rows otherwise
    together = size * std::min<int64_t>(omp_get_max_threads(), count);
  }

  // Adds scores^T states to the gradient by some items, for `count` rows of all of which so many are done already.
  void add(const float* scores, const float* states, int64_t done, int64_t count, Part items, int64_t all_items,
           int64_t width, float* gradient) const {
    for (int64_t start = 0; start < count; start += size)
      product(true, false, items.size(), width, std::min(size, count - start), scores + start * all_items + items.first,
              all_items, states + start * width, width, done + start ? 1 : 0, gradient + items.first * width, width);
  }

  int64_t size, together;
};

// Adds up the rows of a matrix, each as it is and 1 behind it.
Numbers sum_of_rows(const float* matrix, int64_t rows, int64_t columns) {
  Numbers sum(columns + 1, 0.0f);
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t j = 0; j < columns; ++j) sum[j] += matrix[row * columns + j];
  sum[columns] = rows;
  return sum;
}

// What the rows of a softmax cross-entropy share.
struct Softmax {
  const float *matrix, *shift;
  int64_t units, items, rows;
  float smoothing;
  Room bias = room(items);
  Numbers mean_row = Numbers(units + 1, 0.0f);

  // Fills `bias` and `mean_row`; all threads call it.
  void prepare(Numbers& means_of_blocks) {
    const int64_t width = units + 1;
#pragma omp for schedule(static)
    for (int64_t block = 0; block < blocks(); ++block) {
      float* mean = means_of_blocks.data() + block * width;
      for (int64_t item = block * kBlock; item < std::min(items, (block + 1) * kBlock); ++item) {
        const float* vector = matrix + item * width;
        bias[item] = vector[units] + (shift ? shift[item] : 0.0f);
        if (smoothing == 0) continue;
        for (int64_t j = 0; j < units; ++j) mean[j] += vector[j] / items;
        mean[units] += bias[item] / items;
      }
    }
#pragma omp single
    for (int64_t place = 0; place < blocks() * width; ++place) mean_row[place % width] += means_of_blocks[place];
  }

  int64_t blocks() const { return (items + kBlock - 1) / kBlock; }

  // Replaces the row's scores, before their biases, by exponentials; returns the loss, and their sum by `sum`.
  float loss(const float* own, int64_t number, const float* own_shift, float* e, float* sum) const {
    const int64_t width = units + 1;
    const float* target = matrix + number * width;
    float target_score = bias[number], mean_score = mean_row[units], largest = 0;
#pragma omp simd reduction(+ : target_score, mean_score)
    for (int64_t j = 0; j < units; ++j) target_score += own[j] * target[j], mean_score += own[j] * mean_row[j];
    *sum = exponentials_of_row(e, bias.get(), items, 0.0f);
    if (!(*sum > 1 / kSafeSum && *sum < kSafeSum)) {  // the scores are gone: again, less the largest
      largest = -INFINITY;
      for (int64_t item = 0; item < items; ++item) {
        float score = 0;
#pragma omp simd reduction(+ : score)
        for (int64_t j = 0; j < units; ++j) score += own[j] * matrix[item * width + j];
        e[item] = score;
        largest = std::max(largest, score + bias[item]);
      }
      *sum = exponentials_of_row(e, bias.get(), items, largest);
    }
    if (own_shift) {  // the row's target is a candidate of its own, beside what it is as one of the items
      target_score += *own_shift - (shift ? shift[number] : 0.0f);
      const float own_exponential = exponential(target_score - largest);
      e[number] += own_exponential;
      *sum += own_exponential;
    }
    return std::log(*sum) + largest - target_score + smoothing * (target_score - mean_score);
  }

  // What the targets, and the smoothing, add to the gradient by some items.
  void add_targets(const float* hidden, const int64_t* targets, const Numbers& hidden_sum, Part own,
                   float* matrix_gradient) const {
    const int64_t width = units + 1;
    const float share = (1 - smoothing) / rows;
    for (int64_t row = 0; row < rows; ++row) {
      if (!own.has(targets[row])) continue;
      float* gradient = matrix_gradient + targets[row] * width;
      for (int64_t j = 0; j < units; ++j) gradient[j] -= hidden[row * units + j] * share;
      gradient[units] -= share;
    }
    for (int64_t item = own.first; item < own.last && smoothing > 0; ++item)
      for (int64_t j = 0; j < width; ++j) matrix_gradient[item * width + j] -= hidden_sum[j] * smoothing / items / rows;
  }
};

// What the rows of a loss over shared candidates share.
struct SharedLoss {
  Loss which;
  const float *matrix, *bias, *own_shift;
  const int64_t* targets;
  int64_t rows, units, items;
  bool targets_are_candidates;
  float negatives;  // the sum of the weights, that is how many each row has

  // Replaces the row's scores, before their biases, by the gradients by them; returns the loss. `own_room` is that of a
  // thread: the weights, and room for as many numbers twice. The gradient by the target's own score goes to
  // own_gradients[row], and where the target is one of the candidates to its place among them.
  float of_row(int64_t row, const float* h, float* s, float* own_room, float* own_gradients) const {
    const int64_t number = targets[row];
    const float* target = matrix + number * (units + 1);
    for (int64_t j = 0; j < items; ++j) s[j] += bias[j];
    float own_score = s[number];
    if (targets_are_candidates) {
      own_room[number] -= 1;
    } else {
      own_score = target[units] + (own_shift ? own_shift[row] : 0.0f);
#pragma omp simd reduction(+ : own_score)
      for (int64_t j = 0; j < units; ++j) own_score += h[j] * target[j];
    }
    Row prediction{s, own_room, items, negatives, own_score, own_room + items, own_room + 2 * items};
    const float loss = prediction.loss(which);
    own_gradients[row] = prediction.own / rows;
    if (targets_are_candidates) {
      own_room[number] += 1;
      s[number] += prediction.own;
    }
    return loss;
  }

  // What targets that are no candidates add to the gradient by some items.
  void add_targets(const float* hidden, const float* own_gradients, Part own, float* matrix_gradient) const {
    for (int64_t row = 0; row < rows; ++row) {
      if (!own.has(targets[row])) continue;
      const float *h = hidden + row * units, factor = own_gradients[row];
      float* gradient = matrix_gradient + targets[row] * (units + 1);
      for (int64_t j = 0; j < units; ++j) gradient[j] += factor * h[j];
      gradient[units] += factor;
    }
  }
};

}  // namespace

extern "C" {

void softmax_cross_entropy(const float* hidden, const float* matrix, const float* shift, const int64_t* targets,
                           const float* own_shift, int64_t rows, int64_t units, int64_t items, int64_t chunk,
                           float smoothing, float* losses, float* hidden_gradient, float* matrix_gradient) {
  const int64_t width = units + 1;
  const Chunks chunks(rows, chunk);
  const Room scores = room(chunks.together * items), scaled = room(chunks.together * width),
             factors = room(chunks.together);
  const Numbers hidden_sum = sum_of_rows(hidden, rows, units);
  Softmax softmax{matrix, shift, units, items, rows, smoothing};
  Numbers means_of_blocks(softmax.blocks() * width, 0.0f);
  const float* mean_row = softmax.mean_row.data();
#pragma omp parallel
  {
    const Part own_items = Thread().part(items, kFewest);
    softmax.prepare(means_of_blocks);
    for (int64_t start = 0; start < rows; start += chunks.together) {
      const int64_t count = std::min(chunks.together, rows - start);
      const Part own = Thread().part(count, kFewest);
      const float* h = hidden + (start + own.first) * units;
      float *e = scores.get() + own.first * items, *gradient = hidden_gradient + (start + own.first) * units;
      product(false, true, own.size(), items, units, h, units, matrix, width, 0, e, items);
      for (int64_t row = own.first; row < own.last; ++row, h += units, e += items) {
        float sum;
        losses[start + row] =
            softmax.loss(h, targets[start + row], own_shift ? own_shift + start + row : nullptr, e, &sum);
        factors[row] = 1 / sum;
        const float scale = 1 / (sum * rows);
        float* scaled_row = scaled.get() + row * width;
        for (int64_t j = 0; j < units; ++j) scaled_row[j] = h[j] * scale;
        scaled_row[units] = scale;  // so that the last column of the product below is the gradient of the bias
      }
      product(false, false, own.size(), units, items, scores.get() + own.first * items, items, matrix, width, 0,
              gradient, units);
      for (int64_t row = own.first; row < own.last; ++row, gradient += units) {
        const float* target = matrix + targets[start + row] * width;
        for (int64_t j = 0; j < units; ++j)
          gradient[j] = (gradient[j] * factors[row] - (1 - smoothing) * target[j] - smoothing * mean_row[j]) / rows;
      }
#pragma omp barrier
      chunks.add(scores.get(), scaled.get(), start, count, own_items, items, width, matrix_gradient);
#pragma omp barrier
    }
    softmax.add_targets(hidden, targets, hidden_sum, own_items, matrix_gradient);
  }
}

void shared_loss(const float* hidden, const float* matrix, const float* shift, const float* weights,
                 const int64_t* targets, const float* own_shift, int64_t rows, int64_t units, int64_t items,
                 int64_t chunk, int64_t targets_are_candidates, int64_t kind, float smoothing, float elu,
                 float regularisation, float* losses, float* hidden_gradient, float* matrix_gradient) {
  const int64_t width = units + 1;
  const Chunks chunks(rows, chunk);
  const Room scores = room(chunks.together * items), scaled = room(chunks.together * width), bias = room(items);
  const Room own_gradients = room(rows);
  float negatives = targets_are_candidates ? -1 : 0;
  for (int64_t item = 0; item < items; ++item) {
    bias[item] = matrix[item * width + units] + (shift ? shift[item] : 0.0f);
    negatives += weights[item];
  }
  const SharedLoss loss{{kind, smoothing, elu, regularisation},
                        matrix,
                        bias.get(),
                        own_shift,
                        targets,
                        rows,
                        units,
                        items,
                        targets_are_candidates != 0,
                        negatives};
#pragma omp parallel
  {
    const Part own_items = Thread().part(items, kFewest);
    const Room room_of_thread = room(3 * items);
    std::copy(weights, weights + items, room_of_thread.get());
    for (int64_t start = 0; start < rows; start += chunks.together) {
      const int64_t count = std::min(chunks.together, rows - start);
      const Part own = Thread().part(count, kFewest);
      const float* h = hidden + (start + own.first) * units;
      float *s = scores.get() + own.first * items, *gradient = hidden_gradient + (start + own.first) * units;
      product(false, true, own.size(), items, units, h, units, matrix, width, 0, s, items);
      for (int64_t row = own.first; row < own.last; ++row, h += units, s += items) {
        losses[start + row] = loss.of_row(start + row, h, s, room_of_thread.get(), own_gradients.get());
        float* scaled_row = scaled.get() + row * width;
        for (int64_t j = 0; j < units; ++j) scaled_row[j] = h[j] / rows;
        scaled_row[units] = 1.0f / rows;  // so that the last column of the product below is the gradient of the bias
      }
      product(false, false, own.size(), units, items, scores.get() + own.first * items, items, matrix, width, 0,
              gradient, units);
      for (int64_t row = start + own.first; row < start + own.last; ++row, gradient += units) {
        const float *target = matrix + targets[row] * width, factor = targets_are_candidates ? 0 : own_gradients[row];
        for (int64_t j = 0; j < units; ++j) gradient[j] = gradient[j] / rows + factor * target[j];
      }
#pragma omp barrier
      chunks.add(scores.get(), scaled.get(), start, count, own_items, items, width, matrix_gradient);
#pragma omp barrier
    }
    if (!targets_are_candidates) loss.add_targets(hidden, own_gradients.get(), own_items, matrix_gradient);
  }
}

void tiled_loss(const float* hidden, const float* matrix, const int64_t* candidates, int64_t rows, int64_t units,
                int64_t items, int64_t size, float dropped_share, uint64_t key, int64_t kind, float smoothing,
                float elu, float regularisation, float* losses, float* hidden_gradient, float* matrix_gradient) {
  const Loss which{kind, smoothing, elu, regularisation};
  const Dropout dropout(dropped_share, key);
  const int64_t width = units + 1;
  const Room factors = room(rows * size);  // the gradients by the scores
  const Numbers ones(size, 1.0f);
#pragma omp parallel
  {
    const Part own_rows = Thread().part(rows), own_items = Thread().part(items);
    const Room vectors = room(size * units);
    Numbers room_of_row(2 * size), mask(units, 1.0f);
    for (int64_t row = own_rows.first; row < own_rows.last; ++row) {
      const int64_t* places = candidates + row * size;  // the target, then its negatives
      const float* own = hidden + row * units;
      float *gradient = hidden_gradient + row * units, *scores = factors.get() + row * size;
      for (int64_t c = 0; c < size; ++c) {
        float* vector = vectors.get() + c * units;
        std::copy(matrix + places[c] * width, matrix + places[c] * width + units, vector);
        if (dropped_share > 0) dropout.apply(vector, units, (row * size + c) * units);
        float score = 0;
#pragma omp simd reduction(+ : score)
        for (int64_t j = 0; j < units; ++j) score += own[j] * vector[j];
        scores[c] = score;
      }
      Row prediction{scores + 1,
                     ones.data(),
                     size - 1,
                     (float)(size - 1),
                     scores[0],
                     room_of_row.data(),
                     room_of_row.data() + size};
      losses[row] = prediction.loss(which);
      scores[0] = prediction.own;
      std::fill(gradient, gradient + units, 0.0f);
      for (int64_t c = 0; c < size; ++c) {
        scores[c] /= rows;
        const float* vector = vectors.get() + c * units;
        for (int64_t j = 0; j < units; ++j) gradient[j] += scores[c] * vector[j];
      }
    }
#pragma omp barrier
    std::fill(matrix_gradient + own_items.first * width, matrix_gradient + own_items.last * width, 0.0f);
    for (int64_t place = 0; place < rows * size; ++place) {
      if (!own_items.has(candidates[place])) continue;
      const float* own = hidden + place / size * units;
      float* of_item = matrix_gradient + candidates[place] * width;
      if (dropped_share > 0) {
        std::fill(mask.begin(), mask.end(), 1.0f);
        dropout.apply(mask.data(), units, place * units);
      }
      for (int64_t j = 0; j < units; ++j) of_item[j] += factors[place] * own[j] * mask[j];
    }
  }
}

}  // extern "C"
