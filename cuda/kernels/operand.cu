#include <cuda_bf16.h>

#include "cuda/kernels/operand.h"
#include "cuda/kernels/quantise.h"

namespace plimsoll::gpu {
namespace {

constexpr int kPiece = 128;  // channels of a warp: four a lane

__device__ void write_paired(__nv_bfloat16* row, int k, const float (&v)[4]) {
  // Four consecutive channels, k a multiple of 4: two pairs, eight places apart.
  __nv_bfloat162* pairs =
      reinterpret_cast<__nv_bfloat162*>(row + k / 16 * 16 + paired_place(k % 16));
  pairs[0] = __floats2bfloat162_rn(v[0], v[1]);
  pairs[4] = __floats2bfloat162_rn(v[2], v[3]);
}

__device__ void write_bfloat16(__nv_bfloat16* to, const float (&v)[4]) {
  __nv_bfloat162* pairs = reinterpret_cast<__nv_bfloat162*>(to);
  pairs[0] = __floats2bfloat162_rn(v[0], v[1]);
  pairs[1] = __floats2bfloat162_rn(v[2], v[3]);
}

__device__ void write_e4m3(const Operand& to, int row, int k, const float (&v)[4]) {
  float peak = fmaxf(fmaxf(fabsf(v[0]), fabsf(v[1])), fmaxf(fabsf(v[2]), fabsf(v[3])));
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    peak = fmaxf(peak, __shfl_xor_sync(0xFFFFFFFF, peak, step));
  }
  const float scale = e4m3_scale(peak);
  uchar4 bytes{to_e4m3(v[0], scale), to_e4m3(v[1], scale), to_e4m3(v[2], scale),
               to_e4m3(v[3], scale)};
  *reinterpret_cast<uchar4*>(static_cast<uint8_t*>(to.data) + int64_t{row} * to.columns + k) =
      bytes;
  if (threadIdx.x % 32 == 0) to.scales[int64_t{k / kPiece} * scale_stride(to.rows) + row] = scale;
}

__device__ void write_three(__nv_bfloat16* row, int columns, int k, float (&v)[4]) {
  for (int part = 0; part < 3; ++part) {
    write_bfloat16(row + int64_t{part} * columns + k, v);
    for (float& x : v) x -= __bfloat162float(__float2bfloat16(x));
  }
}

__global__ void make(const float* x, int64_t stride, Operand to) {
  const int pieces = (to.columns + kPiece - 1) / kPiece;
  const int64_t piece = int64_t{blockIdx.x} * (blockDim.x / 32) + threadIdx.x / 32;
  const int row = static_cast<int>(piece / pieces);
  const int k = static_cast<int>(piece % pieces) * kPiece + threadIdx.x % 32 * 4;
  if (row >= to.rows || k >= to.columns) return;
  float v[4];
  for (int i = 0; i < 4; ++i) v[i] = x[row * stride + k + i];
  __nv_bfloat16* halves = static_cast<__nv_bfloat16*>(to.data);
  switch (to.type) {
    case OperandType::kBfloat16:
      write_bfloat16(halves + int64_t{row} * to.columns + k, v);
      break;
    case OperandType::kBfloat16Paired:
      write_paired(halves + int64_t{row} * to.columns, k, v);
      break;
    case OperandType::kE4m3:
      write_e4m3(to, row, k, v);
      break;
    case OperandType::kThreeBfloat16:
      write_three(halves + int64_t{row} * 3 * to.columns, to.columns, k, v);
      break;
  }
}

}  // namespace

size_t operand_bytes(const Operand& operand) {
  const size_t elements = static_cast<size_t>(operand.rows) * operand.columns;
  switch (operand.type) {
    case OperandType::kE4m3:
      return elements;
    case OperandType::kThreeBfloat16:
      return elements * 6;
    default:
      return elements * 2;
  }
}

size_t operand_scale_bytes(const Operand& operand) {
  if (operand.type != OperandType::kE4m3) return 0;
  return static_cast<size_t>(operand.columns / 128) * scale_stride(operand.rows) * sizeof(float);
}

cudaError_t make_operand(const float* x, int64_t stride, const Operand& to, cudaStream_t stream) {
  const bool whole = to.type == OperandType::kE4m3 || to.type == OperandType::kBfloat16Paired;
  if (to.rows < 0 || to.columns <= 0 || to.columns % (whole ? 128 : 64) != 0) {
    return cudaErrorInvalidValue;
  }
  if (to.rows == 0) return cudaSuccess;
  constexpr int kWarps = 8;
  const int64_t pieces = int64_t{to.rows} * ((to.columns + kPiece - 1) / kPiece);
  make<<<static_cast<unsigned>((pieces + kWarps - 1) / kWarps), kWarps * 32, 0, stream>>>(x, stride,
                                                                                          to);
  return cudaGetLastError();
}

}  // namespace plimsoll::gpu
