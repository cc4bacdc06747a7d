// Writes operands (operand.h) a warp's 128 channels at a time, four consecutive ones a lane.
#pragma once

#include <cuda_bf16.h>

#include "cuda/kernels/operand.h"
#include "cuda/kernels/quantise.h"

namespace plimsoll::gpu {

constexpr int kPiece = 128;  // channels of a warp

__device__ inline void write_bfloat16(__nv_bfloat16* to, const float (&v)[4]) {
  auto* pairs = reinterpret_cast<__nv_bfloat162*>(to);
  pairs[0] = __floats2bfloat162_rn(v[0], v[1]);
  pairs[1] = __floats2bfloat162_rn(v[2], v[3]);
}

// Channel k is a multiple of 4: two pairs, eight places apart.
__device__ inline void write_paired(__nv_bfloat16* row, int k, const float (&v)[4]) {
  auto* pairs = reinterpret_cast<__nv_bfloat162*>(row + k / 16 * 16 + paired_place(k % 16));
  pairs[0] = __floats2bfloat162_rn(v[0], v[1]);
  pairs[4] = __floats2bfloat162_rn(v[2], v[3]);
}

__device__ inline void write_e4m3(const Operand& to, int row, int k, const float (&v)[4]) {
  float peak = fmaxf(fmaxf(fabsf(v[0]), fabsf(v[1])), fmaxf(fabsf(v[2]), fabsf(v[3])));
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    peak = fmaxf(peak, __shfl_xor_sync(0xFFFFFFFF, peak, step));
  }
  const float scale = e4m3_scale(peak);
  const uchar4 bytes{to_e4m3(v[0], scale), to_e4m3(v[1], scale), to_e4m3(v[2], scale),
                     to_e4m3(v[3], scale)};
  *reinterpret_cast<uchar4*>(static_cast<uint8_t*>(to.data) + int64_t{row} * to.columns + k) =
      bytes;
  if (threadIdx.x % 32 == 0) to.scales[int64_t{k / kPiece} * scale_stride(to.rows) + row] = scale;
}

__device__ inline void write_three(__nv_bfloat16* row, int columns, int k, const float (&v)[4]) {
  float left[4] = {v[0], v[1], v[2], v[3]};
  for (int part = 0; part < 3; ++part) {
    write_bfloat16(row + int64_t{part} * columns + k, left);
    for (float& x : left) x -= __bfloat162float(__float2bfloat16(x));
  }
}

// Channels k to k + 3 of a row, lane l those from 4l on of the same 128 channels; lanes past the
// last column may stay away but for kE4m3, which has none.
__device__ inline void write_operand(const Operand& to, int row, int k, const float (&v)[4]) {
  auto* halves = static_cast<__nv_bfloat16*>(to.data) + int64_t{row} * to.columns;
  switch (to.type) {
    case OperandType::kBfloat16:
      write_bfloat16(halves + k, v);
      break;
    case OperandType::kBfloat16Paired:
      write_paired(halves, k, v);
      break;
    case OperandType::kE4m3:
      write_e4m3(to, row, k, v);
      break;
    case OperandType::kThreeBfloat16:
      write_three(halves + 2 * int64_t{row} * to.columns, to.columns, k, v);
      break;
  }
}

}  // namespace plimsoll::gpu
