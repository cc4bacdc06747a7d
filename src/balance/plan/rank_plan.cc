// One layer's plan for ranks that may hold any expert: starts of several kinds, the best improved.
#include <algorithm>
#include <limits>

#include "balance/measure/bounds.h"
#include "balance/measure/judge.h"
#include "balance/plan/even_plan.h"
#include "balance/plan/exchange.h"
#include "balance/plan/grouped_start.h"
#include "balance/plan/plimsoll.h"
#include "balance/plan/search.h"
#include "balance/plan/start_plan.h"

namespace plimsoll {
namespace {

// A partition of the experts: every dispatch sees the same.
LayerPlan plan_without_copies(const LayerLoad& load, int num_ranks, int slots_per_rank) {
  LayerPlan plan = start_plan(load.total, num_ranks, slots_per_rank);
  exchange_experts(plan, load.steps, load.total);
  improve_even_plan(
      plan, load.total,
      {.enough = static_cast<double>(lower_bound(load.total, num_ranks, slots_per_rank).value)});
  return plan;
}

// A move costs more with more slots, and with more ranks; a layer may take about 0.1 ms.
SearchLimits search_limits(const LayerPlan& plan) {
  return {.num_proposals = 5000, .max_work = 20'000'000 / plan.num_slots()};
}

LayerPlan plan_exact(const LayerLoad& load, int num_ranks, int slots_per_rank) {
  const int64_t bound = lower_bound(load.total, num_ranks, slots_per_rank).value;
  const auto judge = [&](const LayerPlan& of) {
    return Judge(of, load.num_experts(), Dispatch::kExact, 1);
  };
  LayerPlan plan;
  int64_t fullest = std::numeric_limits<int64_t>::max();
  const auto offer = [&](LayerPlan other) {
    const int64_t max_load = judge(other).max_load(load.total);
    if (max_load < fullest) plan = std::move(other), fullest = max_load;
  };
  const int num_copies = num_ranks * slots_per_rank - load.num_experts();
  if (num_copies >= num_ranks - 1) {
    offer(start_plan(load.total, num_ranks, slots_per_rank));
  } else {
    offer(make_even_plan(load.total, num_ranks, slots_per_rank,
                         {.enough = static_cast<double>(bound)}));
    if (fullest > bound + bound / 1000) {
      const LowerBound tight = tight_lower_bound(load.total, num_ranks, slots_per_rank, fullest);
      offer(grouped_start(load.total, num_ranks, slots_per_rank, static_cast<double>(tight.value)));
    }
  }
  const LayerPlan found =
      search_placement(plan, search_steps(load), load.num_experts(), search_limits(plan));
  const bool is_better =
      found.expert != plan.expert && judge(found).max_load(load.total) <= fullest;
  return is_better ? found : plan;
}

}  // namespace

LayerPlan plan_ranks(
    const LayerLoad& named, int num_ranks, int slots_per_rank, Dispatch dispatch, int num_nodes) {
  const std::vector<int32_t> order = canonical_order(named);
  const LayerLoad load = select_experts(named, order);
  LayerPlan plan;
  if (num_ranks * slots_per_rank == load.num_experts()) {
    plan = plan_without_copies(load, num_ranks, slots_per_rank);
  } else if (dispatch == Dispatch::kExact) {
    plan = plan_exact(load, num_ranks, slots_per_rank);
  } else {
    const auto bound =
        static_cast<double>(lower_bound(load.total, num_ranks, slots_per_rank).value);
    plan =
        make_even_plan(load.total, num_ranks, slots_per_rank,
                       {.num_nodes = dispatch == Dispatch::kEven ? 1 : num_nodes, .enough = bound});
  }
  for (int32_t& e : plan.expert) e = order[e];
  return plan;
}

}  // namespace plimsoll
