// From an FP4 word (packed_experts.h) to what the tensor core multiplies: 8 codes in 7 instructions
// to e4m3 or e5m2, whose bytes are the upper halves of fp16. The table that a byte permutation
// looks magnitudes up in already has the scale of the 32 inputs: its exponents are lowered by c.
#pragma once

#include <cuda_fp8.h>

#include <cstdint>

#include "cuda/experts/grouped_gemm.h"

namespace plimsoll::gpu {

// Magnitudes 0, 0.5, 1, 1.5 in `low`, 2, 3, 4, 6 in `high`, times 2^(largest - c).
struct MagnitudeTable {
  uint32_t low, high;
};

// What the table's numbers are multiplied by at c = 0: all of 0.5 to 6 stay normal numbers.
template <Activation kActivation>
constexpr float kCodeScale = kActivation == Activation::kE4m3 ? 0x1p6f : 0x1p13f;

template <Activation kActivation>
__device__ MagnitudeTable magnitude_table(uint32_t c) {
  if constexpr (kActivation == Activation::kE4m3) {
    return {0x6C686000u - c * 0x08080800u, 0x7C787470u - c * 0x08080808u};
  } else {
    return {0x72706C00u - c * 0x04040400u, 0x7A787674u - c * 0x04040404u};
  }
}

__device__ inline uint32_t permute_bytes(uint32_t low, uint32_t high, uint32_t selector) {
  uint32_t bytes;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(bytes) : "r"(low), "r"(high), "r"(selector));
  return bytes;
}

// Codes 0 to 3 and 4 to 7 of a word, a byte each.
struct DecodedBytes {
  uint32_t first, second;
};
__device__ inline DecodedBytes decode_word(uint32_t word, MagnitudeTable table) {
  const uint32_t selectors = word & 0x77777777u;
  return {permute_bytes(table.low, table.high, selectors) | (word & 0x80808080u),
          permute_bytes(table.low, table.high, selectors >> 16) | (word << 4 & 0x80808080u)};
}

// Two e5m2 as the upper halves of two fp16: bytes 0 and 1, or 2 and 3.
__device__ inline uint32_t widen_low(uint32_t bytes) {
  return permute_bytes(bytes, 0, 0x1404);
}
__device__ inline uint32_t widen_high(uint32_t bytes) {
  return permute_bytes(bytes, 0, 0x3424);
}

// Two e4m3 as two fp16, exactly.
__device__ inline uint32_t e4m3_to_fp16(uint32_t two) {
  uint32_t halves;
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"(static_cast<uint16_t>(two)));
  return halves;
}

// The left operand of one warpgroup's product of 64 rows with a part of a block's inputs, one
// thread's registers: 128 inputs in e4m3, 64 in fp16.
template <Activation kActivation>
struct Fragments {
  static constexpr int kParts = kActivation == Activation::kE4m3 ? 1 : 2;
  uint32_t a[4][4];
};

template <Activation kActivation>
__device__ void decode_fp4(const uint8_t* product, int part, Fragments<kActivation>& to) {
  constexpr int kPairs = 2 / Fragments<kActivation>::kParts;
  const int thread = threadIdx.x % 128;
  const uint2 below = reinterpret_cast<const uint2*>(product + 4096)[thread / 4];
#pragma unroll
  for (int pair = 0; pair < kPairs; ++pair) {
    const uint4 words = reinterpret_cast<const uint4*>(product)[(part + pair) * 128 + thread];
    const uint32_t word[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int group = pair * 2 + i / 2, half = i % 2;
      const int shift = 8 * (part * 2 + group);
      const uint32_t c = (half == 0 ? below.x : below.y) >> shift & 0xFF;
      const DecodedBytes bytes = decode_word(word[i], magnitude_table<kActivation>(c));
      if constexpr (kActivation == Activation::kE4m3) {
        to.a[group][half] = bytes.first;
        to.a[group][2 + half] = bytes.second;
      } else {
        to.a[2 * group][half] = widen_low(bytes.first);
        to.a[2 * group][2 + half] = widen_high(bytes.first);
        to.a[2 * group + 1][half] = widen_low(bytes.second);
        to.a[2 * group + 1][2 + half] = widen_high(bytes.second);
      }
    }
  }
}

template <Activation kActivation>
__device__ void decode_fp8(const uint8_t* product, int part, Fragments<kActivation>& to) {
  constexpr int kGroups = 4 / Fragments<kActivation>::kParts;
#pragma unroll
  for (int group = 0; group < kGroups; ++group) {
    const uint4 words =
        reinterpret_cast<const uint4*>(product)[(part * kGroups + group) * 128 + threadIdx.x % 128];
    const uint32_t word[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if constexpr (kActivation == Activation::kE4m3) {
        to.a[group][i] = word[i];
      } else {
        to.a[2 * group + i / 2][i % 2] = e4m3_to_fp16(word[i] & 0xFFFF);
        to.a[2 * group + i / 2][2 + i % 2] = e4m3_to_fp16(word[i] >> 16);
      }
    }
  }
}

}  // namespace plimsoll::gpu
