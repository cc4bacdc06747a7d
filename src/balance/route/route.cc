// route(): from the counts of all ranks to quotas with the smallest maximum load and, among those,
// the fewest messages, by a minimum-cost flow under a waterline that rises until it fits. This file
// checks the input and puts the steps in order. See "Routing a batch" in docs/balancing.md.
#include "plimsoll/route.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "balance/route/local_start.h"
#include "balance/route/quotas.h"
#include "balance/route/route_objectives.h"
#include "balance/route/shared_fill.h"
#include "balance/route/waterline.h"

namespace plimsoll {
namespace {

Status check_masked_ranks(const RouteTables& t,
                          std::span<const int32_t> counts,
                          std::span<const int32_t> active_tokens) {
  if (t.options.rank_cost.empty()) return ok_status();
  for (int s = 0; s < t.num_ranks; ++s) {
    const auto row = counts.subspan(static_cast<size_t>(s) * t.num_experts, t.num_experts);
    const bool has_tokens = active_tokens[s] != 0 ||
                            std::any_of(row.begin(), row.end(), [](int32_t n) { return n != 0; });
    if (t.rank_cost[s] == 0 && has_tokens) {
      return invalid_argument("rank " + std::to_string(s) +
                              " is masked out but has tokens; give them to another rank first");
    }
  }
  return ok_status();
}

Status check_input(const RouteTables& t,
                   std::span<const int32_t> counts,
                   std::span<const int32_t> active_tokens) {
  const size_t num_counts = static_cast<size_t>(t.num_ranks) * t.num_experts;
  if (counts.size() != num_counts || active_tokens.size() != static_cast<size_t>(t.num_ranks)) {
    return invalid_argument("route was given " + std::to_string(counts.size()) + " counts and " +
                            std::to_string(active_tokens.size()) + " token numbers; " +
                            std::to_string(t.num_ranks) + " ranks and " +
                            std::to_string(t.num_experts) + " experts need " +
                            std::to_string(num_counts) + " and " + std::to_string(t.num_ranks));
  }
  int32_t signs = 0;
  int64_t routed = 0;
  int64_t shared = 0;
  for (const int32_t count : counts) signs |= count, routed += count;
  for (const int32_t tokens : active_tokens) signs |= tokens, shared += tokens;
  if (signs < 0) return invalid_argument("route was given a negative count");
  if (Status status = check_masked_ranks(t, counts, active_tokens); !status.ok()) return status;
  const double cost = static_cast<double>(routed) * t.options.shared_cost.den +
                      static_cast<double>(shared) * t.options.num_shared_experts *
                          std::max(t.options.shared_cost.num, 1);
  if (cost > std::numeric_limits<int32_t>::max()) {
    return invalid_argument(
        "the batch costs more than 2^31 - 1 units; route it in smaller batches");
  }
  return ok_status();
}

// Shared experts that do not take part in levelling stay at home.
void keep_shared_at_home(const RouteTables& t,
                         std::span<const int32_t> active_tokens,
                         RouteWorkspace& w,
                         RoutePlan& plan) {
  for (int s = 0; s < t.num_ranks; ++s) {
    const int32_t at_home = active_tokens[s] * t.options.num_shared_experts;
    plan.shared[static_cast<size_t>(s) * t.num_ranks + s] = at_home;
    w.offset[s] = int64_t{at_home} * t.options.shared_cost.num * t.rank_cost[s];
  }
}

void route_tokens(const RouteTables& t,
                  std::span<const int32_t> counts,
                  std::span<const int32_t> active_tokens,
                  RouteWorkspace& w,
                  RoutePlan& plan) {
  std::copy_n(w.fixed_load.begin(), t.num_ranks, w.start_load.begin());
  start_in_equal_shares(t, counts, active_tokens, w);
  set_unit_costs(t, t.options.shared_cost.den, w);
  level_under_least_waterline(t, w, plan);
  if (levels_shared(t.options) && !shared_is_item(t.options)) {
    fill_with_shared(t, active_tokens, w, plan);
  }
  expand_items(t, counts, active_tokens, w, plan);
}

void sum_up(const RouteTables& t, RoutePlan& plan) {
  const int slots_per_rank = t.num_slots / t.num_ranks;
  std::fill(plan.rank_load.begin(), plan.rank_load.end(), 0);
  plan.num_messages = 0;
  for (int s = 0; s < t.num_ranks; ++s) {
    const std::span<const int32_t> routed = plan.routed_by(s);
    const std::span<const int32_t> shared = plan.shared_by(s);
    for (int r = 0; r < t.num_ranks; ++r) {
      int64_t num_routed = 0;
      for (int i = 0; i < slots_per_rank; ++i) num_routed += routed[r * slots_per_rank + i];
      plan.rank_load[r] +=
          num_routed * t.options.shared_cost.den + int64_t{shared[r]} * t.options.shared_cost.num;
      if (r != s) plan.num_messages += num_routed + shared[r];
    }
  }
  to_objective(t, plan);
  plan.max_load = *std::max_element(plan.rank_load.begin(), plan.rank_load.end());
}

}  // namespace

RoutePlan::RoutePlan(const RouteTables& t)
    : num_ranks(t.num_ranks),
      num_slots(t.num_slots),
      routed(static_cast<size_t>(t.num_ranks) * t.num_slots),
      shared(static_cast<size_t>(t.num_ranks) * t.num_ranks),
      rank_load(t.num_ranks),
      bound_ranks(t.num_ranks) {}

RouteWorkspace::RouteWorkspace(const RouteTables& t)
    : expert_total(t.num_experts),
      unit_cost(t.num_ranks),
      offset(t.num_ranks),
      fixed_load(t.num_ranks),
      start_amount(t.num_slots + t.num_ranks),
      start_load(t.num_ranks),
      best_amount(t.num_slots + t.num_ranks),
      potential(t.num_ranks),
      target(t.num_ranks),
      surplus_before(t.num_ranks + 1),
      moved(t.num_ranks),
      level(t.num_ranks, t.num_experts + 1, t.num_slots + t.num_ranks),
      supply(t.num_ranks),
      quota(std::max(t.num_slots, t.num_ranks)),
      quota_begin(t.num_ranks),
      cursor(t.num_experts) {}

Status route(const RouteTables& t,
             std::span<const int32_t> counts,
             std::span<const int32_t> active_tokens,
             RouteWorkspace& w,
             RoutePlan& plan) {
  if (Status status = check_input(t, counts, active_tokens); !status.ok()) return status;
  std::fill(w.expert_total.begin(), w.expert_total.end(), 0);
  for (int s = 0; s < t.num_ranks; ++s) {
    const int32_t* row = &counts[static_cast<size_t>(s) * t.num_experts];
    for (int e = 0; e < t.num_experts; ++e) w.expert_total[e] += row[e];
  }
  std::fill(w.fixed_load.begin(), w.fixed_load.end(), 0);
  std::fill(w.offset.begin(), w.offset.end(), 0);
  std::fill(plan.routed.begin(), plan.routed.end(), 0);
  std::fill(plan.shared.begin(), plan.shared.end(), 0);
  if (!levels_shared(t.options)) keep_shared_at_home(t, active_tokens, w, plan);
  place_fixed_experts(t, counts, w, plan);
  if (t.options.objective == RouteObjective::kTokens) {
    route_tokens(t, counts, active_tokens, w, plan);
  } else {
    route_objective(t, counts, active_tokens, w, plan);
  }
  sum_up(t, plan);
  return ok_status();
}

std::string to_string(const RoutePlan& plan) {
  const int64_t total = std::accumulate(plan.rank_load.begin(), plan.rank_load.end(), int64_t{0});
  const int64_t tenths = plan.num_ranks == 0 ? 0 : total * 10 / plan.num_ranks;
  std::string text = "max " + std::to_string(plan.max_load) + ", mean " +
                     std::to_string(tenths / 10) + "." + std::to_string(tenths % 10) + ", bound " +
                     std::to_string(plan.lower_bound) + " (ranks";
  for (int r = 0; r < plan.num_ranks; ++r) {
    if (plan.bound_ranks[r]) text += " " + std::to_string(r);
  }
  text += "), " + std::to_string(plan.num_messages) + " messages; load";
  for (const int64_t load : plan.rank_load) text += " " + std::to_string(load);
  return text;
}

}  // namespace plimsoll
