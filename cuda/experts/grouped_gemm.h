// The two products of the experts of a mixture-of-experts layer on one GPU, over rows that lie
// grouped by expert (group_rows.h):
//   h = weight · silu(min(w1 x, limit)) · clamp(w3 x, -limit, limit)      y = w2 h
// (DeepSeek-V4's clamped SwiGLU; the token's weight before w2, as the official code has it.)
//
// The weights are the left operand of every tensor-core product, decoded in registers; rows are the
// right one, 8 to 128 at a time. A sum runs over the inputs in ascending order in one float32
// chain, whatever the number of rows, so that a row's bits depend on the row, its weight and the
// expert alone. Where either operand has scales every 128 inputs, a chain ends there and is added
// to the sum as sum + chain · scale.
//
// Activations are stored in chunks of 128 bytes along the inputs: [chunk][row][128 bytes], the
// 16-byte pieces of row r at piece ^ (r % 8); so a tile of rows is one bulk copy for each chunk.
//   kFp16: for bf16 rows. fp16 times a power of two of the row's own (x_scales [rows]): every bf16
//     within 2^-28 of the row's largest is exact. Of 16 inputs, input k lies at paired_place(k)
//     (operand.h). h is scaled by 2^7, so swiglu_limit² · weight must stay below 511.
//   kE4m3: e4m3 and a power of two every 128 inputs (x_scales [blocks][rows]), as the official code
//     quantises.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/experts/packed_experts.h"

namespace plimsoll::gpu {

enum class Activation { kFp16, kE4m3 };

inline constexpr int kMaxTileTokens = 128;
inline constexpr float kHiddenScale = 128.0f;  // of kFp16's h

constexpr int chunks_per_block(Activation activation) {
  return activation == Activation::kE4m3 ? 1 : 2;
}

// An expert's packed matrices (PackedMatrix::bytes) in device memory, aligned to 16 bytes. Null
// where a slot is empty: it must then get no rows.
struct ExpertSlot {
  const uint8_t* gate_up = nullptr;
  const uint8_t* down = nullptr;
};

// Up to 128 rows of one slot; first_row is a multiple of 8.
struct RowTile {
  int slot = 0;
  int first_row = 0;
  int rows = 0;
};

// Rows grouped by slot. Everything lies in device memory.
struct GroupedRows {
  Activation activation = Activation::kFp16;
  int capacity = 0;  // rows that fit: a multiple of 8
  const RowTile* tiles = nullptr;
  const int* num_tiles = nullptr;
  const float* weights = nullptr;  // [capacity]
  const int* homes = nullptr;      // [capacity]: the row of y that a row's result goes to
};

struct ActivationRows {
  uint8_t* data = nullptr;  // [blocks · chunks_per_block][capacity][128]
  float* scales = nullptr;  // kFp16: [capacity]; kE4m3: [blocks][capacity]
};

struct ExpertShape {
  WeightFormat format = WeightFormat::kFp4;
  int hidden = 0;        // a multiple of 32
  int intermediate = 0;  // a multiple of 32
  float swiglu_limit = 0;
};

// h of every row, quantised as `rows.activation` says.
cudaError_t gate_up_gemm(const ExpertShape& shape,
                         const ExpertSlot* slots,
                         const GroupedRows& rows,
                         const ActivationRows& x,
                         const ActivationRows& h,
                         cudaStream_t stream);
// y[homes[row]] = w2 h, float32 [.., hidden].
cudaError_t down_gemm(const ExpertShape& shape,
                      const ExpertSlot* slots,
                      const GroupedRows& rows,
                      const ActivationRows& h,
                      float* y,
                      cudaStream_t stream);

}  // namespace plimsoll::gpu
