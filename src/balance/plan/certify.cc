#include <algorithm>
#include <numeric>

#include "balance/plan/bounds.h"
#include "balance/plan/exact_load.h"
#include "plimsoll/plan.h"

namespace plimsoll {
namespace {

// Copies on dead ranks do not count.
ReplicaTable alive_replicas(const Placement& placement,
                            int layer,
                            std::span<const uint8_t> active_ranks) {
  ReplicaTable all = replica_table(placement, layer);
  if (active_ranks.empty()) return all;
  ReplicaTable alive;
  alive.begin.push_back(0);
  for (int e = 0; e < placement.num_logical_experts; ++e) {
    for (int i = all.begin[e]; i < all.begin[e + 1]; ++i) {
      if (!active_ranks[all.rank[i]]) continue;
      alive.rank.push_back(all.rank[i]);
      alive.slot.push_back(all.slot[i]);
    }
    alive.begin.push_back(static_cast<int32_t>(alive.rank.size()));
  }
  return alive;
}

int64_t max_even_load(const ReplicaTable& replicas, std::span<const int64_t> load, int num_ranks) {
  std::vector<double> rank_load(num_ranks, 0);
  for (size_t e = 0; e < load.size(); ++e) {
    const int copies = replicas.count(static_cast<int>(e));
    for (int i = 0; i < copies; ++i) {
      rank_load[replicas.rank[replicas.begin[e] + i]] += static_cast<double>(load[e]) / copies;
    }
  }
  const double max_load = *std::max_element(rank_load.begin(), rank_load.end());
  return static_cast<int64_t>(max_load + 1 - 1e-6);
}

Certificate certify_layer(const Placement& placement,
                          int layer,
                          std::span<const int64_t> load,
                          std::span<const uint8_t> active_ranks,
                          int num_active) {
  const ReplicaTable replicas = alive_replicas(placement, layer, active_ranks);
  Certificate c;
  ExactLoad exact(replicas, placement.num_ranks, active_ranks);
  c.max_load = exact.max_load(load);
  c.bound_ranks.assign(exact.bound_ranks().begin(), exact.bound_ranks().end());
  c.max_load_even = max_even_load(replicas, load, placement.num_ranks);
  c.mean_load =
      static_cast<double>(std::accumulate(load.begin(), load.end(), int64_t{0})) / num_active;
  std::vector<int64_t> sorted(load.begin(), load.end());
  std::sort(sorted.begin(), sorted.end(), std::greater<>());
  const LowerBound bound = lower_bound(sorted, num_active, placement.slots_per_rank());
  c.lower_bound = bound.value;
  c.binding = bound.binding;
  c.hottest_expert =
      static_cast<int32_t>(std::max_element(load.begin(), load.end()) - load.begin());
  c.hottest_load = load[c.hottest_expert];
  c.hottest_copies = replicas.count(c.hottest_expert);
  return c;
}

Status check_input(const Placement& placement,
                   std::span<const int64_t> load,
                   std::span<const uint8_t> active_ranks) {
  if (Status status = validate(placement); !status.ok()) return status;
  const size_t expected = static_cast<size_t>(placement.num_layers) * placement.num_logical_experts;
  if (load.size() != expected) {
    return invalid_argument("found " + std::to_string(load.size()) + " loads; the placement's " +
                            std::to_string(placement.num_layers) + " layers of " +
                            std::to_string(placement.num_logical_experts) + " experts need " +
                            std::to_string(expected));
  }
  if (std::any_of(load.begin(), load.end(), [](int64_t n) { return n < 0; })) {
    return invalid_argument("a load is negative; loads are token counts");
  }
  if (!active_ranks.empty() && active_ranks.size() != static_cast<size_t>(placement.num_ranks)) {
    return invalid_argument("active_ranks has " + std::to_string(active_ranks.size()) +
                            " entries; expected one for each of " +
                            std::to_string(placement.num_ranks) + " ranks");
  }
  if (active_ranks.empty()) return ok_status();
  for (int l = 0; l < placement.num_layers; ++l) {
    const ReplicaTable replicas = alive_replicas(placement, l, active_ranks);
    for (int e = 0; e < placement.num_logical_experts; ++e) {
      if (replicas.count(e) > 0) continue;
      return invalid_argument("expert " + std::to_string(e) + " of layer " + std::to_string(l) +
                              " has no copy on an active rank");
    }
  }
  return ok_status();
}

std::string percent(double share) {
  const auto tenths = static_cast<int64_t>(share * 1000 + 0.5);
  return std::to_string(tenths / 10) + "." + std::to_string(tenths % 10) + " %";
}

std::string list_ranks(std::span<const uint8_t> marked) {
  constexpr int kMost = 8;
  std::string text;
  int listed = 0;
  for (size_t r = 0; r < marked.size(); ++r) {
    if (marked[r] == 0) continue;
    if (++listed > kMost) return text + " ...";
    text += " " + std::to_string(r);
  }
  return text;
}

}  // namespace

Result<std::vector<Certificate>> certify(const Placement& placement,
                                         std::span<const int64_t> load,
                                         std::span<const uint8_t> active_ranks) {
  if (Status status = check_input(placement, load, active_ranks); !status.ok())
    return status.error();
  const int num_active =
      active_ranks.empty()
          ? placement.num_ranks
          : static_cast<int>(std::count_if(active_ranks.begin(), active_ranks.end(),
                                           [](uint8_t active) { return active != 0; }));
  std::vector<Certificate> certificates;
  for (int l = 0; l < placement.num_layers; ++l) {
    const auto layer_load = load.subspan(static_cast<size_t>(l) * placement.num_logical_experts,
                                         placement.num_logical_experts);
    certificates.push_back(certify_layer(placement, l, layer_load, active_ranks, num_active));
  }
  return certificates;
}

std::string explain(const Certificate& c) {
  if (c.mean_load == 0) return "no expert of this layer was used";
  const std::string copies = std::to_string(c.hottest_copies);
  const std::string hottest = "expert " + std::to_string(c.hottest_expert) + " (" +
                              percent(static_cast<double>(c.hottest_load) / c.mean_load) +
                              " of the mean rank, " + copies +
                              (c.hottest_copies == 1 ? " copy)" : " copies)");
  const std::string bound = std::to_string(c.lower_bound) + " tokens, " +
                            percent(static_cast<double>(c.lower_bound) / c.mean_load - 1) +
                            " above the mean rank";
  const bool is_optimal = c.max_load == c.lower_bound;
  std::string text = "proven optimal: ";
  if (!is_optimal) {
    const bool is_one = std::count(c.bound_ranks.begin(), c.bound_ranks.end(), 1) == 1;
    text = "at most " + percent(c.gap()) +
           " above the best placement: " + (is_one ? "rank" : "ranks") + list_ranks(c.bound_ranks) +
           (is_one ? " holds" : " hold") + " experts without copies elsewhere; ";
  }
  switch (c.binding) {
    case Bound::kMean:
      return text + "no placement is below the mean of " + std::to_string(c.lower_bound) +
             " tokens per rank";
    case Bound::kReplicaBudget:
      return text + hottest +
             " and its like need more copies than there are slots; however these are spent, some "
             "copy carries " +
             bound;
    case Bound::kSlotCardinality:
      return text + hottest +
             " or one of its like shares its rank with as many others as there are slots, and "
             "there "
             "are no redundant ones: with the coldest it carries " +
             bound;
  }
  return text;
}

}  // namespace plimsoll
