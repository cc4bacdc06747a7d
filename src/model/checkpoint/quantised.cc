#include "model/checkpoint/quantised.h"

#include <array>
#include <bit>
#include <cmath>
#include <limits>

namespace plimsoll {

float decode_bf16(uint16_t bits) {
  return std::bit_cast<float>(uint32_t{bits} << 16);
}

float decode_e4m3(uint8_t bits) {
  const int exponent = bits >> 3 & 15;
  const int mantissa = bits & 7;
  float magnitude;
  if (exponent == 15 && mantissa == 7) {
    magnitude = std::numeric_limits<float>::quiet_NaN();
  } else if (exponent == 0) {
    magnitude = std::ldexp(static_cast<float>(mantissa), -9);
  } else {
    magnitude = std::ldexp(static_cast<float>(8 + mantissa), exponent - 10);
  }
  return bits & 0x80 ? -magnitude : magnitude;
}

float decode_e8m0(uint8_t bits) {
  if (bits == 0xFF) return std::numeric_limits<float>::quiet_NaN();
  return std::ldexp(1.0f, bits - 127);
}

float decode_e2m1(uint8_t bits) {
  static constexpr std::array<float, 8> kMagnitudes = {0, .5f, 1, 1.5f, 2, 3, 4, 6};
  const float magnitude = kMagnitudes[bits & 7];
  return bits & 8 ? -magnitude : magnitude;
}

std::vector<float> decode_fp8_blocks(std::span<const std::byte> values,
                                     std::span<const float> scales,
                                     int64_t rows,
                                     int64_t columns) {
  std::array<float, 256> table;
  for (int i = 0; i < 256; ++i) table[i] = decode_e4m3(static_cast<uint8_t>(i));
  const int64_t blocks_per_row = (columns + kFp8BlockSize - 1) / kFp8BlockSize;
  std::vector<float> decoded(rows * columns);
  for (int64_t r = 0; r < rows; ++r) {
    const float* row_scales = scales.data() + r / kFp8BlockSize * blocks_per_row;
    for (int64_t c = 0; c < columns; ++c) {
      const auto bits = static_cast<uint8_t>(values[r * columns + c]);
      decoded[r * columns + c] = table[bits] * row_scales[c / kFp8BlockSize];
    }
  }
  return decoded;
}

std::vector<float> decode_fp4_blocks(std::span<const std::byte> values,
                                     std::span<const float> scales,
                                     int64_t rows,
                                     int64_t columns) {
  std::vector<float> decoded(rows * columns);
  for (int64_t i = 0; i < rows * columns; i += 2) {
    const auto pair = static_cast<uint8_t>(values[i / 2]);
    const float scale = scales[i / kFp4BlockSize];
    decoded[i] = decode_e2m1(pair) * scale;
    decoded[i + 1] = decode_e2m1(pair >> 4) * scale;
  }
  return decoded;
}

}  // namespace plimsoll
