// The least maximum load, from the start of the flow: try a lower bound; where the flow is stuck,
// the ranks that cannot reach room are a minimum cut, and the waterline rises to what must fit
// there. See "The least waterline" in docs/balancing.md.
#include "balance/route/waterline.h"

#include <algorithm>
#include <numeric>

#include "balance/route/local_start.h"

namespace plimsoll {
namespace {

// The bounds that need no search: a rank's own fixed load, and all ranks together.
void start_bound(const RouteTables& t, const RouteWorkspace& w, RoutePlan& plan) {
  int fullest = 0;
  plan.lower_bound = 0;
  for (int r = 0; r < t.num_ranks; ++r) {
    const int64_t load = w.fixed_load[r] * w.unit_cost[r] + w.offset[r];
    if (load > plan.lower_bound) plan.lower_bound = load, fullest = r;
    plan.bound_ranks[r] = w.unit_cost[r] > 0;
  }
  const auto start = w.start_load.begin();
  const int64_t num_units = std::accumulate(start, start + t.num_ranks, int64_t{0});
  const int64_t of_all = least_waterline(w, plan.bound_ranks, num_units, plan.lower_bound);
  if (of_all > plan.lower_bound) {
    plan.lower_bound = of_all;
  } else {
    std::fill(plan.bound_ranks.begin(), plan.bound_ranks.end(), 0);
    plan.bound_ranks[fullest] = 1;
  }
}

}  // namespace

void set_unit_costs(const RouteTables& t, int64_t cost, RouteWorkspace& w) {
  for (int r = 0; r < t.num_ranks; ++r) w.unit_cost[r] = t.rank_cost[r] * cost;
}

int64_t least_waterline(const RouteWorkspace& w,
                        std::span<const uint8_t> marked,
                        int64_t num_units,
                        int64_t from) {
  const auto has_room = [&](int64_t waterline) {
    int64_t room = 0;
    for (size_t r = 0; r < marked.size(); ++r) {
      if (marked[r]) room += room_under(w, static_cast<int>(r), waterline);
    }
    return room >= num_units;
  };
  if (has_room(from)) return from;
  int64_t step = 1;
  while (!has_room(from + step)) from += step, step *= 2;
  int64_t enough = from + step;
  while (enough - from > 1) {
    const int64_t middle = from + (enough - from) / 2;
    (has_room(middle) ? enough : from) = middle;
  }
  return enough;
}

void level_under_least_waterline(const RouteTables& t, RouteWorkspace& w, RoutePlan& plan) {
  start_bound(t, w, plan);
  for (int r = 0; r < t.num_ranks; ++r) {
    w.level.capacity[r] = room_under(w, r, plan.lower_bound);
  }
  spread_free_units(t, w);
  for (;;) {
    std::copy_n(w.start_amount.begin(), t.graph.num_arcs(), w.level.amount.begin());
    std::copy_n(w.start_load.begin(), t.num_ranks, w.level.load.begin());
    for (int r = 0; r < t.num_ranks; ++r) {
      w.level.capacity[r] = room_under(w, r, plan.lower_bound);
    }
    if (level(t.graph, w.level)) return;
    // Some ranks hold more than fits and cannot pass it on: so much must fit.
    int64_t confined = 0;
    for (int r = 0; r < t.num_ranks; ++r) {
      plan.bound_ranks[r] = w.unit_cost[r] > 0 && w.level.rank_label[r] == kUnreachable;
      if (plan.bound_ranks[r]) confined += w.level.load[r];
    }
    plan.lower_bound = least_waterline(w, plan.bound_ranks, confined, plan.lower_bound);
  }
}

}  // namespace plimsoll
