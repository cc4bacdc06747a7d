#include "balance/plan/layer_load.h"

#include <algorithm>
#include <numeric>

namespace plimsoll {
namespace {

// As many steps as are worth looking at: the work of planning grows with them, what they tell does
// not.
int num_merged_steps(const LoadHistory& load, int max_steps) {
  constexpr int64_t kMaxPairs = int64_t{1} << 19;  // of experts, over all steps
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

std::vector<int64_t> search_steps(const LayerLoad& load) {
  if (load.num_steps() == 1 || !load.total_counts) return load.steps;
  std::vector<int64_t> steps = load.steps;
  steps.insert(steps.end(), load.total.begin(), load.total.end());
  return steps;
}

LayerLoad select_experts(const LayerLoad& load, std::span<const int32_t> experts) {
  LayerLoad selected{.total_counts = load.total_counts};
  for (const int32_t e : experts) selected.total.push_back(load.total[e]);
  for (int t = 0; t < load.num_steps(); ++t) {
    for (const int32_t e : experts) {
      selected.steps.push_back(load.steps[static_cast<size_t>(t) * load.num_experts() + e]);
    }
  }
  return selected;
}

std::vector<int32_t> canonical_order(const LayerLoad& load) {
  std::vector<int32_t> order(load.total.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    if (load.total[a] != load.total[b]) return load.total[a] > load.total[b];
    for (size_t row = 0; row < load.steps.size(); row += load.total.size()) {
      if (load.steps[row + a] != load.steps[row + b]) {
        return load.steps[row + a] > load.steps[row + b];
      }
    }
    return false;
  });
  return order;
}

}  // namespace plimsoll
