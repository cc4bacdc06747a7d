// One layer's plan for ranks that may hold any expert: starts of several kinds, the best improved.
#include <algorithm>

#include "balance/measure/bounds.h"
#include "balance/measure/judge.h"
#include "balance/plan/even_plan.h"
#include "balance/plan/exchange.h"
#include "balance/plan/plimsoll.h"
#include "balance/plan/search.h"
#include "balance/plan/start_plan.h"

namespace plimsoll {
namespace {

int64_t bound_of(std::span<const int64_t> load, int num_ranks, int slots_per_rank) {
  std::vector<int64_t> sorted(load.begin(), load.end());
  std::sort(sorted.begin(), sorted.end(), std::greater<>());
  return lower_bound(sorted, num_ranks, slots_per_rank).value;
}

// A partition of the experts: every dispatch sees the same.
LayerPlan plan_without_copies(const LayerLoad& load, int num_ranks, int slots_per_rank) {
  LayerPlan plan = start_plan(load.total, num_ranks, slots_per_rank);
  exchange_experts(plan, load.steps, load.total);
  improve_even_plan(
      plan, load.total,
      {.enough = static_cast<double>(bound_of(load.total, num_ranks, slots_per_rank))});
  return plan;
}

LayerPlan plan_exact(const LayerLoad& load, int num_ranks, int slots_per_rank) {
  LayerPlan plan = start_plan(load.total, num_ranks, slots_per_rank);
  const int64_t bound = bound_of(load.total, num_ranks, slots_per_rank);
  const auto judge = [&](const LayerPlan& of) {
    return Judge(of, load.num_experts(), Dispatch::kExact, 1);
  };
  if (judge(plan).max_load(load.total) > bound) {
    LayerPlan even = make_even_plan(load.total, num_ranks, slots_per_rank,
                                    {.enough = static_cast<double>(bound)});
    if (judge(even).max_load(load.total) < judge(plan).max_load(load.total)) plan = std::move(even);
  }
  const std::vector<int64_t> steps = search_steps(load);
  const LayerPlan found = search_placement(plan, steps, load.num_experts(),
                                           {.num_proposals = num_proposals(plan, load)});
  const bool is_better = found.expert != plan.expert &&
                         judge(found).sum_of_maxima(steps) <= judge(plan).sum_of_maxima(steps);
  return is_better ? found : plan;
}

}  // namespace

int64_t num_proposals(const LayerPlan& plan, const LayerLoad& load) {
  // About 10 ms a layer: a proposal costs more with more slots and more steps.
  constexpr int64_t kWork = 5'000'000;
  const int64_t cost = int64_t{plan.num_slots()} * (load.num_steps() + 1);
  return std::clamp<int64_t>(kWork / cost, 100, 5000);
}

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
    const auto bound = static_cast<double>(bound_of(load.total, num_ranks, slots_per_rank));
    plan =
        make_even_plan(load.total, num_ranks, slots_per_rank,
                       {.num_nodes = dispatch == Dispatch::kEven ? 1 : num_nodes, .enough = bound});
  }
  for (int32_t& e : plan.expert) e = order[e];
  return plan;
}

}  // namespace plimsoll
