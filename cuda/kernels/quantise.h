// The official inference code's steps from float32 to e4m3, for host and device.
#pragma once

#include <cuda_fp8.h>

#include <cstdint>
#include <cstring>

namespace plimsoll::gpu {

constexpr float kLargestE4m3 = 448.0f;
constexpr float kSmallestPeak = 1e-4f;  // of 128 channels; smaller ones count as this

// 2^ceil(log2(peak / 448)), from the bits of the quotient: exact where a logarithm would not be.
__host__ __device__ inline float e4m3_scale(float peak) {
  const float ratio = (peak > kSmallestPeak ? peak : kSmallestPeak) / kLargestE4m3;
  uint32_t bits;
  memcpy(&bits, &ratio, 4);
  bits = (bits + 0x7FFFFF) & 0xFF800000;  // up to the next power of two
  float scale;
  memcpy(&scale, &bits, 4);
  return scale;
}

// x · 2^-d for a power of two `scale`, in e4m3: exact but for the one rounding.
__host__ __device__ inline uint8_t to_e4m3(float x, float scale) {
  return __nv_cvt_float_to_fp8(x / scale, __NV_SATFINITE, __NV_E4M3);
}

// The float of a power-of-two scale stored as E8M0.
__host__ __device__ inline float e8m0_value(uint8_t exponent) {
  const uint32_t bits = exponent == 0 ? 0x00400000u : static_cast<uint32_t>(exponent) << 23;
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

}  // namespace plimsoll::gpu
