// RMSNorm and rotation between the products of attention, in float32.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/kernels/operand.h"

namespace plimsoll::gpu {

// Rows of a linear layer's result, float32 or bf16, `stride` elements apart; aligned to 16 bytes.
struct NormInput {
  const void* data = nullptr;
  bool bfloat16 = false;
  int64_t stride = 0;
  float eps = 1e-6f;
};

// weight · x · rsqrt(mean(x²) + eps) made ready for the next product, to.rows rows (q_norm).
// cudaErrorInvalidValue unless the columns are a multiple of 128, at most 8,192.
cudaError_t rms_norm(const NormInput& x,
                     const float* weight,
                     const Operand& to,
                     cudaStream_t stream);

// RMSNorm over each head of `dim` numbers, then RoPE on the last 64 of them, interleaved pairs.
struct Heads {
  int tokens = 0;
  int heads = 0;                     // of a row; 1 for a key
  int dim = 0;                       // 128 or 512
  bool norm = true;                  // else rotated alone (the indexer's queries)
  const float* weight = nullptr;     // [dim]; null: 1, as for queries
  const float2* rotation = nullptr;  // [tokens, 32] cos and sin
  // Where token t's heads go: rows t · heads on, or, with `rows`, row rows[t] (of a pool of keys;
  // heads 1), none where that is negative.
  __nv_bfloat16* to = nullptr;  // [.., dim], aligned to 16 bytes
  const int32_t* rows = nullptr;
};

cudaError_t norm_and_rotate(const NormInput& x, const Heads& heads, cudaStream_t stream);

}  // namespace plimsoll::gpu
