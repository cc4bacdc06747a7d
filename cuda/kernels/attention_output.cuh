// The end of attention: the last rotation and the writing of o in the form the next product takes.
#pragma once

#include <cuda_bf16.h>

#include "cuda/kernels/attention.h"
#include "cuda/kernels/quantise.h"

namespace plimsoll::gpu {

constexpr int kRotated = 64;  // the last dimensions of a head

// Turns (x, y), dimensions `column` and column + 1 of a head, back by the query's rotation [32].
__device__ inline void turn_back(const float2* rotation, int column, float& x, float& y) {
  if (rotation == nullptr || column < kHeadDim - kRotated) return;
  const float2 r = rotation[(column - (kHeadDim - kRotated)) / 2];
  const float turned = x * r.x + y * r.y;
  y = y * r.x - x * r.y;
  x = turned;
}

__device__ inline uint32_t pair_of(const AttentionOutput& out, float x, float y, float scale) {
  if (out.operand.type == OperandType::kE4m3) {
    return to_e4m3(x, scale) | static_cast<uint32_t>(to_e4m3(y, scale)) << 8;
  }
  const __nv_bfloat162 pair = __floats2bfloat162_rn(x, y);
  return reinterpret_cast<const uint32_t&>(pair);
}

// Lane t of a quad gets word t of each of its four lanes.
__device__ inline void transpose_quad(uint32_t (&w)[4]) {
  const bool odd = threadIdx.x & 1, high = threadIdx.x & 2;
#pragma unroll
  for (int i = 0; i < 4; i += 2) {
    const uint32_t got = __shfl_xor_sync(0xFFFFFFFF, odd ? w[i] : w[i + 1], 1);
    (odd ? w[i] : w[i + 1]) = got;
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const uint32_t got = __shfl_xor_sync(0xFFFFFFFF, high ? w[i] : w[i + 2], 2);
    (high ? w[i] : w[i + 2]) = got;
  }
}

// A quad's lane has the pairs of columns 8j + 2t and + 1, j = 0 to 3, from `column`, a multiple
// of 32, of a token's row of all heads on; writes 32 columns, eight a lane. All lanes of a warp
// call it. `scale`: of the 128 channels, for kE4m3.
__device__ inline void write_columns(const AttentionOutput& out,
                                     int64_t token,
                                     int64_t columns,
                                     int64_t column,
                                     const float (&v)[8],
                                     float scale) {
  const int t = threadIdx.x % 4;
  const int64_t at = token * columns + column;
  if (out.operand.data == nullptr) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      *reinterpret_cast<float2*>(out.plain + at + 8 * j + 2 * t) =
          make_float2(v[2 * j], v[2 * j + 1]);
    }
    return;
  }
  uint32_t w[4];
#pragma unroll
  for (int j = 0; j < 4; ++j) w[j] = pair_of(out, v[2 * j], v[2 * j + 1], scale);
  transpose_quad(w);  // w[i]: columns 8t + 2i and + 1
  if (out.operand.type == OperandType::kE4m3) {
    *reinterpret_cast<uint2*>(static_cast<uint8_t*>(out.operand.data) + at + 8 * t) =
        make_uint2(w[0] | w[1] << 16, w[2] | w[3] << 16);
    return;
  }
  if (out.operand.type == OperandType::kBfloat16Paired) {
    // An even lane and the odd one after it have 16 columns: the even one takes pairs 0, 2 of both.
    const bool odd = t & 1;
    const uint32_t first = __shfl_xor_sync(0xFFFFFFFF, odd ? w[0] : w[1], 1);
    const uint32_t second = __shfl_xor_sync(0xFFFFFFFF, odd ? w[2] : w[3], 1);
    const uint32_t own[2] = {odd ? w[1] : w[0], odd ? w[3] : w[2]};
    w[0] = odd ? first : own[0];
    w[1] = odd ? second : own[1];
    w[2] = odd ? own[0] : first;
    w[3] = odd ? own[1] : second;
  }
  *reinterpret_cast<uint4*>(static_cast<__nv_bfloat16*>(out.operand.data) + at + 8 * t) =
      make_uint4(w[0], w[1], w[2], w[3]);
}

__device__ inline void write_scale(const AttentionOutput& out,
                                   int64_t token,
                                   int64_t column,
                                   float scale) {
  out.operand.scales[column / 128 * scale_stride(out.operand.rows) + token] = scale;
}

}  // namespace plimsoll::gpu
