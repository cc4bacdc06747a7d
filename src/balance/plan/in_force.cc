// Plans that may move few experts of the placement in force.
#include <algorithm>

#include "balance/plan/align.h"
#include "balance/plan/plimsoll.h"
#include "balance/plan/search.h"

namespace plimsoll {
namespace {

// One layer's placement after so many moves, and the maxima that it leaves.
struct Offer {
  int num_moved = 0;
  int64_t maxima = 0;
  LayerPlan plan;
};

int64_t num_proposals(const LayerPlan& plan, const LayerLoad& load) {
  // About 10 ms a layer: a proposal costs more with more slots and more steps.
  constexpr int64_t kWork = 5'000'000;
  const int64_t cost = int64_t{plan.num_slots()} * (load.num_steps() + 1);
  return std::clamp<int64_t>(kWork / cost, 100, 5000);
}

// What more and more moves buy in one layer: the placement in force, then better and better ones.
std::vector<Offer> make_offers(const LayerLoad& load, const LayerPlan& in_force, int max_moved) {
  const std::vector<int64_t> steps = search_steps(load);
  const int most = std::min(max_moved, in_force.num_slots());
  SearchLimits limits{.num_proposals = num_proposals(in_force, load), .home = in_force.expert};
  std::vector<Offer> offers = {
      {0, sum_of_maxima(in_force, steps, load.num_experts(), {}), in_force}};
  for (int moves = 1; moves <= most; moves = moves < most ? std::min(2 * moves, most) : most + 1) {
    limits.max_moved = moves;
    LayerPlan plan = search_placement(offers.back().plan, steps, load.num_experts(), limits);
    const int64_t maxima = sum_of_maxima(plan, steps, load.num_experts(), {});
    if (maxima >= offers.back().maxima) continue;
    const int num_moved = count_moved(plan, in_force.expert);
    offers.push_back({num_moved, maxima, std::move(plan)});
  }
  return offers;
}

}  // namespace

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

}  // namespace plimsoll
