// The router: which experts a token goes to, and with what weight.
#pragma once

#include "model/forward/workspace.h"

namespace plimsoll {

// Chooses experts for the workspace's `rows` into its `topk_ids` and `topk_weights`.
void choose_experts(ForwardWorkspace& workspace, int layer_idx);

}  // namespace plimsoll
