// For tests: what routing must achieve, worked out another way.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <map>
#include <numeric>
#include <set>
#include <vector>

#include "plimsoll/route.h"

namespace plimsoll {

// A placement, a batch of tokens for every source rank, and its counts.
struct Case {
  Placement placement;
  RouteOptions options;
  int k = 1;
  std::vector<std::vector<int32_t>> topk_ids;  // [source][tokens * k]
  std::vector<int32_t> counts;                 // [source, expert]
  std::vector<int32_t> active_tokens;          // [source]
};

struct Best {
  int64_t max_load;
  int64_t num_messages;
};

inline int64_t rank_cost(const Case& c, int rank) {
  return c.options.rank_cost.empty() ? 1 : c.options.rank_cost[rank];
}

// Every way to route the batch, as the set of reachable loads with their fewest messages.
inline Best brute_force(const Case& c) {
  const int num_ranks = c.placement.num_ranks;
  const int num_experts = c.placement.num_logical_experts;
  const ReplicaTable replicas = replica_table(c.placement, 0);
  std::map<std::vector<int64_t>, int64_t> reachable{{std::vector<int64_t>(num_ranks, 0), 0}};
  const auto route_one = [&](int source, const std::vector<int>& ranks, int64_t cost) {
    std::map<std::vector<int64_t>, int64_t> next;
    for (const auto& [load, messages] : reachable) {
      for (const int r : ranks) {
        if (rank_cost(c, r) == 0) continue;
        std::vector<int64_t> then = load;
        then[r] += cost * rank_cost(c, r);
        const int64_t sent = messages + (r != source);
        const auto [it, is_new] = next.emplace(then, sent);
        if (!is_new) it->second = std::min(it->second, sent);
      }
    }
    reachable = std::move(next);
  };
  for (int s = 0; s < num_ranks; ++s) {
    for (int e = 0; e < num_experts; ++e) {
      const std::vector<int> ranks(replicas.rank.begin() + replicas.begin[e],
                                   replicas.rank.begin() + replicas.begin[e + 1]);
      for (int i = 0; i < c.counts[static_cast<size_t>(s) * num_experts + e]; ++i) {
        route_one(s, ranks, c.options.shared_cost.den);
      }
    }
    std::vector<int> everywhere(num_ranks);
    std::iota(everywhere.begin(), everywhere.end(), 0);
    for (int i = 0; i < c.active_tokens[s] * c.options.num_shared_experts; ++i) {
      route_one(s, c.options.waterfill ? everywhere : std::vector<int>{s},
                c.options.shared_cost.num);
    }
  }
  Best best{INT64_MAX, INT64_MAX};
  for (const auto& [load, messages] : reachable) {
    const int64_t max_load = *std::max_element(load.begin(), load.end());
    if (max_load < best.max_load) best = {max_load, messages};
    if (max_load == best.max_load) best.num_messages = std::min(best.num_messages, messages);
  }
  return best;
}

// The smallest maximum of `weigh(expert, tokens)` summed over the experts of a rank, plus `start`,
// each expert being served by one copy whole.
template <typename Weigh>
int64_t brute_force_whole_experts(const Case& c, std::vector<int64_t> start, Weigh weigh) {
  const ReplicaTable replicas = replica_table(c.placement, 0);
  std::set<std::vector<int64_t>> reachable{std::move(start)};
  for (int e = 0; e < c.placement.num_logical_experts; ++e) {
    int64_t tokens = 0;
    for (int s = 0; s < c.placement.num_ranks; ++s) {
      tokens += c.counts[static_cast<size_t>(s) * c.placement.num_logical_experts + e];
    }
    if (tokens == 0) continue;
    std::set<std::vector<int64_t>> next;
    for (const auto& load : reachable) {
      for (int i = replicas.begin[e]; i < replicas.begin[e + 1]; ++i) {
        const int rank = replicas.rank[i];
        if (rank_cost(c, rank) == 0) continue;
        std::vector<int64_t> then = load;
        then[rank] += weigh(tokens) * rank_cost(c, rank);
        next.insert(then);
      }
    }
    reachable = std::move(next);
  }
  int64_t best = INT64_MAX;
  for (const auto& load : reachable) {
    best = std::min(best, *std::max_element(load.begin(), load.end()));
  }
  return best;
}

// max over rank sets of the load confined to them, over their number, rounded up (cost 1 only).
inline int64_t subset_bound(const Case& c) {
  const int num_ranks = c.placement.num_ranks;
  const int num_experts = c.placement.num_logical_experts;
  const ReplicaTable replicas = replica_table(c.placement, 0);
  std::vector<int64_t> confined(size_t{1} << num_ranks, 0);
  for (int e = 0; e < num_experts; ++e) {
    size_t ranks = 0;
    for (int i = replicas.begin[e]; i < replicas.begin[e + 1]; ++i)
      ranks |= size_t{1} << replicas.rank[i];
    for (int s = 0; s < num_ranks; ++s)
      confined[ranks] += c.counts[static_cast<size_t>(s) * num_experts + e];
  }
  for (int s = 0; s < num_ranks; ++s) {
    const size_t ranks = c.options.waterfill ? confined.size() - 1 : size_t{1} << s;
    confined[ranks] += int64_t{c.active_tokens[s]} * c.options.num_shared_experts;
  }
  for (int r = 0; r < num_ranks; ++r) {  // sums over subsets
    for (size_t set = 0; set < confined.size(); ++set) {
      if (set >> r & 1) confined[set] += confined[set ^ (size_t{1} << r)];
    }
  }
  int64_t bound = 0;
  for (size_t set = 1; set < confined.size(); ++set) {
    const int64_t size = std::popcount(set);
    bound = std::max(bound, (confined[set] + size - 1) / size);
  }
  return bound;
}

// The load the plan says cannot leave its bound_ranks, over their number, rounded up (cost 1 only).
inline int64_t confined_bound(const Case& c, const RoutePlan& plan) {
  const ReplicaTable replicas = replica_table(c.placement, 0);
  int64_t confined = 0;
  for (int e = 0; e < c.placement.num_logical_experts; ++e) {
    bool is_confined = true;
    for (int i = replicas.begin[e]; i < replicas.begin[e + 1]; ++i) {
      is_confined = is_confined && plan.bound_ranks[replicas.rank[i]] != 0;
    }
    for (int s = 0; is_confined && s < c.placement.num_ranks; ++s) {
      confined += c.counts[static_cast<size_t>(s) * c.placement.num_logical_experts + e];
    }
  }
  const int64_t size = std::count(plan.bound_ranks.begin(), plan.bound_ranks.end(), 1);
  for (int s = 0; s < c.placement.num_ranks; ++s) {
    if (c.options.waterfill ? size == c.placement.num_ranks : plan.bound_ranks[s] != 0) {
      confined += int64_t{c.active_tokens[s]} * c.options.num_shared_experts;
    }
  }
  return (confined + size - 1) / size;
}

}  // namespace plimsoll
