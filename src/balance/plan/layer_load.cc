#include <algorithm>

#include "balance/plan/plimsoll.h"

namespace plimsoll {
namespace {

// As many steps as are worth looking at: the work of planning grows with them, what they tell does
// not.
int num_merged_steps(const LoadHistory& load, int max_steps) {
  constexpr int64_t kMaxPairs = int64_t{1} << 23;  // of experts, over all steps
  const int64_t pairs = int64_t{load.num_logical_experts} * load.num_logical_experts;
  const int64_t most = std::clamp<int64_t>(kMaxPairs / pairs, 1, max_steps);
  return static_cast<int>(std::min<int64_t>(load.num_steps, most));
}

}  // namespace

LayerLoad layer_load(const LoadHistory& load, int layer, int max_steps) {
  const size_t experts = load.num_logical_experts;
  const int merged = num_merged_steps(load, max_steps);
  LayerLoad result;
  result.total.assign(experts, 0);
  result.steps.assign(merged * experts, 0);
  for (int step = 0; step < load.num_steps; ++step) {
    const size_t from = (static_cast<size_t>(step) * load.num_layers + layer) * experts;
    const size_t to = static_cast<size_t>(int64_t{step} * merged / load.num_steps) * experts;
    for (size_t e = 0; e < experts; ++e) {
      result.total[e] += load.counts[from + e];
      result.steps[to + e] += load.counts[from + e];
    }
  }
  return result;
}

}  // namespace plimsoll
