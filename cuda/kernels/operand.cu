#include "cuda/kernels/operand.h"
#include "cuda/kernels/operand_write.cuh"

namespace plimsoll::gpu {
namespace {

__global__ void make(const float* x, int64_t stride, Operand to) {
  const int pieces = (to.columns + kPiece - 1) / kPiece;
  const int64_t piece = int64_t{blockIdx.x} * (blockDim.x / 32) + threadIdx.x / 32;
  const int row = static_cast<int>(piece / pieces);
  const int k = static_cast<int>(piece % pieces) * kPiece + threadIdx.x % 32 * 4;
  if (row >= to.rows || k >= to.columns) return;
  float v[4];
  for (int i = 0; i < 4; ++i) v[i] = x[row * stride + k + i];
  write_operand(to, row, k, v);
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
