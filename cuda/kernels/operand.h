// Activations made ready for the tensor cores: the right operand of linear() (linear.h).
//
// A row is cut into pieces of 128 channels. What an operand is made of is float32; what it is made
// for is decided by the weight it meets and by --activation-dtype.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace plimsoll::gpu {

enum class OperandType {
  kBfloat16,        // meets bf16 weights
  kBfloat16Paired,  // meets e4m3 weights: bf16, each 16 channels in the order of paired_place
  kE4m3,            // meets e4m3 weights: quantised as the official inference code does
  kThreeBfloat16,   // meets bf16 weights: three bf16 that add up to the float32, for the gate
};

// Where channel k of 16 lies in a kBfloat16Paired row: the tensor core then finds in one register
// pair what a thread decodes from four consecutive e4m3 of a weight.
constexpr int paired_place(int k) {
  return k % 4 / 2 * 8 + k / 4 * 2 + k % 2;
}

struct Operand {
  OperandType type = OperandType::kBfloat16;
  int rows = 0;
  int columns = 0;  // a multiple of 64; of 128 for kE4m3 and kBfloat16Paired
  // [rows, columns] bf16 or e4m3; kThreeBfloat16: [rows, 3, columns], the largest part first.
  // Aligned to 16 bytes.
  void* data = nullptr;
  // kE4m3: [columns / 128, scale_stride(rows)], powers of two; value = e4m3 · scale. Else null.
  float* scales = nullptr;
};

constexpr int scale_stride(int rows) {
  return (rows + 127) / 128 * 128;
}
// Bytes that `data` and `scales` of an operand take.
size_t operand_bytes(const Operand& operand);
size_t operand_scale_bytes(const Operand& operand);

// x: [rows, columns], rows `stride` floats apart. kE4m3, of each row and 128 channels, as the
// official code: a = max(|x|, 1e-4), scale = 2^ceil(log2(a / 448)), e4m3 of x / scale rounded to
// nearest even. cudaErrorInvalidValue where the columns do not divide.
cudaError_t make_operand(const float* x, int64_t stride, const Operand& to, cudaStream_t stream);

}  // namespace plimsoll::gpu
