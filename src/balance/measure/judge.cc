#include "balance/measure/judge.h"

#include <algorithm>

namespace plimsoll {

Judge::Judge(const LayerPlan& plan, int num_experts, Dispatch dispatch, int num_nodes)
    : plan_(plan),
      num_experts_(num_experts),
      grid_{plan.num_ranks, num_nodes, plan.slots_per_rank} {
  if (dispatch == Dispatch::kExact) {
    const Placement placement{1, num_experts, plan.num_slots(), plan.num_ranks, plan.expert};
    exact_.emplace(replica_table(placement, 0), plan.num_ranks);
  } else {
    share_ = expected_shares(CopyTable(plan.expert, num_experts), dispatch, grid_);
  }
}

int64_t Judge::max_load(std::span<const int64_t> load) {
  if (exact_) return exact_->max_load(load);
  const std::vector<double> loads = rank_loads(plan_.expert, share_, load, grid_);
  return round_up(*std::max_element(loads.begin(), loads.end()));
}

int64_t Judge::sum_of_maxima(std::span<const int64_t> steps) {
  int64_t sum = 0;
  for (size_t row = 0; row < steps.size(); row += num_experts_) {
    sum += max_load(steps.subspan(row, num_experts_));
  }
  return sum;
}

}  // namespace plimsoll
