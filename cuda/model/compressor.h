// Compression of windows of tokens into single entries (and indexer keys), and the rings of a
// sequence's last rows. Plain float32 kernels.
#pragma once

#include "cuda/device/queue.h"
#include "cuda/model/step_view.h"

namespace plimsoll::gpu {

struct CompressArgs {
  StepView step;
  LayerPlace place;
  EntryKind kind = EntryKind::kCompressed;
  ClosingList closings;          // of the layer's ratio
  const float* kv = nullptr;     // [num_tokens, kv_dim], of the step's tokens
  const float* score = nullptr;  // the same, without the position bias
  const float* bias = nullptr;   // [ratio, kv_dim]
  const float* norm = nullptr;   // [dim]
  float* entries = nullptr;      // scratch [closings.count, dim]
  float norm_eps = 0;
  int rotated = 0;  // channels at an entry's end
};

// Files the entries that the step's tokens close, normed and rotated, then remembers the tokens.
void compress(Queue& queue, const CompressArgs& args);

// Files the step's keys [num_tokens, row_stride] in the windows' rings.
void remember_keys(Queue& queue, const StepView& step, const LayerPlace& place, const float* kv);

}  // namespace plimsoll::gpu
