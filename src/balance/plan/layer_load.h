// What one layer's experts were asked for.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "plimsoll/placement.h"

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

// The steps and, weighing as much as they do together, their total: [rows, num_experts].
std::vector<int64_t> search_steps(const LayerLoad& load);

// The load of these experts, in this order.
LayerLoad select_experts(const LayerLoad& load, std::span<const int32_t> experts);

// The experts by falling load, then by what each step asked of them: planning in this order makes
// the plan independent of their numbers.
std::vector<int32_t> canonical_order(const LayerLoad& load);

}  // namespace plimsoll
