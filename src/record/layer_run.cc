#include "record/layer_run.h"

#include <algorithm>
#include <numeric>
#include <string>

#include "plimsoll/just_in_time_rules.h"

namespace plimsoll {
namespace {

// Nothing beats the bound of exact routing that may put the shared experts anywhere.
RouteOptions best_route(const RouteOptions& route) {
  RouteOptions best = route;
  best.algorithm = DispatchAlgorithm::kExact;
  best.waterfill = route.objective != RouteObjective::kExperts;
  best.waterfill_rule = WaterfillRule::kLevel;
  best.jit = {};
  return best;
}

}  // namespace

LayerRun::LayerRun(JitTables tables, JitTables best_tables, std::optional<JitRule> rule)
    : rule_(rule), router_(std::move(tables)), best_(std::move(best_tables)) {
  counts.resize(static_cast<size_t>(num_ranks()) * num_experts());
  active_tokens.resize(num_ranks());
  samples.rank_load.assign(num_ranks(), 0);
}

Result<LayerRun> LayerRun::make(const Placement& placement,
                                int layer_idx,
                                const RouteOptions& route,
                                const ReplayOptions& options) {
  if (options.jit_rule && placement.num_redundant_experts() > 0) {
    return invalid_argument(
        "the rules of UltraEP and MoonEP know experts with one copy; the placement has " +
        std::to_string(placement.num_redundant_experts()) + " more");
  }
  Result<JitTables> tables = make_jit_tables(placement, layer_idx, route);
  if (!tables.ok()) return tables.error();
  Result<JitTables> best_tables = make_jit_tables(placement, layer_idx, best_route(route));
  if (!best_tables.ok()) return best_tables.error();
  return LayerRun(std::move(*tables), std::move(*best_tables), options.jit_rule);
}

const RouteTables* LayerRun::tables() const {
  if (rule_) return nullptr;
  return &tables_in_use(router_.tables, router_.workspace, router_.plan);
}

// The shared experts stay at home; the loads of the routed ones are the rule's.
void LayerRun::apply_rule_to_batch() {
  const RouteTables& t = router_.tables.standing;
  std::vector<int32_t> load(num_experts(), 0), home(num_experts());
  for (size_t i = 0; i < counts.size(); ++i) load[i % load.size()] += counts[i];
  for (int e = 0; e < num_experts(); ++e) home[e] = t.replicas.rank[t.replicas.begin[e]];
  const JitOptions& jit = t.options.jit;
  const JitRuleResult result =
      apply_rule(*rule_, load, home, num_ranks(), jit.slots_per_rank, jit.min_tokens);
  num_rule_copies_ = result.num_copies;
  RoutePlan& plan = router_.plan.route;
  for (int r = 0; r < num_ranks(); ++r) {
    plan.rank_load[r] =
        result.rank_load[r] * t.options.shared_cost.den +
        int64_t{active_tokens[r]} * t.options.num_shared_experts * t.options.shared_cost.num;
  }
  plan.max_load = *std::ranges::max_element(plan.rank_load);
}

Status LayerRun::route_batch() {
  for (LayerRouter* router : {&best_, &router_}) {
    Status done = jit_route(router->tables, counts, active_tokens, router->workspace, router->plan);
    if (!done.ok()) return done;
  }
  if (rule_) apply_rule_to_batch();
  return ok_status();
}

void LayerRun::add_samples() {
  const RoutePlan& of_batch = router_.plan.route;
  const auto total = static_cast<double>(
      std::accumulate(of_batch.rank_load.begin(), of_batch.rank_load.end(), int64_t{0}));
  if (total == 0) return;
  const double mean = total / num_ranks();
  const auto max = static_cast<double>(of_batch.max_load);
  constexpr double kSmall = 1e-5;  // SGLang's
  const JitPlan& copies = router_.plan;
  const bool may_copy = route_options().jit.slots_per_rank > 0;  // to the level load, no further
  const int64_t bound = may_copy ? copies.level_max : best_.plan.route.lower_bound;
  samples.max_over_mean.push_back(max / mean);
  samples.bound_over_mean.push_back(rule_ ? 1 : static_cast<double>(bound) / mean);
  samples.sum_max += max;
  samples.sum_mean += mean;
  samples.sum_balancedness += (mean + kSmall) / (max + kSmall);
  for (int r = 0; r < num_ranks(); ++r) samples.rank_load[r] += of_batch.rank_load[r];
  for (const int32_t tokens : of_batch.routed) samples.num_pairs += tokens;
  for (const int32_t tokens : active_tokens) {
    samples.num_pairs += int64_t{tokens} * route_options().num_shared_experts;
  }
  samples.num_remote_pairs += of_batch.num_messages;
  samples.num_copies += rule_ ? num_rule_copies_ : static_cast<int64_t>(copies.copies.size());
  samples.min_copies += copies.min_copies;
  samples.standing_ns += copies.standing_ns;
  samples.predicted_ns += copies.predicted_ns;
}

}  // namespace plimsoll
