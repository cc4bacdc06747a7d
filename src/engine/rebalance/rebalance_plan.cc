#include "engine/rebalance/rebalance_plan.h"

#include <algorithm>
#include <numeric>

namespace plimsoll {
namespace {

constexpr int kMaxProposals = 6;  // with few moves

// Sums over the sampled steps of one layer, in (token, expert) pairs.
struct LayerScore {
  double max = 0;
  double mean = 0;
};

// Deals one step's counts of a layer out to the source ranks evenly, the odd tokens in turn.
void spread_over_ranks(std::span<const int64_t> counts, int num_ranks, std::span<int32_t> spread) {
  int64_t turn = 0;
  for (size_t e = 0; e < counts.size(); ++e) {
    for (int r = 0; r < num_ranks; ++r) {
      spread[r * counts.size() + e] = static_cast<int32_t>(counts[e] / num_ranks);
    }
    for (int64_t odd = counts[e] % num_ranks; odd > 0; --odd) {
      ++spread[turn++ % num_ranks * counts.size() + e];
    }
  }
}

// Routes the sampled steps of a layer by its tables, as serving would.
Result<LayerScore> judge(const RebalanceTask& task, int layer_idx, const RouteTables& tables) {
  const size_t num_experts = tables.num_experts;
  RouteWorkspace workspace(tables);
  RoutePlan route_plan(tables);
  std::vector<int32_t> spread(tables.num_ranks * num_experts);
  std::vector<int32_t> active(tables.num_ranks);
  LayerScore score;
  for (int s = 0; s < task.samples.num_steps; ++s) {
    const size_t first =
        (static_cast<size_t>(s) * task.samples.num_layers + layer_idx) * num_experts;
    const auto counts = std::span(task.samples.counts).subspan(first, num_experts);
    spread_over_ranks(counts, tables.num_ranks, spread);
    const int64_t num_tokens =
        std::accumulate(counts.begin(), counts.end(), int64_t{0}) / std::max(task.top_k, 1);
    for (int r = 0; r < tables.num_ranks; ++r) {
      active[r] = static_cast<int32_t>((num_tokens + r) / tables.num_ranks);
    }
    if (Status status = route(tables, spread, active, workspace, route_plan); !status.ok()) {
      return status.error();
    }
    const auto& load = route_plan.rank_load;
    score.max += static_cast<double>(route_plan.max_load);
    score.mean += static_cast<double>(std::accumulate(load.begin(), load.end(), int64_t{0})) /
                  tables.num_ranks;
  }
  return score;
}

struct Choice {
  LayerLayout layout;
  int32_t num_moved = 0;
  double gain = 0;
  double cost = 0;
};

double gain_seconds(const RebalanceTask& task, const LayerScore& now, const LayerScore& then) {
  return (now.max - then.max) / std::max(task.samples.num_steps, 1) * task.costs.seconds_per_pair *
         static_cast<double>(task.num_steps_ahead);
}

// The placements to choose from: the best for the load, and where moving costs, the best within as
// many moves as perfect balance could pay for, half as many, and so on: so that a few moves that
// pay do not carry others that don't.
Result<std::vector<Plan>> propose(const RebalanceTask& task, std::span<const LayerScore> now) {
  PlanOptions options{.algorithm = task.algorithm,
                      .num_ranks = task.in_force.num_ranks,
                      .num_redundant_experts = task.in_force.num_redundant_experts(),
                      .num_nodes = task.num_nodes,
                      .in_force = task.in_force};
  std::vector<Plan> plans;
  Result<Plan> best = make_plan(task.runs, options);
  if (!best.ok()) return best.error();
  plans.push_back(std::move(*best));
  if (task.algorithm != "plimsoll" || task.costs.seconds_per_moved_expert <= 0) return plans;
  double most_gain = 0;
  for (const LayerScore& score : now) {
    most_gain += gain_seconds(task, score, {.max = score.mean});
  }
  const double affordable = most_gain / task.costs.seconds_per_moved_expert;
  const int num_slots = task.in_force.num_layers * task.in_force.num_physical_experts;
  int num_moves = static_cast<int>(std::min<double>(affordable, num_slots));
  for (int i = 0; i < kMaxProposals && num_moves > 0; ++i, num_moves /= 2) {
    options.max_moved_experts = num_moves;
    Result<Plan> few_moves = make_plan(task.runs, options);
    if (!few_moves.ok()) return few_moves.error();
    plans.push_back(std::move(*few_moves));
  }
  return plans;
}

}  // namespace

int RebalancePlan::total_moved() const {
  return std::accumulate(num_moved.begin(), num_moved.end(), 0);
}

Result<RebalancePlan> plan_rebalance(const RebalanceTask& task) {
  std::vector<LayerScore> now;
  for (int l = 0; l < task.in_force.num_layers; ++l) {
    const auto layout = make_layer_layout(task.in_force, l, task.in_force.layer(l), task.route);
    if (!layout.ok()) return layout.error();
    const Result<LayerScore> score = judge(task, l, layout->tables.standing);
    if (!score.ok()) return score.error();
    now.push_back(*score);
  }
  const Result<std::vector<Plan>> plans = propose(task, now);
  if (!plans.ok()) return plans.error();

  std::vector<Choice> choices;
  LayerScore sum_now, sum_then;
  for (int l = 0; l < task.in_force.num_layers; ++l) {
    Choice best;
    double best_max = now[l].max;
    for (const Plan& plan : *plans) {
      Result<LayerLayout> layout =
          make_layer_layout(task.in_force, l, plan.placement.layer(l), task.route);
      if (!layout.ok()) return layout.error();
      const Result<LayerScore> then = judge(task, l, layout->tables.standing);
      if (!then.ok()) return then.error();
      const double gain = gain_seconds(task, now[l], *then);
      const double cost = task.costs.seconds_per_switch +
                          plan.moved_experts[l] * task.costs.seconds_per_moved_expert;
      if (gain - cost <= best.gain - best.cost) continue;
      best = {std::move(*layout), plan.moved_experts[l], gain, cost};
      best_max = then->max;
    }
    sum_now.max += now[l].max;
    sum_then.max += best_max;
    sum_now.mean += now[l].mean;
    if (best.gain > best.cost) choices.push_back(std::move(best));
  }
  std::ranges::stable_sort(choices,
                           [](const Choice& a, const Choice& b) { return a.gain > b.gain; });

  RebalancePlan result;
  if (sum_now.mean > 0) {
    result.max_over_mean_now = sum_now.max / sum_now.mean;
    result.max_over_mean_planned = sum_then.max / sum_now.mean;
  }
  for (Choice& choice : choices) {
    result.gain_seconds += choice.gain;
    result.cost_seconds += choice.cost;
    result.num_moved.push_back(choice.num_moved);
    result.layers.push_back(std::move(choice.layout));
  }
  return result;
}

}  // namespace plimsoll
