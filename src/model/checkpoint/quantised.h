// The number formats of DeepSeek-V4 checkpoints, decoded to float32.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace plimsoll {

float decode_bf16(uint16_t bits);
float decode_e4m3(uint8_t bits);  // OCP FP8 E4M3: no infinities, 0x7F and 0xFF are NaN
float decode_e8m0(uint8_t bits);  // 2^(bits - 127), 0xFF is NaN
float decode_e2m1(uint8_t bits);  // the low 4 bits

inline constexpr int kFp8BlockSize = 128;  // outputs and inputs per scale
inline constexpr int kFp4BlockSize = 32;   // inputs per scale

// values [rows, columns], scales [ceil(rows / 128), ceil(columns / 128)].
std::vector<float> decode_fp8_blocks(std::span<const std::byte> values,
                                     std::span<const float> scales,
                                     int64_t rows,
                                     int64_t columns);

// values [rows, columns / 2] packed, scales [rows, columns / 32].
std::vector<float> decode_fp4_blocks(std::span<const std::byte> values,
                                     std::span<const float> scales,
                                     int64_t rows,
                                     int64_t columns);

}  // namespace plimsoll
