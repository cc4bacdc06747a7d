// The other goals of --route-objective, from the same counts: the fewest experts at work on the
// fullest rank (the same flow, with whole experts as units), and the shortest time (descent by
// single moves from two starts; not exact, the bound says how far off). See docs/balancing.md.
#include "balance/route/route_objectives.h"

#include <algorithm>
#include <numeric>

#include "balance/route/local_start.h"
#include "balance/route/quotas.h"
#include "balance/route/shared_fill.h"
#include "balance/route/waterline.h"

namespace plimsoll {
namespace {

// Levels the number of experts at work: each is one unit, whole, at home on the rank that asks most
// of it.
void level_experts(const RouteTables& t,
                   std::span<const int32_t> counts,
                   std::span<const int32_t> active_tokens,
                   RouteWorkspace& w,
                   RoutePlan& plan) {
  const LevelGraph& g = t.graph;
  std::fill(w.fixed_load.begin(), w.fixed_load.end(), 0);
  for (int e = 0; e < t.num_experts; ++e) {
    if (t.replicas.count(e) > 1 || w.expert_total[e] == 0) continue;
    ++w.fixed_load[t.replicas.rank[t.replicas.begin[e]]];
  }
  std::copy_n(w.fixed_load.begin(), t.num_ranks, w.start_load.begin());
  for (int item = 0; item < g.num_items; ++item) {
    const int begin = g.item_begin[item];
    const int end = g.item_begin[item + 1];
    const int expert = t.item_expert[item];
    const auto own = [&](int arc) {
      return counts[static_cast<size_t>(g.arc_rank[arc]) * t.num_experts + expert];
    };
    int home = begin;
    for (int arc = begin; arc < end; ++arc) {
      if (own(arc) > own(home)) home = arc;
      w.level.local[arc] = w.start_amount[arc] = 0;
    }
    if (w.expert_total[expert] == 0) continue;
    w.level.local[home] = w.start_amount[home] = 1;
    ++w.start_load[g.arc_rank[home]];
  }
  set_unit_costs(t, 1, w);
  for (int r = 0; r < t.num_ranks; ++r) {
    w.offset[r] = active_tokens[r] > 0 ? t.options.num_shared_experts * t.rank_cost[r] : 0;
  }
  level_under_least_waterline(t, w, plan);
  for (int arc = 0; arc < g.num_arcs(); ++arc) {  // from experts back to tokens
    const int expert = t.item_expert[g.arc_item[arc]];
    w.level.amount[arc] *= w.expert_total[expert];
    w.level.local[arc] = counts[static_cast<size_t>(g.arc_rank[arc]) * t.num_experts + expert];
  }
}

// The time of every rank under an assignment of w.level, and moves that shorten the longest.
class TimeDescent {
 public:
  TimeDescent(const RouteTables& t, std::span<const int32_t> active_tokens, RouteWorkspace& w)
      : t_(t),
        w_(w),
        per_expert_(int64_t{t.options.ns_per_expert} * t.options.shared_cost.den),
        per_token_(int64_t{t.options.ns_per_token} * t.options.shared_cost.den) {
    std::vector<int64_t>& time = w_.level.load;
    for (int r = 0; r < t.num_ranks; ++r) {
      const int64_t num_shared = int64_t{active_tokens[r]} * t.options.num_shared_experts;
      time[r] = num_shared > 0 ? per_expert_ * t.options.num_shared_experts : 0;
      if (!t.options.waterfill) {
        time[r] += num_shared * t.options.shared_cost.num * t.options.ns_per_token;
      }
    }
    for (int e = 0; e < t.num_experts; ++e) {
      if (t.replicas.count(e) > 1 || w.expert_total[e] == 0) continue;
      time[t.replicas.rank[t.replicas.begin[e]]] += per_expert_ + per_token_ * w.expert_total[e];
    }
    for (int arc = 0; arc < t.graph.num_arcs(); ++arc) {
      if (w.level.amount[arc] == 0) continue;
      time[t.graph.arc_rank[arc]] += per_expert_ + per_token_ * w.level.amount[arc];
    }
    for (int r = 0; r < t.num_ranks; ++r) time[r] *= t.rank_cost[r];
  }

  // Moves all of an expert off the slowest rank, or what levels it with another copy's rank: always
  // the move that leaves the slower of the two fastest. Returns the longest time left.
  int64_t run() {
    for (int i = 0; i < 8 * t_.graph.num_arcs(); ++i) {
      if (!relieve(slowest())) break;
    }
    return w_.level.load[slowest()];
  }

 private:
  int slowest() const {
    const auto time = w_.level.load.begin();
    return static_cast<int>(std::max_element(time, time + t_.num_ranks) - time);
  }

  int64_t time_after(int arc, int64_t change) const {
    const int64_t amount = w_.level.amount[arc];
    const int64_t opened = (amount + change > 0) - (amount > 0);
    const int rank = t_.graph.arc_rank[arc];
    return w_.level.load[rank] + t_.rank_cost[rank] * (per_expert_ * opened + per_token_ * change);
  }

  bool relieve(int rank) {
    int64_t best_time = w_.level.load[rank];
    int best_from = -1;
    int best_to = -1;
    int64_t best_tokens = 0;
    const LevelGraph& g = t_.graph;
    for (int i = g.rank_arc_begin[rank]; i < g.rank_arc_begin[rank + 1]; ++i) {
      const int from = g.rank_arcs[i];
      const int64_t all = w_.level.amount[from];
      if (all == 0) continue;
      const int item = g.arc_item[from];
      for (int to = g.item_begin[item]; to < g.item_begin[item + 1]; ++to) {
        if (to == from) continue;
        for (const int64_t tokens : {all, levelling_tokens(from, to)}) {
          const int64_t time = std::max(time_after(from, -tokens), time_after(to, tokens));
          if (time >= best_time) continue;
          best_time = time, best_from = from, best_to = to, best_tokens = tokens;
        }
      }
    }
    if (best_from < 0) return false;
    w_.level.load[rank] = time_after(best_from, -best_tokens);
    w_.level.load[g.arc_rank[best_to]] = time_after(best_to, best_tokens);
    w_.level.amount[best_from] -= best_tokens;
    w_.level.amount[best_to] += best_tokens;
    return true;
  }

  int64_t levelling_tokens(int from, int to) const {
    const int64_t all = w_.level.amount[from];
    const int64_t rate =
        per_token_ * (t_.rank_cost[t_.graph.arc_rank[from]] + t_.rank_cost[t_.graph.arc_rank[to]]);
    if (rate == 0) return all;
    const int64_t ahead = w_.level.load[t_.graph.arc_rank[from]] - time_after(to, 1);
    return std::clamp<int64_t>(ahead / rate, 1, all);
  }

  const RouteTables& t_;
  RouteWorkspace& w_;
  const int64_t per_expert_;
  const int64_t per_token_;
};

// Shared experts go where time is left, those at home first.
void fill_time_with_shared(const RouteTables& t,
                           std::span<const int32_t> active_tokens,
                           RouteWorkspace& w,
                           RoutePlan& plan) {
  const int64_t lump = int64_t{t.options.shared_cost.num} * t.options.ns_per_token;
  int64_t num_to_place = 0;
  for (int r = 0; r < t.num_ranks; ++r) {
    w.offset[r] = w.level.load[r];
    w.unit_cost[r] = t.rank_cost[r] * lump;
    w.level.is_queued[r] = t.rank_cost[r] > 0;
    num_to_place += int64_t{active_tokens[r]} * t.options.num_shared_experts;
  }
  if (lump == 0) {
    const auto own = [&](int r) {
      return int64_t{active_tokens[r]} * t.options.num_shared_experts;
    };
    return pour_shared(t, active_tokens, own, w, plan);
  }
  const int64_t longest = *std::max_element(w.offset.begin(), w.offset.end());
  const int64_t waterline = least_waterline(w, w.level.is_queued, num_to_place, longest);
  const auto room = [&](int r) { return room_under(w, r, waterline); };
  pour_shared(t, active_tokens, room, w, plan);
}

// No assignment takes less time than the tokens of its fullest rank take, one expert at work there,
// nor than the experts of the rank with most of them, a token each.
int64_t time_bound(const RouteTables& t, int64_t token_waterline, int64_t expert_waterline) {
  const int64_t den = t.options.shared_cost.den;
  const int64_t per_expert = int64_t{t.options.ns_per_expert} * den;
  const int64_t by_tokens =
      token_waterline * t.options.ns_per_token + (token_waterline > 0) * per_expert;
  return std::max(by_tokens, expert_waterline * per_expert);
}

// Nor than when all ranks share alike what the experts at work, each on one rank, and the tokens
// take.
void raise_to_shared_time(const RouteTables& t,
                          std::span<const int32_t> active_tokens,
                          RouteWorkspace& w,
                          RoutePlan& plan) {
  const RouteOptions& o = t.options;
  int64_t at_work = 0, num_sources = 0, num_shared = 0, num_routed = 0;
  for (const int32_t tokens : w.expert_total) at_work += tokens > 0, num_routed += tokens;
  for (const int32_t tokens : active_tokens) num_sources += tokens > 0, num_shared += tokens;
  at_work += o.num_shared_experts * (o.waterfill ? std::min<int64_t>(num_sources, 1) : num_sources);
  const int64_t token_cost =
      num_routed * o.shared_cost.den + num_shared * o.num_shared_experts * o.shared_cost.num;
  set_unit_costs(t, 1, w);
  std::fill(w.offset.begin(), w.offset.end(), 0);
  std::vector<uint8_t>& alive = w.level.is_queued;
  for (int r = 0; r < t.num_ranks; ++r) alive[r] = t.rank_cost[r] > 0;
  const int64_t shared_alike = least_waterline(
      w, alive, at_work * o.ns_per_expert * o.shared_cost.den + token_cost * o.ns_per_token,
      plan.lower_bound);
  if (shared_alike == plan.lower_bound) return;
  plan.lower_bound = shared_alike;
  std::copy(alive.begin(), alive.end(), plan.bound_ranks.begin());
}

void route_time(const RouteTables& t,
                std::span<const int32_t> counts,
                std::span<const int32_t> active_tokens,
                RouteWorkspace& w,
                RoutePlan& plan) {
  const auto amount = w.level.amount.begin();
  std::copy_n(w.fixed_load.begin(), t.num_ranks, w.start_load.begin());
  start_in_equal_shares(t, counts, active_tokens, w);
  set_unit_costs(t, t.options.shared_cost.den, w);
  level_under_least_waterline(t, w, plan);
  const int64_t token_waterline = plan.lower_bound;
  const int64_t longest_by_tokens = TimeDescent(t, active_tokens, w).run();
  std::copy_n(amount, t.graph.num_arcs(), w.best_amount.begin());

  level_experts(t, counts, active_tokens, w, plan);
  plan.lower_bound = time_bound(t, token_waterline, plan.lower_bound);
  std::fill(plan.bound_ranks.begin(), plan.bound_ranks.end(), 0);
  raise_to_shared_time(t, active_tokens, w, plan);
  const int64_t longest_by_experts = TimeDescent(t, active_tokens, w).run();
  if (longest_by_tokens < longest_by_experts) {
    std::copy_n(w.best_amount.begin(), t.graph.num_arcs(), amount);
  }
  if (!t.options.waterfill) return;
  TimeDescent(t, active_tokens, w).run();  // for the times of the better one
  fill_time_with_shared(t, active_tokens, w, plan);
}

}  // namespace

void route_objective(const RouteTables& t,
                     std::span<const int32_t> counts,
                     std::span<const int32_t> active_tokens,
                     RouteWorkspace& w,
                     RoutePlan& plan) {
  if (t.options.objective == RouteObjective::kExperts) {
    level_experts(t, counts, active_tokens, w, plan);
  } else {
    route_time(t, counts, active_tokens, w, plan);
  }
  expand_items(t, counts, active_tokens, w, plan);
}

void to_objective(const RouteTables& t, RoutePlan& plan) {
  const RouteOptions& o = t.options;
  const int slots_per_rank = t.num_slots / t.num_ranks;
  for (int r = 0; r < t.num_ranks; ++r) {
    int64_t& load = plan.rank_load[r];
    if (o.objective != RouteObjective::kTokens) {
      const auto is_used = [&](std::span<const int32_t> quotas, int stride, int at) {
        for (int s = 0; s < t.num_ranks; ++s) {
          if (quotas[static_cast<size_t>(s) * stride + at] > 0) return true;
        }
        return false;
      };
      int64_t at_work = is_used(plan.shared, t.num_ranks, r) ? o.num_shared_experts : 0;
      for (int slot = r * slots_per_rank; slot < (r + 1) * slots_per_rank; ++slot) {
        at_work += is_used(plan.routed, t.num_slots, slot);
      }
      load = o.objective == RouteObjective::kExperts
                 ? at_work
                 : at_work * o.ns_per_expert * o.shared_cost.den + load * o.ns_per_token;
    }
    load *= t.rank_cost[r];
  }
}

}  // namespace plimsoll
