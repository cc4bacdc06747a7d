// Manifold-constrained hyper-connections: a block reads a weighted sum of the residual streams and
// writes its output back into all of them, with weights computed from the streams themselves.
#pragma once

#include "model/forward/workspace.h"

namespace plimsoll {

// u [num_tokens, D] = the block's input from streams [num_tokens, n, D]; leaves in the workspace
// the coefficients that expand_streams needs.
void collapse_streams(ForwardWorkspace& workspace,
                      const HyperConnectionWeights& weights,
                      const float* streams,
                      int num_tokens,
                      float* u);

// Adds the block's output [num_tokens, D] to the workspace's streams and mixes them.
void expand_streams(ForwardWorkspace& workspace, const float* output);

}  // namespace plimsoll
