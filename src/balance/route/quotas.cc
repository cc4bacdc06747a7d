// From how much of each item every rank takes to who sends it: each rank keeps its own units, the
// rest of all sources, laid end to end, meets the ranks that still take some (the north-west corner
// rule of transportation problems). See "From amounts to tokens" in docs/balancing.md.
#include "balance/route/quotas.h"

#include <algorithm>

#include "balance/random.h"

namespace plimsoll {
namespace {

void place_single_copies(const RouteTables& t,
                         std::span<const int32_t> counts,
                         RouteWorkspace& w,
                         RoutePlan& plan) {
  const ReplicaTable& replicas = t.replicas;
  for (int s = 0; s < t.num_ranks; ++s) {
    const int32_t* chosen = &counts[static_cast<size_t>(s) * t.num_experts];
    int32_t* quota = &plan.routed[static_cast<size_t>(s) * t.num_slots];
    for (int e = 0; e < t.num_experts; ++e) {
      if (replicas.count(e) == 1) quota[replicas.slot[replicas.begin[e]]] = chosen[e];
    }
  }
  for (int e = 0; e < t.num_experts; ++e) {
    if (replicas.count(e) == 1) w.fixed_load[replicas.rank[replicas.begin[e]]] += w.expert_total[e];
  }
}

void place_static(const RouteTables& t,
                  std::span<const int32_t> counts,
                  RouteWorkspace& w,
                  RoutePlan& plan) {
  const int slots_per_rank = t.num_slots / t.num_ranks;
  for (int s = 0; s < t.num_ranks; ++s) {
    const size_t row = static_cast<size_t>(s) * t.num_experts;
    int32_t* quota = &plan.routed[static_cast<size_t>(s) * t.num_slots];
    for (int e = 0; e < t.num_experts; ++e) {
      const int32_t slot = t.static_slot[row + e];
      quota[slot] = counts[row + e];
      w.fixed_load[slot / slots_per_rank] += counts[row + e];
    }
  }
}

void place_dynamic(const RouteTables& t,
                   std::span<const int32_t> counts,
                   RouteWorkspace& w,
                   RoutePlan& plan) {
  // The counts enter the seed so that batches differ; a batch seen again is routed the same.
  SplitMix64 random{t.options.seed};
  for (const int32_t count : counts) random.state = random.next() + static_cast<uint64_t>(count);
  for (int s = 0; s < t.num_ranks; ++s) {
    const size_t row = static_cast<size_t>(s) * t.num_experts;
    int32_t* quota = &plan.routed[static_cast<size_t>(s) * t.num_slots];
    for (int e = 0; e < t.num_experts; ++e) {
      const int begin = t.replicas.begin[e];
      const uint32_t copies = static_cast<uint32_t>(t.replicas.count(e));
      for (int32_t i = 0; i < counts[row + e]; ++i) {
        const int copy = begin + static_cast<int>(random.below(copies));
        ++quota[t.replicas.slot[copy]];
        ++w.fixed_load[t.replicas.rank[copy]];
      }
    }
  }
}

// Splits one item: every rank keeps what it can of its own, and what is left over is matched with
// the ranks that take more than their own, both in ascending order.
// own(s): what source s asks of the item; put(s, i, n): arc begin + i serves n units of source s.
template <typename Own, typename Put>
void split_item(const LevelGraph& g, const LevelState& level, int item, Own own, Put put) {
  const int begin = g.item_begin[item];
  const int end = g.item_begin[item + 1];
  const auto kept = [&](int arc) {
    return static_cast<int32_t>(std::min(level.amount[arc], level.local[arc]));
  };
  const auto taken = [&](int arc) { return static_cast<int32_t>(level.amount[arc]) - kept(arc); };
  for (int arc = begin; arc < end; ++arc) put(g.arc_rank[arc], arc - begin, kept(arc));
  int into = begin;
  int32_t room = taken(into);
  int home = begin;  // the arc at source s, if there is one
  for (int s = 0; s < g.num_ranks; ++s) {
    int32_t left = own(s);
    if (home < end && g.arc_rank[home] == s) left -= kept(home++);
    while (left > 0) {
      while (room == 0) room = taken(++into);
      const int32_t moved = std::min(left, room);
      put(s, into - begin, moved);
      left -= moved;
      room -= moved;
    }
  }
}

}  // namespace

void place_fixed_experts(const RouteTables& tables,
                         std::span<const int32_t> counts,
                         RouteWorkspace& workspace,
                         RoutePlan& plan) {
  switch (tables.options.algorithm) {
    case DispatchAlgorithm::kExact:
      return place_single_copies(tables, counts, workspace, plan);
    case DispatchAlgorithm::kStatic:
      return place_static(tables, counts, workspace, plan);
    case DispatchAlgorithm::kDynamic:
      return place_dynamic(tables, counts, workspace, plan);
  }
}

void expand_items(const RouteTables& t,
                  std::span<const int32_t> counts,
                  std::span<const int32_t> active_tokens,
                  RouteWorkspace& w,
                  RoutePlan& plan) {
  for (int item = 0; item < t.graph.num_items; ++item) {
    const int expert = t.item_expert[item];
    if (expert < 0) {
      const int32_t* ranks = &t.graph.arc_rank[t.graph.item_begin[item]];
      split_item(
          t.graph, w.level, item,
          [&](int s) { return active_tokens[s] * t.options.num_shared_experts; },
          [&](int s, int copy, int32_t n) {
            plan.shared[static_cast<size_t>(s) * t.num_ranks + ranks[copy]] += n;
          });
    } else {
      const int32_t* slots = &t.replicas.slot[t.replicas.begin[expert]];
      split_item(
          t.graph, w.level, item,
          [&](int s) { return counts[static_cast<size_t>(s) * t.num_experts + expert]; },
          [&](int s, int copy, int32_t n) {
            plan.routed[static_cast<size_t>(s) * t.num_slots + slots[copy]] += n;
          });
    }
  }
}

}  // namespace plimsoll
