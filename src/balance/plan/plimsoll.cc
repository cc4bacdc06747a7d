#include "balance/plan/plimsoll.h"

#include <algorithm>
#include <numeric>

#include "balance/measure/each_layer.h"
#include "balance/measure/judge.h"
#include "balance/plan/align.h"

namespace plimsoll {
namespace {

// Deals the expert groups out to the nodes as if these were ranks, then plans every node by itself.
LayerPlan plan_nodes(const LayerLoad& load, const PlanOptions& options, int slots_per_rank) {
  const int group_size = load.num_experts() / options.num_groups;
  LayerLoad groups{.total_counts = load.total_counts};
  for (size_t i = 0; i < load.total.size(); i += group_size) {
    groups.total.push_back(
        std::accumulate(&load.total[i], &load.total[i] + group_size, int64_t{0}));
  }
  for (size_t i = 0; i < load.steps.size(); i += group_size) {
    groups.steps.push_back(
        std::accumulate(&load.steps[i], &load.steps[i] + group_size, int64_t{0}));
  }
  const LayerPlan nodes = plan_ranks(groups, options.num_nodes,
                                     options.num_groups / options.num_nodes, Dispatch::kExact, 1);
  LayerPlan plan{options.num_ranks, slots_per_rank, {}};
  for (int node = 0; node < options.num_nodes; ++node) {
    std::vector<int32_t> experts;
    for (int i = 0; i < nodes.slots_per_rank; ++i) {
      const int group = nodes.expert[node * nodes.slots_per_rank + i];
      for (int j = 0; j < group_size; ++j) experts.push_back(group * group_size + j);
    }
    const LayerPlan part =
        plan_ranks(select_experts(load, experts), options.num_ranks / options.num_nodes,
                   slots_per_rank, options.dispatch, 1);
    for (const int32_t e : part.expert) plan.expert.push_back(experts[e]);
  }
  return plan;
}

}  // namespace

LayerPlan plan_layer(const LayerLoad& load, const PlanOptions& options) {
  const int slots_per_rank =
      (load.num_experts() + options.num_redundant_experts) / options.num_ranks;
  return options.algorithm == "plimsoll_hierarchical"
             ? plan_nodes(load, options, slots_per_rank)
             : plan_ranks(load, options.num_ranks, slots_per_rank, options.dispatch,
                          options.num_nodes);
}

int64_t sum_of_maxima(const LayerPlan& plan,
                      std::span<const int64_t> steps,
                      size_t num_experts,
                      const PlanOptions& options) {
  return Judge(plan, static_cast<int>(num_experts), options.dispatch, options.num_nodes)
      .sum_of_maxima(steps);
}

namespace {

// Names the ranks after those in force, but where the dispatch minds which ranks share a node, or
// what is drawn for whom.
void align_layers(Placement& placement, const PlanOptions& options) {
  const bool any_names = options.dispatch == Dispatch::kExact ||
                         options.dispatch == Dispatch::kEven ||
                         (options.dispatch == Dispatch::kDynamic && options.num_nodes == 1);
  if (!any_names) return;
  for (int l = 0; l < placement.num_layers; ++l) {
    const auto named = placement.layer(l);
    LayerPlan plan{placement.num_ranks, placement.slots_per_rank(), {named.begin(), named.end()}};
    align(plan, options.in_force.layer(l));
    std::ranges::copy(plan.expert, placement.physical_to_logical.begin() +
                                       ptrdiff_t{l} * placement.num_physical_experts);
  }
}

}  // namespace

Result<Placement> plan_plimsoll(const LoadHistory& load, const PlanOptions& options) {
  Placement placement;
  placement.num_layers = load.num_layers;
  placement.num_logical_experts = load.num_logical_experts;
  placement.num_physical_experts = load.num_logical_experts + options.num_redundant_experts;
  placement.num_ranks = options.num_ranks;
  const size_t slots = placement.num_physical_experts;
  placement.physical_to_logical.resize(load.num_layers * slots);
  const bool has_in_force = options.in_force.num_layers > 0;
  if (has_in_force && options.max_moved_experts >= 0) {
    improve_in_force(load, options, placement);
    return placement;
  }
  for_each_layer(load.num_layers, options.num_threads, [&](int l) {
    const LayerPlan plan = plan_layer(layer_load(load, l), options);
    std::ranges::copy(plan.expert, placement.physical_to_logical.begin() + l * slots);
  });
  outdo_others(load, options, placement);
  if (has_in_force) align_layers(placement, options);
  return placement;
}

}  // namespace plimsoll
