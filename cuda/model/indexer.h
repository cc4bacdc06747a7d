// The lightning indexer: which compressed entries a query of a sparse layer attends to. Plain
// float32 kernels; the choice among equals is the CPU's (model/kernels/top_scores.h).
#pragma once

#include "cuda/device/queue.h"
#include "cuda/model/step_view.h"
#include "model/kernels/top_scores.h"

namespace plimsoll::gpu {

// Whether the query at `position` sees more entries than the indexer lets through.
PLIMSOLL_HD inline bool must_select(const LayerShape& shape,
                                    const SegmentView& segment,
                                    int64_t position,
                                    int top_k) {
  return shape.has_indexer && visible_entries(shape.indexer, position, segment.origin) > top_k;
}

struct IndexerArgs {
  StepView step;
  LayerPlace place;
  int num_heads = 0, top_k = 0;
  const float* query = nullptr;    // [num_tokens, num_heads, dim]
  const float* weights = nullptr;  // [num_tokens, num_heads]
  // Of the rows first_row .. first_row + num_rows - 1, which share the scratch.
  int first_row = 0, num_rows = 0;
  int most_entries = 0;           // of a row's sequence, once all of its prompt is there
  float* scores = nullptr;        // scratch [num_rows, most_entries]
  ScoredEntry* scored = nullptr;  // scratch [num_rows, most_entries]
  int32_t* selected = nullptr;    // [num_tokens, top_k], ascending; of rows that must select
};
void select_entries(Queue& queue, const IndexerArgs& args);

}  // namespace plimsoll::gpu
