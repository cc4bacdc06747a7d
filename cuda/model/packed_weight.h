// A matrix as the checkpoint has it, in the memory of a queue's place, and how a kernel decodes it.
#pragma once

#include <cstdint>
#include <cstring>

#include "cuda/device/host_device.h"

namespace plimsoll::gpu {

enum class WeightFormat : uint8_t {
  kF32,
  kBf16,
  kFp8,  // e4m3, a scale per 128 outputs and 128 inputs
  kFp4,  // e2m1, two a byte, the first in the low half; a scale per output and 32 inputs
};

struct PackedWeight {
  WeightFormat format = WeightFormat::kF32;
  bool e8m0_scales = true;  // else float32
  int first_output = 0;     // of a part of a matrix: the row of the whole that is its first
  int outputs = 0;
  int inputs = 0;
  const uint8_t* values = nullptr;
  const uint8_t* scales = nullptr;
};

inline constexpr int kFp8Block = 128;
inline constexpr int kFp4Block = 32;

PLIMSOLL_HD inline float float_of_bits(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

// A small float's exponent and mantissa, put where float32 has them, are off by a power of two.
PLIMSOLL_HD inline float decode_e4m3(uint8_t b) {
  constexpr float kRebias = 0x1p120f;
  return float_of_bits((b & 0x80u) << 24 | (b & 0x7Fu) << 20) * kRebias;
}
PLIMSOLL_HD inline float decode_e2m1(uint8_t b) {
  constexpr float kRebias = 0x1p126f;
  return float_of_bits((b & 0x8u) << 28 | (b & 0x7u) << 22) * kRebias;
}
PLIMSOLL_HD inline float decode_e8m0(uint8_t b) {
  return float_of_bits(b == 0 ? 0x00400000u : uint32_t{b} << 23);
}

PLIMSOLL_HD inline float scale_at(const PackedWeight& w, int64_t idx) {
  if (w.e8m0_scales) return decode_e8m0(w.scales[idx]);
  float value;
  memcpy(&value, w.scales + 4 * idx, sizeof value);
  return value;
}

inline constexpr int kDecoded = 8;  // inputs that are decoded at a time

// Inputs k .. k + kDecoded - 1 of an output; k is a multiple of kDecoded. Past the last: zero.
PLIMSOLL_HD inline void decode_inputs(const PackedWeight& w,
                                      int output,
                                      int k,
                                      float (&out)[kDecoded]) {
  output += w.first_output;
  const int64_t at = int64_t{output} * w.inputs + k;
  const int count = w.inputs - k < kDecoded ? w.inputs - k : kDecoded;
  float scale = 1;
  if (w.format == WeightFormat::kFp8) {
    const int blocks = (w.inputs + kFp8Block - 1) / kFp8Block;
    scale = scale_at(w, int64_t{output / kFp8Block} * blocks + k / kFp8Block);
  } else if (w.format == WeightFormat::kFp4) {
    scale = scale_at(w, at / kFp4Block);
  }
  for (int j = 0; j < kDecoded; ++j) {
    float value = 0;
    if (j < count) {
      if (w.format == WeightFormat::kF32) {
        memcpy(&value, w.values + 4 * (at + j), sizeof value);
      } else if (w.format == WeightFormat::kBf16) {
        uint16_t bits;
        memcpy(&bits, w.values + 2 * (at + j), sizeof bits);
        value = float_of_bits(uint32_t{bits} << 16);
      } else if (w.format == WeightFormat::kFp8) {
        value = decode_e4m3(w.values[at + j]) * scale;
      } else {
        value = decode_e2m1(w.values[(at + j) / 2] >> (j % 2 * 4) & 15) * scale;
      }
    }
    out[j] = value;
  }
}

inline constexpr int kTileRows = 8;

// sums[t] = x[t] · the weight's output, one chain in ascending order of inputs, for t < count.
PLIMSOLL_HD inline void multiply_tile(const PackedWeight& w,
                                      int output,
                                      const float* const (&x)[kTileRows],
                                      int count,
                                      float (&sums)[kTileRows]) {
  for (int t = 0; t < kTileRows; ++t) sums[t] = 0;
  for (int k = 0; k < w.inputs; k += kDecoded) {
    float values[kDecoded];
    decode_inputs(w, output, k, values);
    const int left = w.inputs - k < kDecoded ? w.inputs - k : kDecoded;
    for (int t = 0; t < kTileRows; ++t) {
      if (t >= count) continue;
      const float* row = x[t] + k;
      for (int j = 0; j < kDecoded; ++j) {
        if (j < left) sums[t] = multiply_add(row[j], values[j], sums[t]);
      }
    }
  }
}

}  // namespace plimsoll::gpu
