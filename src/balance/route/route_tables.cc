// What one layer's placement means for routing, made once: copies by expert, the nearest copy of
// every rank, and the graph of items and ranks that the flow runs in. See docs/balancing.md.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "balance/route/local_start.h"
#include "balance/route/quotas.h"
#include "plimsoll/route.h"

namespace plimsoll {
namespace {

Status validate(const RouteOptions& options, int num_ranks) {
  if (options.num_shared_experts < 0) {
    return invalid_argument("num_shared_experts is " + std::to_string(options.num_shared_experts) +
                            "; it must be 0 or more");
  }
  if (options.shared_cost.num < 0 || options.shared_cost.den < 1) {
    return invalid_argument("the shared expert's cost is " +
                            std::to_string(options.shared_cost.num) + "/" +
                            std::to_string(options.shared_cost.den) +
                            "; it must be a fraction of 0 or more with a positive denominator");
  }
  if (options.objective != RouteObjective::kTokens) {
    if (options.algorithm != DispatchAlgorithm::kExact) {
      return invalid_argument(
          "a static or dynamic dispatch algorithm has no objective; use exact for experts or time");
    }
    if (options.objective == RouteObjective::kExperts && options.waterfill) {
      return invalid_argument(
          "with the experts objective the shared expert stays at home, where its weights are read "
          "in "
          "any case; leave waterfill out");
    }
    if (options.ns_per_expert < 0 || options.ns_per_token < 0) {
      return invalid_argument("the time of an expert or a token is negative");
    }
  }
  if (draws_shared(options) && (options.num_shared_experts != 1 || !options.rank_cost.empty() ||
                                options.objective != RouteObjective::kTokens)) {
    return invalid_argument(
        "SGLang's waterfill knows one shared expert, the tokens objective and ranks that are "
        "alike; leave it out, or the others");
  }
  if (options.rank_cost.empty()) return ok_status();
  if (options.rank_cost.size() != static_cast<size_t>(num_ranks) ||
      *std::min_element(options.rank_cost.begin(), options.rank_cost.end()) < 0 ||
      *std::max_element(options.rank_cost.begin(), options.rank_cost.end()) == 0) {
    return invalid_argument("rank_cost has " + std::to_string(options.rank_cost.size()) +
                            " entries; it needs one for each of " + std::to_string(num_ranks) +
                            " ranks, none negative and one above 0");
  }
  return ok_status();
}

// Copies on masked ranks are of no use. Fails where an expert has no other.
Result<ReplicaTable> without_masked_ranks(const ReplicaTable& all,
                                          std::span<const int32_t> rank_cost) {
  ReplicaTable alive;
  alive.begin.push_back(0);
  for (size_t e = 0; e + 1 < all.begin.size(); ++e) {
    for (int i = all.begin[e]; i < all.begin[e + 1]; ++i) {
      if (rank_cost[all.rank[i]] == 0) continue;
      alive.rank.push_back(all.rank[i]);
      alive.slot.push_back(all.slot[i]);
    }
    alive.begin.push_back(static_cast<int32_t>(alive.rank.size()));
    if (alive.begin[e] == alive.begin[e + 1]) {
      return invalid_argument("expert " + std::to_string(e) +
                              " has copies on masked ranks only; plan again without them");
    }
  }
  return alive;
}

// The copy at home; else the only one; else the ranks without a copy at hand take the copies in
// turn, beginning at another copy for each expert so that no rank is favoured.
std::vector<int32_t> nearest_slots(const RouteTables& t) {
  std::vector<int32_t> slots(static_cast<size_t>(t.num_ranks) * t.num_experts);
  for (int e = 0; e < t.num_experts; ++e) {
    const int begin = t.replicas.begin[e];
    const int count = t.replicas.count(e);
    const auto first = t.replicas.rank.begin() + begin;
    int turn = e;
    for (int s = 0; s < t.num_ranks; ++s) {
      const auto home = std::lower_bound(first, first + count, s);
      const bool is_home = home != first + count && *home == s;
      const int copy = is_home ? static_cast<int>(home - first) : turn++ % count;
      slots[static_cast<size_t>(s) * t.num_experts + e] = t.replicas.slot[begin + copy];
    }
  }
  return slots;
}

void add_items(RouteTables& t) {
  t.graph.num_ranks = t.num_ranks;
  if (shared_is_item(t.options)) {
    std::vector<int32_t> ranks;
    for (int r = 0; r < t.num_ranks; ++r) {
      if (t.rank_cost[r] > 0) ranks.push_back(r);
    }
    add_item(t.graph, ranks.data(), static_cast<int>(ranks.size()));
    t.item_expert.push_back(-1);
  }
  for (int e = 0; e < t.num_experts && t.options.algorithm == DispatchAlgorithm::kExact; ++e) {
    if (t.replicas.count(e) == 1) continue;
    add_item(t.graph, &t.replicas.rank[t.replicas.begin[e]], t.replicas.count(e));
    t.item_expert.push_back(e);
  }
  index_by_rank(t.graph);
}

}  // namespace

CostRatio to_ratio(double value) {
  constexpr int32_t kMillion = 1000000;
  return {static_cast<int32_t>(std::lround(value * kMillion)), kMillion};
}

Result<RouteTables> make_route_tables(const Placement& placement,
                                      int layer_idx,
                                      const RouteOptions& options) {
  if (Status status = validate(placement); !status.ok()) return status.error();
  if (Status status = validate(options, placement.num_ranks); !status.ok()) return status.error();
  if (layer_idx < 0 || layer_idx >= placement.num_layers) {
    return invalid_argument("layer " + std::to_string(layer_idx) + " asked of a placement of " +
                            std::to_string(placement.num_layers) + " layers");
  }
  RouteTables t;
  t.num_ranks = placement.num_ranks;
  t.num_experts = placement.num_logical_experts;
  t.num_slots = placement.num_physical_experts;
  t.options = options;
  const int32_t divisor = std::gcd(options.shared_cost.num, options.shared_cost.den);
  t.options.shared_cost = {options.shared_cost.num / divisor, options.shared_cost.den / divisor};
  t.rank_cost = options.rank_cost;
  if (t.rank_cost.empty()) t.rank_cost.assign(t.num_ranks, 1);
  Result<ReplicaTable> replicas =
      without_masked_ranks(replica_table(placement, layer_idx), t.rank_cost);
  if (!replicas.ok()) return replicas.error();
  t.replicas = std::move(*replicas);
  if (options.algorithm == DispatchAlgorithm::kStatic) t.static_slot = nearest_slots(t);

  add_items(t);
  const int first_item = shared_is_item(t.options) ? 1 : 0;
  if (t.graph.num_items > first_item) t.spread = make_spread_tables(t.graph, first_item);
  return t;
}

}  // namespace plimsoll
