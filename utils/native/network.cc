// The network's way forward and back in a training step, layer by layer, with the functions of training.cc.
//
// utils/native/network.py calls this, and says what it computes.

#include "training.h"

#include <algorithm>
#include <cstring>

#include "shared.h"

namespace {

// A GRU layer and the FC below it, with room for what it computes, as utils/native/network.py lays it out. Without an
// FC its weights and gradients are null.
struct Layer {
  int64_t below, units;  // columns of what it reads, and of what it gives
  const float *fc_weight, *fc_bias, *gru_weight, *gru_bias;
  const float* before;                     // the states that the batch begins with
  float *gates, *states, *saved, *result;  // `result` is `states` where there is no dropout between layers
  float *gates_gradient, *below_gradient;
  float *fc_weight_gradient, *fc_bias_gradient, *gru_weight_gradient, *gru_bias_gradient;
};

// The state, and the share of the last click's vector that is added to it.
void add_last_click(const float* share, const float* clicked, int64_t clicks, int64_t units, float* result) {
  for (int64_t click = 0; click < clicks; ++click, clicked += units, result += units) {
    for (int64_t j = 0; j < units; ++j) result[j] += share[j] * clicked[j];
  }
}

// The gradient by the share; that by the clicks' vectors takes the place of these.
void last_click_gradient(const float* share, const float* gradient, int64_t clicks, int64_t units, float* clicked,
                         float* share_gradient) {
  std::fill_n(share_gradient, units, 0.0f);
  for (int64_t click = 0; click < clicks; ++click, clicked += units, gradient += units) {
    for (int64_t j = 0; j < units; ++j) {
      share_gradient[j] += gradient[j] * clicked[j];
      clicked[j] = gradient[j] * share[j];
    }
  }
}

}  // namespace

extern "C" {

void network_forward(const Layer* layers, int64_t count, const float* matrix, int64_t matrix_width,
                     const int64_t* inputs, int64_t clicks, const int64_t* rows_per_step, int64_t steps,
                     int64_t reset_after, float embedding_dropout, float hidden_dropout, int64_t carry_dropped,
                     const float* last_click, float* clicked, uint64_t key, float* values) {
  if (inputs) gather(matrix, matrix_width, inputs, clicks, layers->below, values);
  if (last_click) {
    std::copy_n(values, clicks * layers->below, clicked);
    if (hidden_dropout > 0) dropout(clicked, clicks * layers->below, hidden_dropout, key + count + 1);
  }
  if (embedding_dropout > 0) dropout(values, clicks * layers->below, embedding_dropout, key);
  for (int64_t number = 0; number < count; ++number) {
    const Layer& layer = layers[number];
    const float *below = number ? layers[number - 1].result : values, *gates = below;
    if (layer.fc_weight) {
      linear_forward(below, layer.fc_weight, layer.fc_bias, clicks, layer.below, 3 * layer.units, layer.gates);
      gates = layer.gates;
    }
    const uint64_t own_key = key + number + 1;
    gru_forward(gates, layer.gru_weight, layer.gru_bias, layer.before, rows_per_step, steps, layer.units, reset_after,
                carry_dropped ? hidden_dropout : 0.0f, own_key, layer.states, layer.saved);
    if (layer.result == layer.states) continue;
    std::memcpy(layer.result, layer.states, clicks * layer.units * sizeof(float));
    if (hidden_dropout > 0 && !carry_dropped) dropout(layer.result, clicks * layer.units, hidden_dropout, own_key);
  }
  const Layer& top = layers[count - 1];
  if (last_click) add_last_click(last_click, clicked, clicks, top.units, top.result);
}

void network_backward(const Layer* layers, int64_t count, const float* values, int64_t clicks,
                      const int64_t* rows_per_step, int64_t steps, int64_t reset_after, int64_t through_time,
                      float embedding_dropout, float hidden_dropout, const float* last_click, float* clicked,
                      float* share_gradient, uint64_t key, float* gradient) {
  if (last_click) {
    last_click_gradient(last_click, gradient, clicks, layers[count - 1].units, clicked, share_gradient);
  }
  for (int64_t number = count - 1; number >= 0; --number) {
    const Layer& layer = layers[number];
    if (hidden_dropout > 0) dropout(gradient, clicks * layer.units, hidden_dropout, key + number + 1);
    gru_backward(gradient, layer.states, layer.saved, layer.gru_weight, layer.before, rows_per_step, steps, layer.units,
                 reset_after, through_time, layer.gates_gradient, layer.gru_weight_gradient, layer.gru_bias_gradient);
    gradient = layer.gates_gradient;
    if (!layer.fc_weight) continue;
    linear_backward(gradient, number ? layers[number - 1].result : values, layer.fc_weight, clicks, layer.below,
                    3 * layer.units, layer.below_gradient, layer.fc_weight_gradient, layer.fc_bias_gradient);
    gradient = layer.below_gradient;
  }
  if (embedding_dropout > 0) dropout(gradient, clicks * layers->below, embedding_dropout, key);
  if (last_click) {
    if (hidden_dropout > 0) dropout(clicked, clicks * layers->below, hidden_dropout, key + count + 1);
    for (int64_t i = 0; i < clicks * layers->below; ++i) gradient[i] += clicked[i];
  }
}

}  // extern "C"
