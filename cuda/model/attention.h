// Attention of a step's queries: one shared key-value head, a sliding window, and compressed
// entries of what lies before it, all of them or those that the indexer picked. Plain float32
// kernels.
#pragma once

#include "cuda/device/queue.h"
#include "cuda/model/step_view.h"

namespace plimsoll::gpu {

struct AttentionArgs {
  StepView step;
  LayerPlace place;
  int num_heads = 0, top_k = 0;
  const float* query = nullptr;       // [num_tokens, num_heads, head_dim]
  const float* kv = nullptr;          // [num_tokens, row_stride], keys of the step's own tokens
  const int32_t* selected = nullptr;  // [num_tokens, top_k], of rows that must select
  const float* sink = nullptr;        // [num_heads]
  // Of the rows first_row .. first_row + num_rows - 1, which share the scratch.
  int first_row = 0, num_rows = 0;
  int most_keys = 0;        // that a row sees
  float* logits = nullptr;  // scratch [num_rows, num_heads, most_keys]
  float* scale = nullptr;   // scratch [num_rows, num_heads]
  float* output = nullptr;  // [num_tokens, num_heads, head_dim], before the inverse rotation
};
void attend(Queue& queue, const AttentionArgs& args);

}  // namespace plimsoll::gpu
