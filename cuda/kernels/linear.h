// y = x · Wᵀ on Hopper's tensor cores, with W as it lies in the checkpoint.
//
// The same bits for a row whatever else is in the batch: every product has the weight's rows as its
// left operand; the sum over the input is cut into splits whose number follows from the weight
// alone (linear_splits), each split is one chain in ascending order of channels, and the splits are
// added in order, ((s0 + s1) + s2) + ... . How a launch spreads them (blocks of a cluster for few
// rows, one after the other in one block for many) does not show.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/kernels/operand.h"

namespace plimsoll::gpu {

enum class WeightType { kBfloat16, kE4m3 };

struct LinearWeight {
  WeightType type = WeightType::kBfloat16;
  int out = 0;  // rows: a multiple of 8
  int in = 0;   // columns: a multiple of 64; of 128 for kE4m3
  int groups =
      1;  // rows in equal groups, a multiple of 64 each; group g takes channels from g · in
  const void* data = nullptr;  // [out, in], aligned to 16 bytes
  // kE4m3: E8M0, [ceil(out / 128), in / 128]; each at most 2^7. Else null.
  const uint8_t* scales = nullptr;
};

struct LinearOutput {
  // [x.rows, out], rows `stride` elements apart; 16-byte aligned, the stride a multiple of 8.
  void* data = nullptr;
  int64_t stride = 0;
  bool bfloat16 = false;  // else float32
};

// How many chains the sum over the input is cut into: 1, 2, 4 or 8.
int linear_splits(const LinearWeight& weight);

// x: in · groups columns, made for this weight's type (OperandType); quantised activations are
// scaled every 128 channels, as in the official code. cudaErrorInvalidValue for sizes or types that
// do not fit. Nothing waits, nothing is allocated: it can be captured. Where the kernel before it
// on the stream gives leave (programmatic dependent launch), weights are read while that one runs:
// work on the stream may not have just written them.
cudaError_t linear(const LinearWeight& weight,
                   const Operand& x,
                   const LinearOutput& y,
                   cudaStream_t stream);

// The same function by one plain sum in double precision for each element: what linear() is checked
// against. Any sizes.
cudaError_t linear_reference(const LinearWeight& weight,
                             const Operand& x,
                             const LinearOutput& y,
                             cudaStream_t stream);

}  // namespace plimsoll::gpu
