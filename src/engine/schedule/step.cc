#include "engine/schedule/step.h"

#include <numeric>

namespace plimsoll {

PhaseSeconds& PhaseSeconds::operator+=(const PhaseSeconds& more) {
  attention += more.attention;
  routing += more.routing;
  dispatch += more.dispatch;
  experts += more.experts;
  combine += more.combine;
  other += more.other;
  return *this;
}

void append_layer(StepBalance& balance,
                  const JitPlan& plan,
                  std::span<const int32_t> expert_counts) {
  const RoutePlan& route = plan.route;
  const int num_ranks = route.num_ranks;
  const int slots_per_rank = route.num_slots / num_ranks;
  balance.num_ranks = num_ranks;
  ++balance.num_layers;
  for (int r = 0; r < num_ranks; ++r) {
    int64_t routed = 0;
    int64_t shared = 0;
    for (int source = 0; source < num_ranks; ++source) {
      const auto slots = route.routed_by(source).subspan(r * slots_per_rank, slots_per_rank);
      routed = std::accumulate(slots.begin(), slots.end(), routed);
      shared += route.shared_by(source)[r];
      if (source != r) balance.num_shared_moved += route.shared_by(source)[r];
    }
    balance.routed_load.push_back(routed);
    balance.total_load.push_back(routed + shared);
    const auto own = route.shared_by(r);
    balance.home_load.push_back(std::accumulate(own.begin(), own.end(), routed));
  }
  balance.num_jit_copies += static_cast<int64_t>(plan.copies.size());
  balance.jit_saved_load += plan.standing_max - route.max_load;
  balance.bound.push_back(route.lower_bound);
  balance.expert_counts.insert(balance.expert_counts.end(), expert_counts.begin(),
                               expert_counts.end());
}

}  // namespace plimsoll
