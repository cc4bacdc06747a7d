#include "plimsoll/just_in_time.h"

#include <algorithm>
#include <numeric>

#include "balance/jit/chooser.h"
#include "balance/route/quotas.h"
#include "balance/route/waterline.h"

namespace plimsoll {
namespace {

Status validate(const RouteOptions& route) {
  const JitOptions& jit = route.jit;
  const JitCost& cost = jit.cost;
  if (std::min({cost.ns_per_token, cost.ns_per_expert, cost.ns_per_copy, cost.ns_per_copy_across,
                cost.ns_hidden}) < 0) {
    return invalid_argument("a cost of copies just in time is negative");
  }
  if (jit.slots_per_rank < 0 || jit.min_tokens < 1 || jit.ranks_per_domain < 0 ||
      jit.tolerance.num < 0 || jit.tolerance.den < 1) {
    return invalid_argument("copies just in time were given " + std::to_string(jit.slots_per_rank) +
                            " slots a rank, at least " + std::to_string(jit.min_tokens) +
                            " tokens a copy and a tolerance of " +
                            std::to_string(jit.tolerance.num) + "/" +
                            std::to_string(jit.tolerance.den) +
                            "; none may be negative, and a copy serves at least 1 token");
  }
  if (jit.slots_per_rank == 0) return ok_status();
  if (route.algorithm != DispatchAlgorithm::kExact || route.objective != RouteObjective::kTokens) {
    return invalid_argument(
        "copies just in time go with exact dispatch and the tokens objective; found another");
  }
  if (route.waterfill && !shared_is_item(route) && route.num_shared_experts > 0) {
    return invalid_argument(
        "copies just in time know a waterfilled shared expert by the level rule and at the cost of "
        "a "
        "routed one; leave waterfill out, or its other options");
  }
  return ok_status();
}

int64_t sum(std::span<const int64_t> values) {
  return std::accumulate(values.begin(), values.end(), int64_t{0});
}

// The least waterline under which all ranks together have room for everything that is levelled.
int64_t level_waterline(const JitTables& t, JitWorkspace& w, int64_t num_units) {
  std::ranges::transform(w.route.unit_cost, w.closed.begin(),
                         [](int64_t cost) { return static_cast<uint8_t>(cost > 0); });
  const int64_t from =
      *std::max_element(w.route.offset.begin(), w.route.offset.begin() + t.standing.num_ranks);
  return least_waterline(w.route, w.closed, num_units, from);
}

// The standing tables with the copies beside: what make_route_tables would make of such a
// placement, but for the tables that spread free units, which take long to make: units are poured
// in turn.
void extend(const JitTables& t, JitWorkspace& w) {
  const RouteTables& from = t.standing;
  RouteTables& to = w.extended;
  ReplicaTable& replicas = to.replicas;
  replicas.rank.clear();
  replicas.slot.clear();
  to.graph.num_items = 0;
  to.graph.item_begin.resize(1);
  to.graph.arc_rank.clear();
  to.graph.arc_item.clear();
  to.item_expert.clear();
  if (shared_is_item(from.options)) {
    add_item(to.graph, from.graph.arc_rank.data(), from.graph.item_begin[1]);
    to.item_expert.push_back(-1);
  }
  std::ranges::sort(w.copies, {}, [](const JitCopy& c) { return std::pair(c.expert, c.rank); });
  auto copy = w.copies.begin();
  for (int e = 0; e < from.num_experts; ++e) {
    replicas.begin[e] = static_cast<int32_t>(replicas.rank.size());
    for (int i = from.replicas.begin[e]; i < from.replicas.begin[e + 1]; ++i) {
      for (; copy != w.copies.end() && copy->expert == e && copy->rank < from.replicas.rank[i];
           ++copy) {
        replicas.rank.push_back(copy->rank);
        replicas.slot.push_back(copy->slot);
      }
      replicas.rank.push_back(from.replicas.rank[i]);
      replicas.slot.push_back(from.replicas.slot[i]);
    }
    for (; copy != w.copies.end() && copy->expert == e; ++copy) {
      replicas.rank.push_back(copy->rank);
      replicas.slot.push_back(copy->slot);
    }
    const int num_copies = static_cast<int>(replicas.rank.size()) - replicas.begin[e];
    if (num_copies == 1) continue;
    add_item(to.graph, &replicas.rank[replicas.begin[e]], num_copies);
    to.item_expert.push_back(e);
  }
  replicas.begin[from.num_experts] = static_cast<int32_t>(replicas.rank.size());
  index_by_rank(to.graph);
}

// Whether copies are found that bring all ranks under the waterline: the fewest of two ways to
// choose. `enough` is how many are known to be needed.
bool find_copies(const JitTables& t,
                 std::span<const int32_t> counts,
                 int64_t waterline,
                 int32_t enough,
                 JitWorkspace& w) {
  open_choice(t, waterline, w);
  const bool found = choose_copies(t, counts, Fit::kEmptiest, w);
  if (found && static_cast<int32_t>(w.copies.size()) <= enough) return true;
  w.other_copies = w.copies;
  open_choice(t, waterline, w);
  const bool found_other = choose_copies(t, counts, Fit::kBest, w);
  const bool other_is_better =
      found_other == found ? w.copies.size() < w.other_copies.size() : found_other;
  if (!other_is_better) std::swap(w.copies, w.other_copies);
  return found || found_other;
}

// Where spare slots do not suffice for the target: copies for the least waterline that is found.
void find_copies_above(const JitTables& t,
                       std::span<const int32_t> counts,
                       const JitPlan& plan,
                       JitWorkspace& w) {
  int64_t fails = plan.target, works = plan.standing_max;
  const int64_t fine = std::max<int64_t>(plan.level_max / 256, 1);
  while (works - fails > fine) {
    const int64_t middle = fails + (works - fails) / 2;
    (find_copies(t, counts, middle, 0, w) ? works : fails) = middle;
  }
  find_copies(t, counts, works, 0, w);
}

// What the copies chosen cost, and a fullest rank of so much load takes.
int64_t time_ns(const JitTables& t, JitWorkspace& w, int64_t max_load) {
  const JitCost& cost = t.options.cost;
  const int domain_size = std::max(t.options.ranks_per_domain, 1);
  std::ranges::fill(w.in_ns, 0);
  std::ranges::fill(w.out_ns, 0);
  int most_copies = 0;
  for (const JitCopy& copy : w.copies) {
    const bool near =
        t.options.ranks_per_domain == 0 || copy.from / domain_size == copy.rank / domain_size;
    const int64_t ns = near ? cost.ns_per_copy : cost.ns_per_copy_across;
    w.in_ns[copy.rank] += ns;
    w.out_ns[copy.from] += ns;
    most_copies =
        std::max(most_copies, copy.slot % t.slots_per_rank() + 1 - t.standing_slots_per_rank);
  }
  const int64_t link_ns =
      std::max(*std::ranges::max_element(w.in_ns), *std::ranges::max_element(w.out_ns));
  return max_load * cost.ns_per_token + most_copies * cost.ns_per_expert +
         std::max<int64_t>(link_ns - cost.ns_hidden, 0);
}

// Raises the target to where the predicted time is least: of a few waterlines from the target to
// the maximum without copies, closer together near the target.
void choose_target_by_time(const JitTables& t,
                           std::span<const int32_t> counts,
                           JitWorkspace& w,
                           JitPlan& plan) {
  constexpr int kNumTried = 8;
  const int64_t lowest = plan.target;
  w.copies.clear();
  int64_t least_ns = plan.standing_ns = time_ns(t, w, plan.standing_max);
  plan.target = plan.standing_max;
  for (int i = 0; i < kNumTried; ++i) {
    const int64_t waterline =
        lowest + (plan.standing_max - lowest) * i * i / (kNumTried * kNumTried);
    if (!find_copies(t, counts, waterline, 0, w)) continue;
    const int64_t ns = time_ns(t, w, waterline);
    if (ns < least_ns) least_ns = ns, plan.target = waterline;
  }
}

}  // namespace

Result<JitTables> make_jit_tables(const Placement& placement,
                                  int layer_idx,
                                  const RouteOptions& options) {
  if (Status status = validate(options); !status.ok()) return status.error();
  Result<RouteTables> standing = make_route_tables(placement, layer_idx, options);
  if (!standing.ok()) return standing.error();
  JitTables t{std::move(*standing), options.jit, placement.slots_per_rank()};
  const ReplicaTable& replicas = t.standing.replicas;
  for (int r = 0; r < placement.num_ranks; ++r) {
    for (int e = 0; e < placement.num_logical_experts; ++e) {
      const auto begin = replicas.rank.begin() + replicas.begin[e];
      if (std::binary_search(begin, replicas.rank.begin() + replicas.begin[e + 1], r)) {
        t.rank_experts.push_back(e);
      }
    }
    t.rank_begin.push_back(static_cast<int32_t>(t.rank_experts.size()));
  }
  for (int32_t& slot : t.standing.replicas.slot) slot = t.widened(slot);
  for (int32_t& slot : t.standing.static_slot) slot = t.widened(slot);
  t.standing.num_slots = t.standing.num_ranks * t.slots_per_rank();
  return t;
}

JitPlan::JitPlan(const JitTables& t) : route(t.standing) {
  copies.reserve(static_cast<size_t>(t.standing.num_ranks) * t.options.slots_per_rank);
}

JitWorkspace::JitWorkspace(const JitTables& t)
    : route(t.standing),
      extended(t.standing),
      level(t.standing.num_ranks, t.standing.num_experts, t.standing.num_slots),
      expert_item(t.standing.num_experts),
      fixed_load(t.standing.num_ranks),
      capacity(t.standing.num_ranks),
      spare_used(t.standing.num_ranks),
      closed(t.standing.num_ranks),
      given_up(t.standing.num_ranks),
      group(t.standing.num_ranks),
      group_excess(t.standing.num_ranks),
      in_ns(t.standing.num_ranks),
      out_ns(t.standing.num_ranks) {
  const auto num_ranks = static_cast<size_t>(t.standing.num_ranks);
  const auto num_slots = static_cast<size_t>(t.standing.num_slots);
  for (LevelGraph* g : {&graph, &extended.graph}) {
    g->num_ranks = t.standing.num_ranks;
    g->arc_rank.reserve(num_slots + num_ranks);
    g->arc_item.reserve(num_slots + num_ranks);
    g->rank_arcs.reserve(num_slots + num_ranks);
    g->item_begin.reserve(static_cast<size_t>(t.standing.num_experts) + 2);
  }
  for (auto* ids :
       {&item_expert, &extended.item_expert, &extended.replicas.rank, &extended.replicas.slot}) {
    ids->reserve(num_slots + 1);
  }
  sizes.reserve(t.standing.num_experts);
  rooms.reserve(num_ranks);
  copies.reserve(num_ranks * static_cast<size_t>(t.options.slots_per_rank));
  other_copies.reserve(copies.capacity());
  // Every rank a tree of its own: free units are poured over the ranks of their item in turn.
  SpreadTables& spread = extended.spread;
  spread = {};
  spread.rank.resize(num_ranks);
  std::iota(spread.rank.begin(), spread.rank.end(), 0);
  spread.arc_out.assign(num_ranks, -1);
}

const RouteTables& tables_in_use(const JitTables& t, const JitWorkspace& w, const JitPlan& plan) {
  return plan.copies.empty() ? t.standing : w.extended;
}

Status jit_route(const JitTables& t,
                 std::span<const int32_t> counts,
                 std::span<const int32_t> active_tokens,
                 JitWorkspace& w,
                 JitPlan& plan) {
  if (Status status = route(t.standing, counts, active_tokens, w.route, plan.route); !status.ok()) {
    return status;
  }
  plan.copies.clear();
  plan.min_copies = 0;
  plan.standing_max = plan.route.max_load;
  if (t.options.slots_per_rank == 0) return ok_status();
  const int64_t num_units =
      sum(std::span(w.route.start_load).first(static_cast<size_t>(t.standing.num_ranks)));
  plan.level_max = level_waterline(t, w, num_units);
  const CostRatio& tolerance = t.options.tolerance;
  plan.target =
      plan.level_max + (plan.level_max * tolerance.num + tolerance.den - 1) / tolerance.den;
  plan.standing_ns = plan.predicted_ns = plan.standing_max * t.options.cost.ns_per_token;
  if (plan.standing_max <= plan.target) return ok_status();
  if (t.options.cost.ns_per_token > 0) choose_target_by_time(t, counts, w, plan);
  if (plan.standing_max <= plan.target) return ok_status();

  open_choice(t, plan.target, w);
  plan.min_copies = fewest_copies(t, w);
  if (!find_copies(t, counts, plan.target, plan.min_copies, w)) {
    find_copies_above(t, counts, plan, w);
  }
  if (w.copies.empty()) return ok_status();
  extend(t, w);
  plan.copies.assign(w.copies.begin(), w.copies.end());
  std::ranges::sort(plan.copies, {}, &JitCopy::slot);
  if (Status status = route(w.extended, counts, active_tokens, w.route, plan.route); !status.ok()) {
    return status;
  }
  plan.predicted_ns = time_ns(t, w, plan.route.max_load);
  if (plan.route.max_load > plan.target) {
    open_choice(t, plan.route.max_load, w);
    plan.min_copies = fewest_copies(t, w);
  }
  return ok_status();
}

std::string to_string(const JitPlan& plan) {
  std::string text = std::to_string(plan.copies.size()) + " copies (no fewer than " +
                     std::to_string(plan.min_copies) + ") bring the fullest rank from " +
                     std::to_string(plan.standing_max) + " to " +
                     std::to_string(plan.route.max_load) + ", level " +
                     std::to_string(plan.level_max) + ":";
  for (const JitCopy& copy : plan.copies) {
    text += " " + std::to_string(copy.expert) + ">" + std::to_string(copy.rank);
  }
  return text;
}

}  // namespace plimsoll
