// DeepSeek-V4 attention: one shared key-value head, a sliding window, and compressed entries of
// what lies before it (all of them, or in sparse layers those that the indexer picks).
#pragma once

#include "model/forward/workspace.h"

namespace plimsoll {

// Attention of all the step's tokens over the workspace's `rows`, to its `block_output`. Appends
// the tokens to their sequences' states.
void attend(ForwardWorkspace& workspace, int layer_idx);

}  // namespace plimsoll
