// e^x and a GRU's activations made from it, in a form that compilers vectorise; for training and answering.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace {

// e^x, exact to 2 units in the last place: e^x = 2^n e^r with |r| <= ln(2) / 2, and e^r by the polynomial of Cephes. x
// is limited so that neither the result nor its exponent leaves the range of float.
inline float exponential(float x) {
  x = std::min(std::max(x, -87.0f), 88.0f);
  float n = std::floor(x * 1.44269504f + 0.5f);
  float r = x - n * 0.693359375f + n * 2.12194440e-4f;
  float e = 1.9875691500e-4f;
  e = e * r + 1.3981999507e-3f;
  e = e * r + 8.3334519073e-3f;
  e = e * r + 4.1665795894e-2f;
  e = e * r + 1.6666665459e-1f;
  e = e * r + 5.0000001201e-1f;
  e = e * r * r + r + 1.0f;
  int32_t exponent = ((int32_t)n + 127) << 23;
  float power;
  std::memcpy(&power, &exponent, sizeof power);
  return e * power;
}

inline float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }

inline float hyperbolic_tangent(float x) { return 1.0f - 2.0f / (exponential(2.0f * x) + 1.0f); }

}  // namespace
