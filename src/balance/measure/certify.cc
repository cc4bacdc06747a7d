#include <algorithm>
#include <numeric>

#include "balance/measure/bounds.h"
#include "balance/measure/each_layer.h"
#include "balance/measure/exact_load.h"
#include "balance/measure/shares.h"
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

int64_t fullest(std::span<const double> rank_load) {
  return round_up(*std::max_element(rank_load.begin(), rank_load.end()));
}

// The placement, and what its copies compute before any load is known.
class Certifier {
 public:
  Certifier(const Placement& placement,
            std::span<const uint8_t> active_ranks,
            Dispatch dispatch,
            int num_nodes)
      : placement_(placement),
        active_ranks_(active_ranks),
        dispatch_(dispatch),
        grid_{placement.num_ranks, num_nodes, placement.slots_per_rank()},
        num_active_(placement.num_ranks -
                    static_cast<int>(std::count(active_ranks.begin(), active_ranks.end(), 0))) {
    if (dispatch != Dispatch::kStatic) return;
    StaticDraws draws(grid_);
    for (int l = 0; l < placement.num_layers; ++l) {
      static_shares_.push_back(drawn_shares(copies(l), grid_, draws));
    }
  }

  Certificate run(int layer, std::span<const int64_t> load) const {
    const ReplicaTable replicas = alive_replicas(placement_, layer, active_ranks_);
    Certificate c;
    set_max_load(layer, load, replicas, c);
    c.mean_load =
        static_cast<double>(std::accumulate(load.begin(), load.end(), int64_t{0})) / num_active_;
    const LowerBound bound =
        tight_lower_bound(load, num_active_, placement_.slots_per_rank(), c.max_load);
    c.lower_bound = bound.value;
    c.binding = bound.binding;
    c.hottest_expert =
        static_cast<int32_t>(std::max_element(load.begin(), load.end()) - load.begin());
    c.hottest_load = load[c.hottest_expert];
    c.hottest_copies = replicas.count(c.hottest_expert);
    c.copies_beside_twin =
        num_active_ * placement_.slots_per_rank() - static_cast<int32_t>(replicas.rank.size());
    return c;
  }

 private:
  CopyTable copies(int layer) const {
    return CopyTable(placement_.layer(layer), placement_.num_logical_experts);
  }

  // Tokens of every rank, each expert's split evenly over its copies on ranks that are alive.
  std::vector<double> even_loads(int layer, std::span<const int64_t> load) const {
    const auto experts = placement_.layer(layer);
    const auto counts = [&](size_t slot) {
      return active_ranks_.empty() || active_ranks_[grid_.rank_of(static_cast<int>(slot))];
    };
    std::vector<int> num_copies(load.size(), 0);
    for (size_t slot = 0; slot < experts.size(); ++slot) num_copies[experts[slot]] += counts(slot);
    std::vector<double> share(experts.size(), 0);
    for (size_t slot = 0; slot < experts.size(); ++slot) {
      if (counts(slot)) share[slot] = 1.0 / num_copies[experts[slot]];
    }
    return rank_loads(experts, share, load, grid_);
  }

  void set_max_load(int layer,
                    std::span<const int64_t> load,
                    const ReplicaTable& replicas,
                    Certificate& c) const {
    const std::vector<double> even = even_loads(layer, load);
    c.max_load_even = fullest(even);
    if (dispatch_ == Dispatch::kExact) {
      ExactLoad exact(replicas, placement_.num_ranks, active_ranks_);
      c.max_load = exact.max_load(load);
      c.bound_ranks.assign(exact.bound_ranks().begin(), exact.bound_ranks().end());
      return;
    }
    std::vector<double> loads = even;
    if (dispatch_ != Dispatch::kEven) {
      loads = rank_loads(placement_.layer(layer),
                         dispatch_ == Dispatch::kStatic
                             ? static_shares_[layer]
                             : expected_shares(copies(layer), dispatch_, grid_),
                         load, grid_);
    }
    c.max_load = fullest(loads);
    for (const double tokens : loads) c.bound_ranks.push_back(round_up(tokens) == c.max_load);
  }

  const Placement& placement_;
  const std::span<const uint8_t> active_ranks_;
  const Dispatch dispatch_;
  const RankGrid grid_;
  const int num_active_;
  std::vector<std::vector<double>> static_shares_;  // [layer][slot], of kStatic
};

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

Status check_dispatch(const Placement& placement,
                      std::span<const uint8_t> active_ranks,
                      Dispatch dispatch,
                      int num_nodes) {
  if (dispatch != Dispatch::kDynamic && dispatch != Dispatch::kStatic) return ok_status();
  if (num_nodes < 1 || placement.num_ranks % num_nodes != 0) {
    return invalid_argument(std::to_string(num_nodes) + " nodes do not divide the " +
                            std::to_string(placement.num_ranks) + " ranks");
  }
  if (std::count(active_ranks.begin(), active_ranks.end(), 0) == 0) return ok_status();
  return invalid_argument("SGLang's " + std::string(dispatch_name(dispatch)) +
                          " dispatch is modelled with all ranks alive; leave the dead ones out");
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
                                         std::span<const uint8_t> active_ranks,
                                         Dispatch dispatch,
                                         int num_nodes) {
  Status status = check_input(placement, load, active_ranks);
  if (status.ok()) status = check_dispatch(placement, active_ranks, dispatch, num_nodes);
  if (!status.ok()) return status.error();
  const Certifier certifier(placement, active_ranks, dispatch, num_nodes);
  std::vector<Certificate> certificates(placement.num_layers);
  for_each_layer(placement.num_layers, 0, [&](int layer) {
    const size_t experts = placement.num_logical_experts;
    certificates[layer] = certifier.run(layer, load.subspan(layer * experts, experts));
  });
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
    case Bound::kSlotBudget:
      return text + hottest +
             " and its like need copies, and the ranks of these hold cold experts besides: however "
             "the slots are spent, some rank carries " +
             bound;
  }
  return text;
}

}  // namespace plimsoll
