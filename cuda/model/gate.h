// The router: which experts a token goes to, and with what weight. Plain float32 kernels.
#pragma once

#include "cuda/device/queue.h"

namespace plimsoll::gpu {

struct GateArgs {
  int num_tokens = 0, num_experts = 0, top_k = 0;
  float scaling = 1;
  float* scores = nullptr;                 // [num_tokens, num_experts]: gate · x; overwritten
  const float* bias = nullptr;             // [num_experts]; null in hash layers
  const int32_t* token_experts = nullptr;  // [vocab, top_k] of hash layers, by token id
  const int32_t* tokens = nullptr;         // [num_tokens]
  int32_t* ids = nullptr;                  // [num_tokens, top_k], out: best first
  float* weights = nullptr;                // [num_tokens, top_k], out
};
void choose_experts(Queue& queue, const GateArgs& args);

}  // namespace plimsoll::gpu
