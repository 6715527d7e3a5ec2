// The network's way forward and back in a training step, layer by layer, with the functions of training.cc.
//
// utils/native/network.py calls this, and says what it computes.

#include "training.h"

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

}  // namespace

extern "C" {

void network_forward(const Layer* layers, int64_t count, const float* matrix, int64_t matrix_width,
                     const int64_t* inputs, int64_t clicks, const int64_t* rows_per_step, int64_t steps,
                     int64_t reset_after, float embedding_dropout, float hidden_dropout, int64_t carry_dropped,
                     uint64_t key, float* values) {
  if (inputs) gather(matrix, matrix_width, inputs, clicks, layers->below, values);
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
    dropout(layer.result, clicks * layer.units, hidden_dropout, own_key);
  }
}

void network_backward(const Layer* layers, int64_t count, const float* values, int64_t clicks,
                      const int64_t* rows_per_step, int64_t steps, int64_t reset_after, int64_t through_time,
                      float embedding_dropout, float hidden_dropout, uint64_t key, float* gradient) {
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
}

}  // extern "C"
