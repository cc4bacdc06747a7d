#include "model/forward/gate.h"

#include <algorithm>

#include "model/kernels/top_experts.h"

namespace plimsoll {
void choose_experts(ForwardWorkspace& workspace, int layer_idx) {
  const ModelConfig& config = workspace.config;
  const GateWeights& gate = workspace.weights.layers[static_cast<size_t>(layer_idx)].gate;
  const int num_experts = config.n_routed_experts;
  const int k = config.num_experts_per_tok;
  const int num_tokens = workspace.num_tokens;
  float* scores = workspace.gate_scores.at_least(num_tokens, num_experts);
  multiply(workspace.kernels, workspace.rows.data(), config.hidden_size, num_tokens, gate.weight,
           scores, num_experts);
  workspace.kernels.sqrt_softplus(scores, num_tokens * num_experts);
  for (int t = 0; t < num_tokens; ++t) {
    const float* s = scores + ptrdiff_t{t} * num_experts;
    int32_t* ids = workspace.topk_ids.data() + ptrdiff_t{t} * k;
    float* weights = workspace.topk_weights.data() + ptrdiff_t{t} * k;
    if (gate.token_experts.empty()) {
      pick_best(s, gate.bias.data(), num_experts, k, weights, ids);
    } else {
      const size_t token = static_cast<size_t>(workspace.tokens[static_cast<size_t>(t)]);
      std::copy_n(gate.token_experts.data() + token * static_cast<size_t>(k), k, ids);
    }
    float sum = 0;
    for (int i = 0; i < k; ++i) sum += s[ids[i]];
    for (int i = 0; i < k; ++i) weights[i] = config.routed_scaling_factor * s[ids[i]] / sum;
  }
}

}  // namespace plimsoll
