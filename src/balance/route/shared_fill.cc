// A shared expert that costs other than a routed one cannot be an item of the flow. Here it is
// water-filled in lumps over levelled ranks; where there are few ways to deal it out, every one is
// tried and the flow run for each. See "Other goals" in docs/balancing.md.
#include "balance/route/shared_fill.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "balance/route/waterline.h"

namespace plimsoll {
namespace {

// Every way to deal so many shared experts out over the ranks is tried, if there are no more.
constexpr int64_t kMaxWays = 500;

int64_t num_shared(const RouteTables& t, std::span<const int32_t> active_tokens) {
  return std::accumulate(active_tokens.begin(), active_tokens.end(), int64_t{0}) *
         t.options.num_shared_experts;
}

// C(num + bins - 1, bins - 1), or more than kMaxWays.
int64_t ways_to_deal(int64_t num, int bins) {
  int64_t ways = 1;
  for (int i = 1; i < bins && ways <= kMaxWays; ++i) ways = ways * (num + i) / i;
  return ways;
}

// Shared experts that fit on a rank beside its routed ones.
int64_t room_for_shared(const RouteTables& t,
                        const RouteWorkspace& w,
                        int rank,
                        int64_t waterline) {
  if (t.rank_cost[rank] == 0) return 0;
  const CostRatio cost = t.options.shared_cost;
  return (waterline / t.rank_cost[rank] - w.level.load[rank] * cost.den) / cost.num;
}

int64_t least_waterline_for_shared(const RouteTables& t,
                                   const RouteWorkspace& w,
                                   int64_t from,
                                   int64_t num_to_place) {
  for (int64_t waterline = from;; ++waterline) {  // fewer steps than a shared expert costs
    int64_t room = 0;
    for (int r = 0; r < t.num_ranks; ++r) room += room_for_shared(t, w, r, waterline);
    if (room >= num_to_place) return waterline;
  }
}

// Tries every way to deal the shared experts out under a waterline, for the fewest messages. The
// ways are counted through in the order of their digits, one a rank.
class EveryWay {
 public:
  EveryWay(const RouteTables& t, std::span<const int32_t> active_tokens, RouteWorkspace& w)
      : t_(t), active_tokens_(active_tokens), w_(w) {}

  // Leaves the best way in w.level and w.supply (shared experts a rank takes).
  bool run(int64_t waterline, int64_t num_to_place) {
    waterline_ = waterline;
    fewest_ = std::numeric_limits<int64_t>::max();
    try_from(0, num_to_place, 0);
    return fewest_ < std::numeric_limits<int64_t>::max();
  }

 private:
  void try_from(int rank, int64_t left, int64_t messages) {
    if (rank == t_.num_ranks) {
      if (left == 0) try_levelling(messages);
      return;
    }
    const int64_t own = int64_t{active_tokens_[rank]} * t_.options.num_shared_experts;
    const CostRatio cost = t_.options.shared_cost;
    const int64_t room = t_.rank_cost[rank] == 0 ? 0 : waterline_ / t_.rank_cost[rank] / cost.num;
    for (int64_t here = 0; here <= std::min(left, room); ++here) {
      w_.quota[rank] = static_cast<int32_t>(here);
      try_from(rank + 1, left - here, messages + std::max<int64_t>(here - own, 0));
    }
  }

  void try_levelling(int64_t messages) {
    if (messages >= fewest_) return;
    const CostRatio cost = t_.options.shared_cost;
    std::copy_n(w_.start_amount.begin(), t_.graph.num_arcs(), w_.level.amount.begin());
    std::copy_n(w_.start_load.begin(), t_.num_ranks, w_.level.load.begin());
    for (int r = 0; r < t_.num_ranks; ++r) {
      w_.level.capacity[r] =
          t_.rank_cost[r] == 0 ? 0
                               : (waterline_ / t_.rank_cost[r] - w_.quota[r] * cost.num) / cost.den;
    }
    if (!level(t_.graph, w_.level)) return;
    for (int arc = 0; arc < t_.graph.num_arcs(); ++arc) {
      messages += std::max<int64_t>(w_.level.amount[arc] - w_.level.local[arc], 0);
    }
    if (messages >= fewest_) return;
    fewest_ = messages;
    std::copy_n(w_.level.amount.begin(), t_.graph.num_arcs(), w_.best_amount.begin());
    std::copy_n(w_.quota.begin(), t_.num_ranks, w_.supply.begin());
  }

  const RouteTables& t_;
  const std::span<const int32_t> active_tokens_;
  RouteWorkspace& w_;
  int64_t waterline_ = 0;
  int64_t fewest_ = 0;
};

}  // namespace

void fill_with_shared(const RouteTables& t,
                      std::span<const int32_t> active_tokens,
                      RouteWorkspace& w,
                      RoutePlan& plan) {
  const CostRatio cost = t.options.shared_cost;
  const int64_t num_to_place = num_shared(t, active_tokens);
  if (cost.num == 0) {
    const auto own = [&](int r) {
      return int64_t{active_tokens[r]} * t.options.num_shared_experts;
    };
    return pour_shared(t, active_tokens, own, w, plan);
  }
  const auto loads = w.start_load.begin();
  const int64_t num_routed = std::accumulate(loads, loads + t.num_ranks, int64_t{0});
  set_unit_costs(t, 1, w);
  std::vector<uint8_t>& alive = w.level.is_queued;
  for (int r = 0; r < t.num_ranks; ++r) alive[r] = t.rank_cost[r] > 0;
  const int64_t of_all =
      least_waterline(w, alive, num_routed * cost.den + num_to_place * cost.num, plan.lower_bound);
  if (of_all > plan.lower_bound) {
    plan.lower_bound = of_all;
    std::copy(alive.begin(), alive.end(), plan.bound_ranks.begin());
  }
  const int num_active = static_cast<int>(
      std::count_if(t.rank_cost.begin(), t.rank_cost.end(), [](int32_t c) { return c > 0; }));
  if (ways_to_deal(num_to_place, num_active) <= kMaxWays) {
    EveryWay every_way(t, active_tokens, w);
    while (!every_way.run(plan.lower_bound, num_to_place)) {
      ++plan.lower_bound;  // no rank set proves it, but every way was tried
      std::fill(plan.bound_ranks.begin(), plan.bound_ranks.end(), 0);
    }
    std::copy_n(w.best_amount.begin(), t.graph.num_arcs(), w.level.amount.begin());
    std::copy_n(w.supply.begin(), t.num_ranks, w.quota.begin());
    return pour_shared(
        t, active_tokens, [&](int r) { return w.quota[r]; }, w, plan);
  }
  const int64_t waterline = least_waterline_for_shared(t, w, plan.lower_bound, num_to_place);
  const auto room = [&](int r) { return room_for_shared(t, w, r, waterline); };
  pour_shared(t, active_tokens, room, w, plan);
}

}  // namespace plimsoll
