// The start of the flow, from the counts of all ranks: units stay home where they can, free ones
// are water-filled over ranks whose heights are potentials of a network of equal resistors, and
// what rounding leaves follows spanning trees. See "Where the flow starts" in docs/balancing.md.
#include "balance/route/local_start.h"

#include <algorithm>
#include <limits>
#include <numeric>

namespace plimsoll {
namespace {

// How high a rank stands for the units of an arc: those at home there, and the rank's potential.
int64_t height(const RouteTables& t, const RouteWorkspace& w, int arc) {
  const int64_t potential = w.potential[t.graph.arc_rank[arc]];
  return std::min(w.level.local[arc], kMaxHeight) + potential + kMaxHeight;
}

// Pours units over the ranks of an item: the lowest take them, the odd ones go to the first ranks.
void pour(const RouteTables& t, RouteWorkspace& w, int item, int64_t num_units) {
  const int begin = t.graph.item_begin[item];
  const int end = t.graph.item_begin[item + 1];
  int64_t surface = std::numeric_limits<int64_t>::max();
  int64_t left = num_units;
  for (int64_t below = 0, previous = -1; below != previous;) {
    previous = below;
    below = 0;
    int64_t sum = num_units;
    for (int arc = begin; arc < end; ++arc) {
      if (height(t, w, arc) <= surface) ++below, sum += height(t, w, arc);
    }
    surface = sum / below;
    left = sum % below;
  }
  for (int arc = begin; arc < end; ++arc) {
    const int64_t depth = surface - height(t, w, arc);
    w.start_amount[arc] = w.level.local[arc];
    if (depth >= 0) w.start_amount[arc] += depth + (left-- > 0);
  }
}

// What a rank has above its target, or below.
int64_t surplus(const RouteWorkspace& w, int rank) {
  return std::clamp(w.start_load[rank] - w.target[rank], -kMaxSurplus, kMaxSurplus);
}

// The potentials that would level the loads against the capacities if no item ran out.
void set_potentials(const RouteTables& t, RouteWorkspace& w) {
  for (int r = 0; r < t.num_ranks; ++r) {
    const int32_t* response = &t.spread.response[static_cast<size_t>(r) * t.num_ranks];
    int64_t sum = 0;
    for (int q = 0; q < t.num_ranks; ++q) {
      sum += response[q] * surplus(w, q);
    }
    w.potential[r] = std::clamp(sum >> kResponseBits, -kMaxHeight, kMaxHeight);
  }
}

// Without a response, an item sees the ranks as the items before it have left them.
void pour_items(const RouteTables& t, RouteWorkspace& w) {
  const LevelGraph& g = t.graph;
  for (int item = 0; item < g.num_items; ++item) {
    if (t.item_expert[item] < 0) continue;  // every rank has it: no unit is free
    int64_t num_free = 0;
    for (int arc = g.item_begin[item]; arc < g.item_begin[item + 1]; ++arc) {
      const int rank = g.arc_rank[arc];
      num_free += w.start_amount[arc] - w.level.local[arc];
      w.start_load[rank] -= w.start_amount[arc];
      if (t.spread.response.empty()) {
        w.potential[rank] = std::clamp(surplus(w, rank), -kMaxHeight, kMaxHeight);
      }
    }
    pour(t, w, item, num_free);
    for (int arc = g.item_begin[item]; arc < g.item_begin[item + 1]; ++arc) {
      w.start_load[g.arc_rank[arc]] += w.start_amount[arc];
    }
  }
}

// Whether some rank with too much can give a unit to one with room in one step, and free of cost.
bool has_free_step(const RouteTables& t, const RouteWorkspace& w) {
  const LevelGraph& g = t.graph;
  for (int item = 0; item < g.num_items; ++item) {
    if (t.item_expert[item] < 0) continue;
    bool gives = false;
    bool takes = false;
    for (int arc = g.item_begin[item]; arc < g.item_begin[item + 1]; ++arc) {
      const int64_t over = w.start_load[g.arc_rank[arc]] - w.level.capacity[g.arc_rank[arc]];
      gives |= over > 0 && w.start_amount[arc] > w.level.local[arc];
      takes |= over < 0;
    }
    if (gives && takes) return true;
  }
  return false;
}

// What a tree's ranks have too much is dealt out over them evenly; the odd units stay with the
// first. The surplus of every subtree goes to its parent, as far as free units are there: those of
// an arc that serves several children are shared out.
void level_trees(const RouteTables& t, RouteWorkspace& w) {
  const SpreadTables& s = t.spread;
  std::vector<int64_t>& surplus_before = w.surplus_before;  // of lower places
  surplus_before[0] = 0;
  for (int place = 0; place < t.num_ranks; ++place) {
    surplus_before[place + 1] = surplus_before[place] + surplus(w, s.rank[place]);
  }
  for (int place = 0; place < t.num_ranks; ++place) {
    const int out = s.arc_out[place];
    if (out < 0) continue;
    const int begin = s.tree_begin[place];
    const int64_t num_ranks = s.tree_end[place] - begin;
    const int64_t of_tree = surplus_before[s.tree_end[place]] - surplus_before[begin];
    const int64_t odd = ((of_tree % num_ranks) + num_ranks) % num_ranks;
    const int64_t each = (of_tree - odd) / num_ranks;
    const auto share_before = [&](int p) {
      return each * (p - begin) + std::min<int64_t>(odd, p - begin);
    };
    const int end = s.subtree_end[place];
    const int64_t wanted =
        surplus_before[end] - surplus_before[place] - (share_before(end) - share_before(place));
    const int in = s.arc_in[place];
    const int item = t.graph.arc_item[in];
    const int64_t num_children = t.graph.item_begin[item + 1] - t.graph.item_begin[item] - 1;
    const int64_t up = w.start_amount[out] - w.level.local[out];
    const int64_t down = (w.start_amount[in] - w.level.local[in]) / num_children;
    w.moved[place] = std::clamp(wanted, -down, up);
  }
  for (int place = 0; place < t.num_ranks; ++place) {
    const int out = s.arc_out[place];
    if (out < 0) continue;
    const int in = s.arc_in[place];
    w.start_amount[out] -= w.moved[place];
    w.start_load[t.graph.arc_rank[out]] -= w.moved[place];
    w.start_amount[in] += w.moved[place];
    w.start_load[t.graph.arc_rank[in]] += w.moved[place];
  }
}

}  // namespace

void start_in_equal_shares(const RouteTables& t,
                           std::span<const int32_t> counts,
                           std::span<const int32_t> active_tokens,
                           RouteWorkspace& w) {
  const LevelGraph& g = t.graph;
  for (int arc = 0; arc < g.num_arcs(); ++arc) {
    const int rank = g.arc_rank[arc];
    const int item = g.arc_item[arc];
    const int expert = t.item_expert[item];
    w.level.local[arc] = expert < 0 ? active_tokens[rank] * t.options.num_shared_experts
                                    : counts[static_cast<size_t>(rank) * t.num_experts + expert];
    w.start_amount[arc] = w.level.local[arc];
    if (expert >= 0) {
      const int copies = g.item_begin[item + 1] - g.item_begin[item];
      const int copy = arc - g.item_begin[item];
      w.start_amount[arc] =
          w.expert_total[expert] / copies + (copy < w.expert_total[expert] % copies);
    }
    w.start_load[rank] += w.start_amount[arc];
  }
}

void spread_free_units(const RouteTables& t, RouteWorkspace& w) {
  if (t.spread.rank.empty()) return;
  std::copy_n(w.fixed_load.begin(), t.num_ranks, w.target.begin());
  for (int arc = 0; arc < t.graph.num_arcs(); ++arc) {
    w.target[t.graph.arc_rank[arc]] += w.level.local[arc];
  }
  for (int r = 0; r < t.num_ranks; ++r) w.target[r] = std::max(w.target[r], w.level.capacity[r]);
  if (!t.spread.response.empty()) set_potentials(t, w);
  pour_items(t, w);
  if (has_free_step(t, w)) level_trees(t, w);
}

}  // namespace plimsoll
