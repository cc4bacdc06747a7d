// No worse than the others: where another algorithm's placement has a smaller maximum, plimsoll
// starts from that one.
#include <algorithm>

#include "balance/measure/bounds.h"
#include "balance/measure/each_layer.h"
#include "balance/measure/judge.h"
#include "balance/plan/algorithms.h"
#include "balance/plan/even_plan.h"
#include "balance/plan/plan_check.h"
#include "balance/plan/plimsoll.h"
#include "balance/plan/search.h"
#include "balance/plan/static_plan.h"

namespace plimsoll {
namespace {

LayerPlan layer_plan(const Placement& placement, int layer) {
  const auto experts = placement.layer(layer);
  return {placement.num_ranks, placement.slots_per_rank(), {experts.begin(), experts.end()}};
}

// Those that keep to what options.algorithm promises.
std::vector<Placement> plans_of_others(const LoadHistory& load, const PlanOptions& options) {
  std::vector<Placement> plans;
  for (const std::string_view name : eplb_algorithms()) {
    if (name.starts_with("plimsoll") || name == "auto") continue;
    if (options.algorithm.ends_with("_hierarchical") && !name.ends_with("_hierarchical")) continue;
    PlanOptions other{.algorithm = std::string(name),
                      .num_ranks = options.num_ranks,
                      .num_redundant_experts = options.num_redundant_experts,
                      .num_nodes = options.num_nodes,
                      .num_groups = options.num_groups};
    if (!check_plan(load, other).ok()) continue;  // it does not serve such sizes
    Result<Placement> plan = find_algorithm(name)->plan(load, other);
    if (plan.ok()) plans.push_back(std::move(*plan));
  }
  return plans;
}

class Contest {
 public:
  Contest(const LoadHistory& load, const PlanOptions& options)
      : options_(options), num_experts_(load.num_logical_experts), total_(total_load(load)) {}

  int64_t max_load(const LayerPlan& plan, int layer) const {
    return Judge(plan, num_experts_, options_.dispatch, options_.num_nodes).max_load(of(layer));
  }

  // Whether the layer's maximum can be told from the best.
  bool is_open(const LayerPlan& plan, int layer) const {
    return max_load(plan, layer) >
           lower_bound(of(layer), plan.num_ranks, plan.slots_per_rank).value;
  }

  LayerPlan best_of(LayerPlan ours, std::span<const Placement> others, int layer) const {
    int64_t best = max_load(ours, layer);
    bool is_ours = true;
    for (const Placement& other : others) {
      LayerPlan theirs = layer_plan(other, layer);
      const int64_t max = max_load(theirs, layer);
      if (max >= best) continue;
      best = max;
      ours = std::move(theirs);
      is_ours = false;
    }
    if (is_ours || options_.algorithm.ends_with("_hierarchical")) return ours;
    return improved(std::move(ours), layer);
  }

  std::span<const int64_t> total() const { return total_; }

 private:
  std::span<const int64_t> of(int layer) const {
    return std::span(total_).subspan(static_cast<size_t>(layer) * num_experts_, num_experts_);
  }

  LayerPlan improved(LayerPlan plan, int layer) const {
    LayerPlan better = plan;
    if (options_.dispatch == Dispatch::kExact) {
      better = search_placement(plan, of(layer), num_experts_,
                                {.num_proposals = 1000, .max_work = 200'000});
    } else {
      improve_even_plan(better, of(layer), {});
    }
    return max_load(better, layer) < max_load(plan, layer) ? better : plan;
  }

  const PlanOptions& options_;
  const int num_experts_;
  const std::vector<int64_t> total_;
};

}  // namespace

void outdo_others(const LoadHistory& load, const PlanOptions& options, Placement& placement) {
  const Contest contest(load, options);
  std::vector<uint8_t> is_open(load.num_layers);
  for_each_layer(load.num_layers, options.num_threads,
                 [&](int l) { is_open[l] = contest.is_open(layer_plan(placement, l), l); });
  const bool draws = options.dispatch == Dispatch::kStatic && options.num_redundant_experts > 0;
  if (!draws && std::count(is_open.begin(), is_open.end(), 1) == 0) return;
  const std::vector<Placement> others = plans_of_others(load, options);
  for_each_layer(load.num_layers, options.num_threads, [&](int l) {
    if (!is_open[l]) return;
    const LayerPlan best = contest.best_of(layer_plan(placement, l), others, l);
    std::ranges::copy(best.expert, placement.physical_to_logical.begin() +
                                       ptrdiff_t{l} * placement.num_physical_experts);
  });
  if (draws) plan_for_draws(contest.total(), options, others, placement);
}

}  // namespace plimsoll
