// The fullest rank of one layer's plan under the dispatch that it is for.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "balance/measure/exact_load.h"
#include "balance/measure/layer_plan.h"
#include "balance/measure/shares.h"

namespace plimsoll {

// Static is judged by what its draws come to on average.
class Judge {
 public:
  Judge(const LayerPlan& plan, int num_experts, Dispatch dispatch, int num_nodes);

  // load: tokens of every expert. Rounded up.
  int64_t max_load(std::span<const int64_t> load);

  // steps: [num_steps, num_experts].
  int64_t sum_of_maxima(std::span<const int64_t> steps);

 private:
  const LayerPlan& plan_;
  const int num_experts_;
  const RankGrid grid_;
  std::optional<ExactLoad> exact_;
  std::vector<double> share_;  // [num_slots], but for exact routing
};

}  // namespace plimsoll
