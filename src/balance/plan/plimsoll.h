// Our own placement algorithm.
#pragma once

#include <span>
#include <vector>

#include "balance/plan/layer_plan.h"
#include "plimsoll/plan.h"

namespace plimsoll {

// One layer's load, or that of the experts of one node.
struct LayerLoad {
  std::vector<int64_t> total;  // [num_experts]
  std::vector<int64_t> steps;  // [num_steps, num_experts], runs of recorded steps taken together
  bool total_counts = true;    // the total weighs as much as the steps together; else not at all

  int num_experts() const { return static_cast<int>(total.size()); }
  int num_steps() const { return static_cast<int>(steps.size() / total.size()); }
};

inline constexpr int kMaxSteps = 64;
LayerLoad layer_load(const LoadHistory& load, int layer, int max_steps = kMaxSteps);

// Of one layer, by `plimsoll` or `plimsoll_hierarchical`, whatever is in force.
LayerPlan plan_layer(const LayerLoad& load, const PlanOptions& options);

// What a plan is for: the maxima of all steps [num_steps, num_experts], routed exactly, summed.
int64_t sum_of_maxima(const LayerPlan& plan, std::span<const int64_t> steps, size_t num_experts);

// Sizes and load are checked by the caller.
Result<Placement> plan_plimsoll(const LoadHistory& load, const PlanOptions& options);

}  // namespace plimsoll
