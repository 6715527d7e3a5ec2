// The functions of training.cc that network.cc puts together; utils/native/kernels.py says what each computes.

#pragma once

#include <cstdint>

extern "C" {

void gru_forward(const float* gate_inputs, const float* weight, const float* bias, const float* before,
                 const int64_t* rows_per_step, int64_t steps, int64_t units, int64_t reset_after, float dropped_share,
                 uint64_t key, float* states, float* saved);
void gru_backward(const float* states_gradient, const float* states, const float* saved, const float* weight,
                  const float* first, const int64_t* rows_per_step, int64_t steps, int64_t units, int64_t reset_after,
                  int64_t through_time, float* inputs_gradient, float* weight_gradient, float* bias_gradient);
void linear_forward(const float* inputs, const float* weight, const float* bias, int64_t rows, int64_t columns,
                    int64_t outputs, float* result);
void linear_backward(const float* gradient, const float* inputs, const float* weight, int64_t rows, int64_t columns,
                     int64_t outputs, float* inputs_gradient, float* weight_gradient, float* bias_gradient);
void gather(const float* source, int64_t source_width, const int64_t* numbers, int64_t rows, int64_t width,
            float* target);
void dropout(float* values, int64_t count, float share, uint64_t key);

}  // extern "C"
