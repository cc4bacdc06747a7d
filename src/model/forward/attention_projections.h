// The linear parts of attention: hidden rows to queries, keys and compressor inputs, and heads back
// to hidden rows.
#pragma once

#include "model/checkpoint/layer_shape.h"
#include "model/forward/workspace.h"

namespace plimsoll {

// A layer's attention in a step.
struct AttentionLayer {
  ForwardWorkspace& workspace;
  const AttentionWeights& weights;
  LayerShape shape;
  int layer_idx;
  const float* rotation;  // of the layer's kind at each token's position, [tokens, 2, pairs]
};

AttentionLayer attention_layer(ForwardWorkspace& workspace, int layer_idx);

// Whether the query at `position` sees more entries than the indexer lets through.
bool must_select(const AttentionLayer& layer, const SequenceState& sequence, int64_t position);

// The workspace's rows to its attention buffers: queries and keys normed and rotated, and the raw
// values and scores of the layer's compressors; the indexer's queries only if a token of the step
// needs them.
void project_inputs(const AttentionLayer& layer);

// The heads' outputs, rotated back, to the workspace's block output.
void project_outputs(const AttentionLayer& layer);

}  // namespace plimsoll
