// Attention of DeepSeek-V4 over gathered keys (DeepSeek-V4 technical report, "shared-KV MQA"): one
// key vector of 512 for all heads, which is the value too, a list of keys for each query token
// (its window, then compressed entries), and a learned sink in the softmax's denominator.
//
//   logit[h, j] = (q[h] · k_j) · scale;  a = exp(logit) / (sum over j of exp(logit) + exp(sink[h]))
//   o[h] = sum over j of a[h, j] k_j;  the last 64 of o[h] turned back by the query's rotation
//
// q, keys and the weights a are bf16 operands of the tensor cores, everything else float32. A
// token's bits follow from its own list alone: the keys are taken 64 at a time in the list's order,
// cut into parts of kKeysOfPart, and the parts are merged in order, in prefill and decode alike.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/kernels/operand.h"

namespace plimsoll::gpu {

constexpr int kHeadDim = 512;
constexpr int kKeysOfPart = 1024;

struct AttentionInput {
  int tokens = 0;
  int heads = 0;                        // a multiple of 64
  const __nv_bfloat16* q = nullptr;     // [tokens, heads, 512], normed and rotated; 16-byte aligned
  const __nv_bfloat16* keys = nullptr;  // rows of 512; 16-byte aligned
  const int32_t* key_rows = nullptr;    // [tokens, key_stride]: rows of `keys`
  int64_t key_stride = 0;
  const int32_t* num_keys = nullptr;  // [tokens], each at most max_keys; of 0, o is 0
  int max_keys = 0;                   // at most key_stride
  float scale = 0;                    // 512^-0.5
  const float* sink = nullptr;        // [heads], 16-byte aligned
  // [tokens, 32] cos and sin of the query's position, 16-byte aligned; null: nothing is turned
  // back.
  const float2* rotation = nullptr;
};

// Where o goes: an operand of tokens rows and heads · 512 columns (not kThreeBfloat16), or, where
// that has no data, float32 [tokens, heads, 512].
struct AttentionOutput {
  Operand operand;
  float* plain = nullptr;
};

// Device memory that attention() works in; 0 where one part holds all keys. Aligned to 16 bytes.
size_t attention_workspace_bytes(int tokens, int heads, int max_keys);

// cudaErrorInvalidValue where sizes do not fit. Can be captured.
cudaError_t attention(const AttentionInput& in,
                      const AttentionOutput& out,
                      void* workspace,
                      cudaStream_t stream);

// The same in plain float64 sums, to `plain` only: what attention() is checked against.
cudaError_t attention_reference(const AttentionInput& in, float* plain, cudaStream_t stream);

}  // namespace plimsoll::gpu
