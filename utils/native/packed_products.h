// Weights of 4 bits, and sums of their products with units of 8 bits, in exact integers; for scoring.cc.
//
// In a block of kLanes items, groups of kGroup units follow one another. A group has four bytes of each item: the
// weights of its first four units are the low halves of these bytes, those of its last four the high ones.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace {

constexpr int64_t kLanes = 16;  // items in a block
constexpr int64_t kGroup = 8;   // units
constexpr int64_t kGroupBytes = kLanes * kGroup / 2;
constexpr int32_t kLargestWeight = 15;  // of the odd numbers from -15 to 15, which are packed as 0 to 15
constexpr int32_t kLargestUnit = 127;
constexpr int64_t kAheadBytes = 4096;  // further than a processor looks ahead by itself

int64_t groups_of(int64_t units) { return (units + kGroup - 1) / kGroup; }

// Where a weight lies; `group` is the number of the block's first one.
int64_t place_of(int64_t group, int64_t lane, int64_t unit) {
  return (group + unit / kGroup) * kGroupBytes + lane * (kGroup / 2) + unit % (kGroup / 2);
}

#if defined(__AVX512BW__)
constexpr int kTogether = 8;     // sessions for which items are loaded only once; their sums fill the registers
constexpr int64_t kInWide = 16;  // sums of 32 bits in a register
using Wide = __m512i;
inline Wide load(const uint8_t* bytes) { return _mm512_loadu_si512(bytes); }
inline Wide low_halves(Wide bytes) { return _mm512_and_si512(bytes, _mm512_set1_epi8(15)); }
inline Wide high_halves(Wide bytes) { return low_halves(_mm512_srli_epi16(bytes, 4)); }
inline Wide add_products(Wide sums, Wide weights, int32_t units) {
  return _mm512_add_epi16(sums, _mm512_maddubs_epi16(weights, _mm512_set1_epi32(units)));
}
inline Wide add_pairs(Wide sums, Wide pairs) {
  return _mm512_add_epi32(sums, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
}
inline void write(float* numbers, Wide sums, int32_t shift) {
  const Wide doubled = _mm512_add_epi32(sums, sums);
  _mm512_storeu_ps(numbers, _mm512_cvtepi32_ps(_mm512_sub_epi32(doubled, _mm512_set1_epi32(shift))));
}
#elif defined(__AVX2__)
constexpr int kTogether = 4;
constexpr int64_t kInWide = 8;
using Wide = __m256i;
inline Wide load(const uint8_t* bytes) { return _mm256_loadu_si256((const __m256i*)bytes); }
inline Wide low_halves(Wide bytes) { return _mm256_and_si256(bytes, _mm256_set1_epi8(15)); }
inline Wide high_halves(Wide bytes) { return low_halves(_mm256_srli_epi16(bytes, 4)); }
inline Wide add_products(Wide sums, Wide weights, int32_t units) {
  return _mm256_add_epi16(sums, _mm256_maddubs_epi16(weights, _mm256_set1_epi32(units)));
}
inline Wide add_pairs(Wide sums, Wide pairs) {
  return _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
inline void write(float* numbers, Wide sums, int32_t shift) {
  const Wide doubled = _mm256_add_epi32(sums, sums);
  _mm256_storeu_ps(numbers, _mm256_cvtepi32_ps(_mm256_sub_epi32(doubled, _mm256_set1_epi32(shift))));
}
#else
constexpr int kTogether = 4;
#endif

// sums[session][item] = 2 x (the sum of packed weights times packed units) - shifts[session], for the items of a block.
#if defined(__AVX2__)
template <int kSessions>
void sum_products(const uint8_t* block, int64_t groups, const int32_t* const* states, const int32_t* shifts,
                  float (*sums)[kLanes]) {
  constexpr int64_t kFit = 4;  // groups: 8 x 2 x 15 x 127 is less than 2^15
  for (int64_t item = 0; item < kLanes; item += kInWide) {
    Wide totals[kSessions] = {};
    for (int64_t first = 0; first < groups; first += kFit) {
      Wide pairs[kSessions] = {};
      const int64_t end = std::min(first + kFit, groups);
      for (int64_t group = first; group < end; ++group) {
        __builtin_prefetch(block + group * kGroupBytes + kAheadBytes);
        const Wide bytes = load(block + group * kGroupBytes + item * (kGroup / 2));
        const Wide low = low_halves(bytes), high = high_halves(bytes);
#pragma GCC unroll 8
        for (int s = 0; s < kSessions; ++s)
          pairs[s] = add_products(add_products(pairs[s], low, states[s][2 * group]), high, states[s][2 * group + 1]);
      }
#pragma GCC unroll 8
      for (int s = 0; s < kSessions; ++s) totals[s] = add_pairs(totals[s], pairs[s]);
    }
#pragma GCC unroll 8
    for (int s = 0; s < kSessions; ++s) write(sums[s] + item, totals[s], shifts[s]);
  }
}
#else
template <int kSessions>
void sum_products(const uint8_t* block, int64_t groups, const int32_t* const* states, const int32_t* shifts,
                  float (*sums)[kLanes]) {
  for (int s = 0; s < kSessions; ++s) {
    const int8_t* units = (const int8_t*)states[s];
    int32_t totals[kLanes] = {};
    for (int64_t group = 0; group < groups; ++group)
      for (int64_t item = 0; item < kLanes; ++item)
        for (int64_t j = 0; j < kGroup / 2; ++j) {
          const uint8_t byte = block[place_of(group, item, j)];
          const int8_t* of_group = units + group * kGroup;
          totals[item] += (byte & 15) * of_group[j] + (byte >> 4) * of_group[j + kGroup / 2];
        }
    for (int64_t item = 0; item < kLanes; ++item) sums[s][item] = (float)(2 * totals[item] - shifts[s]);
  }
}
#endif

}  // namespace
