#include "plimsoll/just_in_time.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include "balance/random.h"
#include "plimsoll/just_in_time_rules.h"

namespace plimsoll {
namespace {

struct Batch {
  Placement placement;
  RouteOptions route;
  std::vector<int32_t> counts;  // [ranks, experts]
  std::vector<int32_t> active_tokens;
};

Batch random_batch(SplitMix64& random, int max_ranks, int max_experts_per_rank, int max_count) {
  Batch b;
  const int num_ranks = 1 + static_cast<int>(random.below(max_ranks));
  const int per_rank = 1 + static_cast<int>(random.below(max_experts_per_rank));
  const int num_redundant = num_ranks * static_cast<int>(random.below(2));
  const int num_experts = num_ranks * per_rank;
  b.placement = *trivial_placement(1, num_experts, num_redundant, num_ranks);
  auto& slots = b.placement.physical_to_logical;
  for (int i = num_experts; i < b.placement.num_physical_experts; ++i) {
    slots[i] = static_cast<int32_t>(random.below(num_experts));
  }
  for (int i = b.placement.num_physical_experts - 1; i > 0; --i) {
    std::swap(slots[i], slots[random.below(i + 1)]);
  }
  b.route.waterfill = random.below(2) == 0;
  b.route.jit.slots_per_rank = static_cast<int>(random.below(4));
  b.route.jit.tolerance = {static_cast<int32_t>(random.below(3)) * 10, 100};
  b.route.jit.min_tokens = 1 + static_cast<int32_t>(random.below(2)) * 3;
  b.route.jit.ranks_per_domain = random.below(2) == 0 ? 0 : 2;
  b.active_tokens.resize(num_ranks);
  for (int s = 0; s < num_ranks; ++s) {
    const uint32_t skew = 1 + random.below(4);
    for (int e = 0; e < num_experts; ++e) {
      uint32_t n = random.below(max_count + 1);
      for (uint32_t i = 1; i < skew; ++i) n = std::min(n, random.below(max_count + 1));
      if (e == 0) n *= 1 + random.below(8);  // one expert hotter than the others
      b.counts.push_back(static_cast<int32_t>(n));
    }
    b.active_tokens[s] = static_cast<int32_t>(random.below(2 * max_count + 1));
  }
  return b;
}

struct Answer {
  JitTables tables;
  JitWorkspace workspace;
  JitPlan plan;
};

Answer solve(const Batch& b) {
  Result<JitTables> tables = make_jit_tables(b.placement, 0, b.route);
  EXPECT_TRUE(tables.ok());
  Answer a{*tables, JitWorkspace(*tables), JitPlan(*tables)};
  EXPECT_TRUE(jit_route(a.tables, b.counts, b.active_tokens, a.workspace, a.plan).ok());
  return a;
}

// The placement with the copies in it; spare slots without one repeat an expert of their rank.
Placement with_copies(const Placement& standing, std::span<const JitCopy> copies, int num_spare) {
  Placement p = standing;
  const int slots_per_rank = standing.slots_per_rank() + num_spare;
  p.num_physical_experts = standing.num_ranks * slots_per_rank;
  p.physical_to_logical.clear();
  for (int r = 0; r < p.num_ranks; ++r) {
    const auto own = standing.layer(0).subspan(static_cast<size_t>(r) * standing.slots_per_rank(),
                                               standing.slots_per_rank());
    p.physical_to_logical.insert(p.physical_to_logical.end(), own.begin(), own.end());
    p.physical_to_logical.insert(p.physical_to_logical.end(), num_spare, own[0]);
  }
  for (const JitCopy& copy : copies) p.physical_to_logical[copy.slot] = copy.expert;
  return p;
}

RoutePlan route_with(const Batch& b, const Placement& placement) {
  const RouteTables tables = *make_route_tables(placement, 0, b.route);
  RouteWorkspace workspace(tables);
  RoutePlan plan(tables);
  EXPECT_TRUE(route(tables, b.counts, b.active_tokens, workspace, plan).ok());
  return plan;
}

void expect_sound_copies(const Batch& b, const Answer& a) {
  const ReplicaTable replicas = replica_table(b.placement, 0);
  std::set<int32_t> slots;
  std::set<std::pair<int32_t, int32_t>> made;
  for (const JitCopy& c : a.plan.copies) {
    const auto begin = replicas.rank.begin() + replicas.begin[c.expert];
    const auto end = replicas.rank.begin() + replicas.begin[c.expert + 1];
    EXPECT_FALSE(std::binary_search(begin, end, c.rank)) << "it is there already";
    EXPECT_TRUE(std::binary_search(begin, end, c.from)) << "it is not there to copy";
    EXPECT_EQ(c.slot / a.tables.slots_per_rank(), c.rank);
    EXPECT_GE(c.slot % a.tables.slots_per_rank(), b.placement.slots_per_rank());
    EXPECT_TRUE(slots.insert(c.slot).second);
    EXPECT_TRUE(made.insert({c.expert, c.rank}).second);
  }
}

void expect_all_served(const Batch& b, const Answer& a, const Placement& extended) {
  const int num_experts = b.placement.num_logical_experts;
  for (int s = 0; s < b.placement.num_ranks; ++s) {
    std::vector<int32_t> served(num_experts, 0);
    const auto quota = a.plan.route.routed_by(s);
    for (size_t slot = 0; slot < quota.size(); ++slot) {
      ASSERT_GE(quota[slot], 0);
      served[extended.physical_to_logical[slot]] += quota[slot];
    }
    EXPECT_TRUE(std::equal(served.begin(), served.end(),
                           b.counts.begin() + static_cast<ptrdiff_t>(s) * num_experts));
  }
}

TEST(JustInTime, IsWhatExactRoutingMakesOfTheCopies) {
  SplitMix64 random{1};
  for (int i = 0; i < 3000; ++i) {
    const Batch b = random_batch(random, 9, 6, 40);
    const Answer a = solve(b);
    const RoutePlan standing = route_with(b, b.placement);
    const Placement extended = with_copies(b.placement, a.plan.copies, b.route.jit.slots_per_rank);
    const RoutePlan oracle = route_with(b, extended);
    expect_sound_copies(b, a);
    expect_all_served(b, a, extended);
    EXPECT_EQ(a.plan.standing_max, standing.max_load);
    EXPECT_EQ(a.plan.route.max_load, oracle.max_load);
    EXPECT_EQ(a.plan.route.num_messages, oracle.num_messages);
    EXPECT_EQ(a.plan.route.rank_load.size(), oracle.rank_load.size());
    EXPECT_LE(a.plan.route.max_load, standing.max_load);
    EXPECT_GE(a.plan.route.max_load, a.plan.level_max);
    EXPECT_LE(a.plan.min_copies,
              static_cast<int32_t>(a.plan.copies.size()) + (a.plan.copies.empty() ? 1000 : 0));
    if (testing::Test::HasFailure()) FAIL() << "case " << i << ": " << to_string(a.plan);
  }
}

TEST(JustInTime, WithoutSpareSlotsIsRoute) {
  SplitMix64 random{2};
  for (int i = 0; i < 500; ++i) {
    Batch b = random_batch(random, 9, 6, 40);
    b.route.jit.slots_per_rank = 0;
    const Answer a = solve(b);
    const RoutePlan plain = route_with(b, b.placement);
    EXPECT_TRUE(a.plan.copies.empty());
    EXPECT_EQ(a.plan.route.routed, plain.routed);
    EXPECT_EQ(a.plan.route.shared, plain.shared);
  }
}

TEST(JustInTime, WithSlotsEnoughIsLevel) {
  SplitMix64 random{3};
  for (int i = 0; i < 1000; ++i) {
    Batch b = random_batch(random, 9, 6, 40);
    b.route.jit = {.slots_per_rank = b.placement.num_logical_experts, .tolerance = {0, 1}};
    const Answer a = solve(b);
    EXPECT_EQ(a.plan.route.max_load, a.plan.level_max) << to_string(a.plan);
  }
}

// The least number of copies that brings the maximum down to `goal`, by trying all sets of them.
int brute_force(const Batch& b, int64_t goal, int limit) {
  std::vector<JitCopy> chosen;
  const ReplicaTable replicas = replica_table(b.placement, 0);
  const int num_spare = b.route.jit.slots_per_rank;
  const int per_rank = b.placement.slots_per_rank() + num_spare;
  const auto try_more = [&](auto self, int from, int left) -> bool {
    if (left == 0) {
      return route_with(b, with_copies(b.placement, chosen, num_spare)).max_load <= goal;
    }
    for (int i = from; i < b.placement.num_logical_experts * b.placement.num_ranks; ++i) {
      const int32_t rank = i % b.placement.num_ranks;
      const int32_t expert = i / b.placement.num_ranks;
      const auto begin = replicas.rank.begin() + replicas.begin[expert];
      if (std::binary_search(begin, replicas.rank.begin() + replicas.begin[expert + 1], rank)) {
        continue;
      }
      const auto used = static_cast<int32_t>(
          std::ranges::count(chosen, rank, [](const JitCopy& c) { return c.rank; }));
      if (used == num_spare) continue;
      chosen.push_back({expert, 0, rank, rank * per_rank + b.placement.slots_per_rank() + used});
      const bool reached = self(self, i + 1, left - 1);
      chosen.pop_back();
      if (reached) return true;
    }
    return false;
  };
  for (int k = 0; k <= limit; ++k) {
    if (try_more(try_more, 0, k)) return k;
  }
  return limit + 1;
}

TEST(JustInTime, NeedsHardlyMoreCopiesThanTheFewest) {
  SplitMix64 random{4};
  int num_cases = 0, num_fewest = 0, num_bound_tight = 0;
  while (num_cases < 200) {
    Batch b = random_batch(random, 4, 3, 9);
    b.route.jit.slots_per_rank = 2;
    b.route.jit.min_tokens = 1;
    const Answer a = solve(b);
    const auto found = static_cast<int>(a.plan.copies.size());
    if (found == 0) continue;
    const int64_t goal = std::max(a.plan.target, a.plan.route.max_load);
    const int fewest = brute_force(b, goal, found);
    ++num_cases;
    EXPECT_LE(a.plan.min_copies, fewest) << to_string(a.plan);
    EXPECT_LE(found, fewest + 1) << to_string(a.plan);
    num_fewest += found == fewest;
    num_bound_tight += a.plan.min_copies == fewest;
  }
  EXPECT_GE(num_fewest, num_cases * 9 / 10);
  EXPECT_GE(num_bound_tight, num_cases * 8 / 10);
}

// Zipf's law over experts in random order, so that a rank may hold several hot ones.
Batch zipf_batch(SplitMix64& random, int num_ranks, double exponent) {
  constexpr int kNumExperts = 256;
  Batch b;
  b.placement = *trivial_placement(1, kNumExperts, 0, num_ranks);
  b.route.num_shared_experts = 0;
  b.active_tokens.assign(num_ranks, 4096);
  std::vector<int> order(kNumExperts);
  std::iota(order.begin(), order.end(), 0);
  for (int i = kNumExperts - 1; i > 0; --i) std::swap(order[i], order[random.below(i + 1)]);
  b.counts.resize(static_cast<size_t>(num_ranks) * kNumExperts);
  for (int32_t& count : b.counts) {
    const auto e = static_cast<size_t>(&count - b.counts.data()) % kNumExperts;
    count = static_cast<int32_t>(4000 * std::pow(order[e] + 1, -exponent)) +
            static_cast<int32_t>(random.below(8));
  }
  return b;
}

JitRuleResult apply(JitRule rule, const Batch& b) {
  const int num_experts = b.placement.num_logical_experts;
  std::vector<int32_t> load(num_experts, 0), home(num_experts);
  for (size_t i = 0; i < b.counts.size(); ++i) load[i % num_experts] += b.counts[i];
  for (int slot = 0; slot < b.placement.num_physical_experts; ++slot) {
    home[b.placement.physical_to_logical[slot]] = slot / b.placement.slots_per_rank();
  }
  return apply_rule(rule, load, home, b.placement.num_ranks, b.route.jit.slots_per_rank,
                    b.route.jit.min_tokens);
}

TEST(JustInTime, NeedsNoMoreCopiesThanPublishedRules) {
  SplitMix64 random{5};
  for (const int num_ranks : {8, 16, 32}) {
    int64_t ours = 0, ultra_ep = 0, moon_ep = 0;
    for (int i = 0; i < 40; ++i) {
      Batch b = zipf_batch(random, num_ranks, 0.5 + 0.2 * (i % 5));
      b.route.jit.slots_per_rank = 4;
      const Answer a = solve(b);
      const JitRuleResult ultra = apply(JitRule::kUltraEp, b);
      EXPECT_LE(a.plan.route.max_load, a.plan.target);
      EXPECT_LE(static_cast<int32_t>(a.plan.copies.size()), ultra.num_copies) << to_string(a.plan);
      ours += static_cast<int64_t>(a.plan.copies.size());
      ultra_ep += ultra.num_copies;
      b.route.jit.slots_per_rank = 256 / num_ranks;
      moon_ep += apply(JitRule::kMoonEp, b).num_copies;
    }
    EXPECT_LT(ours, ultra_ep);
    EXPECT_LT(ultra_ep, moon_ep);
  }
}

TEST(JustInTime, CopiesOnlyWhereThatIsQuicker) {
  SplitMix64 random{6};
  for (int i = 0; i < 200; ++i) {
    Batch b = zipf_batch(random, 8, 1.0);
    b.route.jit.slots_per_rank = 2;
    b.route.jit.cost = {
        .ns_per_token = 100, .ns_per_expert = 10, .ns_per_copy = 1 << random.below(31)};
    const Answer a = solve(b);
    EXPECT_LE(a.plan.predicted_ns, a.plan.standing_ns);
    EXPECT_EQ(a.plan.copies.empty(), a.plan.route.max_load == a.plan.standing_max);
    b.route.jit.cost.ns_per_copy = 0;
    EXPECT_FALSE(solve(b).plan.copies.empty());
    b.route.jit.cost.ns_per_copy = int64_t{1} << 40;
    EXPECT_TRUE(solve(b).plan.copies.empty());
  }
}

TEST(JustInTime, RefusesWhatItDoesNotKnow) {
  const Placement p = *trivial_placement(1, 8, 0, 4);
  const auto fails = [&](RouteOptions route, const JitOptions& jit) {
    route.jit = jit;
    return !make_jit_tables(p, 0, route).ok();
  };
  const JitOptions two_slots{.slots_per_rank = 2};
  EXPECT_TRUE(fails({.algorithm = DispatchAlgorithm::kStatic}, two_slots));
  EXPECT_TRUE(fails({.objective = RouteObjective::kExperts}, two_slots));
  EXPECT_TRUE(fails({.waterfill = true, .shared_cost = {1, 2}}, two_slots));
  EXPECT_FALSE(fails({.algorithm = DispatchAlgorithm::kStatic}, {}));
  EXPECT_TRUE(fails({}, {.slots_per_rank = -1}));
  EXPECT_TRUE(fails({}, {.min_tokens = 0}));
  EXPECT_TRUE(fails({}, {.tolerance = {1, 0}}));
  EXPECT_FALSE(fails({}, two_slots));
}

}  // namespace
}  // namespace plimsoll
