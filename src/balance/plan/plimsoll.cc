#include "balance/plan/plimsoll.h"

#include <algorithm>
#include <numeric>

#include "balance/plan/align.h"
#include "balance/plan/exact_load.h"
#include "balance/plan/exchange.h"
#include "balance/plan/layer_plan.h"
#include "balance/plan/search.h"

namespace plimsoll {
namespace {

LayerLoad select(const LayerLoad& load, std::span<const int32_t> experts) {
  LayerLoad selected{.total_counts = load.total_counts};
  for (const int32_t e : experts) selected.total.push_back(load.total[e]);
  for (int t = 0; t < load.num_steps(); ++t) {
    for (const int32_t e : experts) {
      selected.steps.push_back(load.steps[static_cast<size_t>(t) * load.num_experts() + e]);
    }
  }
  return selected;
}

// The steps and, weighing as much as they do together, their total.
std::vector<int64_t> search_steps(const LayerLoad& load) {
  if (load.num_steps() == 1 || !load.total_counts) return load.steps;
  std::vector<int64_t> steps = load.steps;
  steps.insert(steps.end(), load.total.begin(), load.total.end());
  return steps;
}

int64_t num_proposals(const LayerPlan& plan, const LayerLoad& load) {
  // About 10 ms a layer: a proposal costs more with more slots and more steps.
  constexpr int64_t kWork = 5'000'000;
  const int64_t cost = int64_t{plan.num_slots()} * (load.num_steps() + 1);
  return std::clamp<int64_t>(kWork / cost, 100, 5000);
}

// The experts by falling load, then by what each step asked of them: planning in this order makes
// the plan independent of their numbers.
std::vector<int32_t> canonical_order(const LayerLoad& load) {
  std::vector<int32_t> order(load.total.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    if (load.total[a] != load.total[b]) return load.total[a] > load.total[b];
    for (size_t row = 0; row < load.steps.size(); row += load.total.size()) {
      if (load.steps[row + a] != load.steps[row + b])
        return load.steps[row + a] > load.steps[row + b];
    }
    return false;
  });
  return order;
}

LayerPlan plan_ranks(const LayerLoad& named, int num_ranks, int slots_per_rank) {
  const std::vector<int32_t> order = canonical_order(named);
  const LayerLoad load = select(named, order);
  LayerPlan plan = start_plan(load.total, num_ranks, slots_per_rank);
  if (plan.num_slots() == load.num_experts()) {
    exchange_experts(plan, load.steps, load.total);
  } else {
    SearchLimits limits;
    limits.num_proposals = num_proposals(plan, load);
    const std::vector<int64_t> steps = search_steps(load);
    LayerPlan found = search_placement(plan, steps, load.num_experts(), limits);
    if (found.expert != plan.expert && sum_of_maxima(found, steps, load.num_experts()) <=
                                           sum_of_maxima(plan, steps, load.num_experts())) {
      plan = std::move(found);
    }
  }
  for (int32_t& e : plan.expert) e = order[e];
  return plan;
}

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
  const LayerPlan nodes =
      plan_ranks(groups, options.num_nodes, options.num_groups / options.num_nodes);
  LayerPlan plan{options.num_ranks, slots_per_rank, {}};
  for (int node = 0; node < options.num_nodes; ++node) {
    std::vector<int32_t> experts;
    for (int i = 0; i < nodes.slots_per_rank; ++i) {
      const int group = nodes.expert[node * nodes.slots_per_rank + i];
      for (int j = 0; j < group_size; ++j) experts.push_back(group * group_size + j);
    }
    const LayerPlan part =
        plan_ranks(select(load, experts), options.num_ranks / options.num_nodes, slots_per_rank);
    for (const int32_t e : part.expert) plan.expert.push_back(experts[e]);
  }
  return plan;
}

}  // namespace

int64_t sum_of_maxima(const LayerPlan& plan, std::span<const int64_t> steps, size_t num_experts) {
  const Placement placement{1, static_cast<int>(num_experts), plan.num_slots(), plan.num_ranks,
                            plan.expert};
  ExactLoad exact(replica_table(placement, 0), plan.num_ranks);
  int64_t sum = 0;
  for (size_t row = 0; row < steps.size(); row += num_experts) {
    sum += exact.max_load(steps.subspan(row, num_experts));
  }
  return sum;
}

LayerPlan plan_layer(const LayerLoad& load, const PlanOptions& options) {
  const int slots_per_rank =
      (load.num_experts() + options.num_redundant_experts) / options.num_ranks;
  return options.algorithm == "plimsoll_hierarchical"
             ? plan_nodes(load, options, slots_per_rank)
             : plan_ranks(load, options.num_ranks, slots_per_rank);
}

namespace {

// One layer's placement after so many moves, and the maxima that it leaves.
struct Offer {
  int num_moved = 0;
  int64_t maxima = 0;
  LayerPlan plan;
};

// What more and more moves buy in one layer: the placement in force, then better and better ones.
std::vector<Offer> make_offers(const LayerLoad& load, const LayerPlan& in_force, int max_moved) {
  const std::vector<int64_t> steps = search_steps(load);
  const int most = std::min(max_moved, in_force.num_slots());
  SearchLimits limits{.num_proposals = num_proposals(in_force, load), .home = in_force.expert};
  std::vector<Offer> offers = {{0, sum_of_maxima(in_force, steps, load.num_experts()), in_force}};
  for (int moves = 1; moves <= most; moves = moves < most ? std::min(2 * moves, most) : most + 1) {
    limits.max_moved = moves;
    LayerPlan plan = search_placement(offers.back().plan, steps, load.num_experts(), limits);
    const int64_t maxima = sum_of_maxima(plan, steps, load.num_experts());
    if (maxima >= offers.back().maxima) continue;
    const int num_moved = count_moved(plan, in_force.expert);
    offers.push_back({num_moved, maxima, std::move(plan)});
  }
  return offers;
}

// Spends the moves where they lower the maxima most for each.
void improve_in_force(const LoadHistory& load, const PlanOptions& options, Placement& placement) {
  std::vector<std::vector<Offer>> offers;  // [layer]
  for (int l = 0; l < load.num_layers; ++l) {
    const auto experts = options.in_force.layer(l);
    const LayerPlan in_force{
        placement.num_ranks, placement.slots_per_rank(), {experts.begin(), experts.end()}};
    offers.push_back(make_offers(layer_load(load, l), in_force, options.max_moved_experts));
  }
  std::vector<size_t> taken(offers.size(), 0);
  for (int left = options.max_moved_experts;;) {
    double best_gain = 0;
    size_t best_layer = 0;
    size_t best_offer = 0;
    for (size_t l = 0; l < offers.size(); ++l) {
      const Offer& now = offers[l][taken[l]];
      for (size_t i = taken[l] + 1; i < offers[l].size(); ++i) {
        const int moves = offers[l][i].num_moved - now.num_moved;
        const double gain = static_cast<double>(now.maxima - offers[l][i].maxima) / moves;
        if (moves > left || gain <= best_gain) continue;
        best_gain = gain;
        best_layer = l;
        best_offer = i;
      }
    }
    if (best_gain == 0) break;
    left -=
        offers[best_layer][best_offer].num_moved - offers[best_layer][taken[best_layer]].num_moved;
    taken[best_layer] = best_offer;
  }
  for (size_t l = 0; l < offers.size(); ++l) {
    std::ranges::copy(offers[l][taken[l]].plan.expert,
                      placement.physical_to_logical.begin() +
                          static_cast<ptrdiff_t>(l) * placement.num_physical_experts);
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
  for (int l = 0; l < load.num_layers; ++l) {
    LayerPlan plan = plan_layer(layer_load(load, l), options);
    if (has_in_force) align(plan, options.in_force.layer(l));
    std::copy(plan.expert.begin(), plan.expert.end(),
              placement.physical_to_logical.begin() + l * slots);
  }
  return placement;
}

}  // namespace plimsoll
