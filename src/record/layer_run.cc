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
  return best;
}

}  // namespace

LayerRun::LayerRun(RouteTables tables, RouteTables best_tables, const ReplayOptions& options)
    : options_(options), router_(std::move(tables)), best_(std::move(best_tables)) {
  counts.resize(static_cast<size_t>(num_ranks()) * num_experts());
  active_tokens.resize(num_ranks());
  samples.rank_load.assign(num_ranks(), 0);
}

Result<LayerRun> LayerRun::make(const Placement& placement,
                                int layer_idx,
                                const RouteOptions& route,
                                const ReplayOptions& options) {
  Result<RouteTables> tables = make_route_tables(placement, layer_idx, route);
  if (!tables.ok()) return tables.error();
  Result<RouteTables> best_tables = make_route_tables(placement, layer_idx, best_route(route));
  if (!best_tables.ok()) return best_tables.error();
  LayerRun run(std::move(*tables), std::move(*best_tables), options);
  if (options.jit_rule) {
    if (placement.num_redundant_experts() == 0) return run;
    return invalid_argument(
        "the rules of UltraEP and MoonEP know experts with one copy; the "
        "placement has " +
        std::to_string(placement.num_redundant_experts()) + " more");
  }
  if (options.jit) {
    Result<JitTables> jit = make_jit_tables(placement, layer_idx, route, *options.jit);
    if (!jit.ok()) return jit.error();
    run.jit_.emplace(std::move(*jit));
  }
  return run;
}

const RouteTables* LayerRun::tables() const {
  if (options_.jit_rule) return nullptr;
  if (!jit_) return &router_.tables;
  return jit_->plan.copies.empty() ? &jit_->tables.standing : &jit_->workspace.extended;
}

// The shared experts stay at home; the loads of the routed ones are the rule's.
void LayerRun::apply_rule_to_batch() {
  const RouteTables& t = router_.tables;
  std::vector<int32_t> load(num_experts(), 0), home(num_experts());
  for (size_t i = 0; i < counts.size(); ++i) load[i % load.size()] += counts[i];
  for (int e = 0; e < num_experts(); ++e) home[e] = t.replicas.rank[t.replicas.begin[e]];
  const JitOptions jit = options_.jit.value_or(JitOptions{});
  const JitRuleResult result =
      apply_rule(*options_.jit_rule, load, home, num_ranks(), jit.slots_per_rank, jit.min_tokens);
  num_rule_copies_ = result.num_copies;
  RoutePlan& plan = router_.plan;
  for (int r = 0; r < num_ranks(); ++r) {
    plan.rank_load[r] =
        result.rank_load[r] * t.options.shared_cost.den +
        int64_t{active_tokens[r]} * t.options.num_shared_experts * t.options.shared_cost.num;
  }
  plan.max_load = *std::ranges::max_element(plan.rank_load);
}

Status LayerRun::route_batch() {
  if (Status done = route(best_.tables, counts, active_tokens, best_.workspace, best_.plan);
      !done.ok()) {
    return done;
  }
  if (jit_) return jit_route(jit_->tables, counts, active_tokens, jit_->workspace, jit_->plan);
  Status done = route(router_.tables, counts, active_tokens, router_.workspace, router_.plan);
  if (done.ok() && options_.jit_rule) apply_rule_to_batch();
  return done;
}

void LayerRun::add_samples() {
  const RoutePlan& of_batch = plan();
  const auto total = static_cast<double>(
      std::accumulate(of_batch.rank_load.begin(), of_batch.rank_load.end(), int64_t{0}));
  if (total == 0) return;
  const double mean = total / num_ranks();
  const auto max = static_cast<double>(of_batch.max_load);
  constexpr double kSmall = 1e-5;  // SGLang's
  // With copies nothing is below the level load.
  const int64_t bound = jit_ ? jit_->plan.level_max : best_.plan.lower_bound;
  samples.max_over_mean.push_back(max / mean);
  samples.bound_over_mean.push_back(options_.jit_rule ? 1 : static_cast<double>(bound) / mean);
  samples.sum_max += max;
  samples.sum_mean += mean;
  samples.sum_balancedness += (mean + kSmall) / (max + kSmall);
  for (int r = 0; r < num_ranks(); ++r) samples.rank_load[r] += of_batch.rank_load[r];
  for (const int32_t tokens : of_batch.routed) samples.num_pairs += tokens;
  for (const int32_t tokens : active_tokens) {
    samples.num_pairs += int64_t{tokens} * route_options().num_shared_experts;
  }
  samples.num_remote_pairs += of_batch.num_messages;
  samples.num_copies += jit_ ? static_cast<int64_t>(jit_->plan.copies.size()) : num_rule_copies_;
  if (!jit_) return;
  samples.min_copies += jit_->plan.min_copies;
  samples.standing_ns += jit_->plan.standing_ns;
  samples.predicted_ns += jit_->plan.predicted_ns;
}

}  // namespace plimsoll
