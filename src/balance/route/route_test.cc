#include "plimsoll/route.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <set>

#include "balance/random.h"
#include "balance/route/route_reference.h"

namespace plimsoll {
namespace {

Placement random_placement(SplitMix64& random, int num_experts, int num_redundant, int num_ranks) {
  Placement p = *trivial_placement(1, num_experts, num_redundant, num_ranks);
  for (int i = num_experts; i < p.num_physical_experts; ++i) {
    p.physical_to_logical[i] = static_cast<int32_t>(random.below(num_experts));
  }
  for (int i = p.num_physical_experts - 1; i > 0; --i) {
    std::swap(p.physical_to_logical[i], p.physical_to_logical[random.below(i + 1)]);
  }
  return p;
}

Case random_case(
    SplitMix64& random, int num_ranks, int num_experts, int num_redundant, int max_tokens) {
  Case c;
  c.placement = random_placement(random, num_experts, num_redundant, num_ranks);
  c.k = 1 + static_cast<int>(random.below(std::min(num_experts, 8)));
  c.counts.assign(static_cast<size_t>(num_ranks) * num_experts, 0);
  c.active_tokens.assign(num_ranks, 0);
  c.topk_ids.resize(num_ranks);
  const uint32_t skew = 1 + random.below(4);
  for (int s = 0; s < num_ranks; ++s) {
    const int num_tokens = static_cast<int>(random.below(max_tokens + 1));
    for (int t = 0; t < num_tokens; ++t) {
      std::set<int32_t> chosen;
      while (static_cast<int>(chosen.size()) < c.k) {
        uint32_t e = random.below(num_experts);
        for (uint32_t i = 1; i < skew; ++i) e = std::min(e, random.below(num_experts));
        chosen.insert(static_cast<int32_t>(e));
      }
      const bool is_padding = random.below(16) == 0;
      for (const int32_t e : chosen) {
        c.topk_ids[s].push_back(is_padding ? -1 : e);
        if (!is_padding) ++c.counts[static_cast<size_t>(s) * num_experts + e];
      }
      if (!is_padding) ++c.active_tokens[s];
    }
  }
  return c;
}

struct Routed {
  RouteTables tables;
  RouteWorkspace workspace;
  RoutePlan plan;
};

Routed run(const Case& c) {
  auto tables = make_route_tables(c.placement, 0, c.options);
  EXPECT_TRUE(tables.ok());
  Routed routed{*tables, RouteWorkspace(*tables), RoutePlan(*tables)};
  EXPECT_TRUE(route(routed.tables, c.counts, c.active_tokens, routed.workspace, routed.plan).ok());
  return routed;
}

// The quotas serve every choice at a rank that can, and the plan's sums are those of its quotas.
void check_plan(const Case& c, const Routed& routed) {
  const RoutePlan& plan = routed.plan;
  const Placement& p = c.placement;
  std::vector<int64_t> load(p.num_ranks, 0);
  int64_t messages = 0;
  for (int s = 0; s < p.num_ranks; ++s) {
    std::vector<int32_t> served(p.num_logical_experts, 0);
    for (int slot = 0; slot < p.num_physical_experts; ++slot) {
      const int32_t n = plan.routed_by(s)[slot];
      RC_ASSERT(n >= 0);
      served[p.physical_to_logical[slot]] += n;
      load[slot / p.slots_per_rank()] +=
          int64_t{n} * c.options.shared_cost.den * rank_cost(c, slot / p.slots_per_rank());
      if (slot / p.slots_per_rank() != s) messages += n;
    }
    RC_ASSERT(
        std::equal(served.begin(), served.end(), &c.counts[size_t(s) * p.num_logical_experts]));
    int64_t shared = 0;
    for (int r = 0; r < p.num_ranks; ++r) {
      const int32_t n = plan.shared_by(s)[r];
      RC_ASSERT(n >= 0);
      RC_ASSERT(c.options.waterfill || r == s || n == 0);
      shared += n;
      load[r] += int64_t{n} * c.options.shared_cost.num * rank_cost(c, r);
      if (r != s) messages += n;
    }
    RC_ASSERT(shared == int64_t{c.active_tokens[s]} * c.options.num_shared_experts);
  }
  if (c.options.objective == RouteObjective::kTokens) RC_ASSERT(load == plan.rank_load);
  RC_ASSERT(messages == plan.num_messages);
  RC_ASSERT(plan.max_load == *std::max_element(plan.rank_load.begin(), plan.rank_load.end()));
  RC_ASSERT(plan.lower_bound <= plan.max_load);
}

// The tokens get experts they asked for, in numbers that exhaust the quotas.
void check_assignment(const Case& c, Routed& routed) {
  const Placement& p = c.placement;
  for (int s = 0; s < p.num_ranks; ++s) {
    const std::vector<int32_t>& ids = c.topk_ids[s];
    const size_t num_tokens = ids.size() / c.k;
    std::vector<int32_t> physical(ids.size());
    std::vector<int32_t> shared(num_tokens * c.options.num_shared_experts);
    const Status status =
        assign(routed.tables, routed.plan, s, ids, c.k, routed.workspace, physical, shared);
    RC_ASSERT(status.ok());
    std::vector<int32_t> used(p.num_physical_experts, 0);
    std::vector<int32_t> shared_used(p.num_ranks, 0);
    for (size_t i = 0; i < ids.size(); ++i) {
      RC_ASSERT((ids[i] == -1) == (physical[i] == -1));
      if (ids[i] == -1) continue;
      RC_ASSERT(p.physical_to_logical.at(physical[i]) == ids[i]);
      ++used[physical[i]];
    }
    for (size_t i = 0; i < shared.size(); ++i) {
      RC_ASSERT((shared[i] == -1) == (ids[i / c.options.num_shared_experts * c.k] == -1));
      if (shared[i] >= 0) ++shared_used.at(shared[i]);
    }
    RC_ASSERT(std::equal(used.begin(), used.end(), routed.plan.routed_by(s).begin()));
    RC_ASSERT(std::equal(shared_used.begin(), shared_used.end(), routed.plan.shared_by(s).begin()));
  }
}

RC_GTEST_PROP(Route, EqualsBruteForceOnSmallCases, (uint64_t seed)) {
  SplitMix64 random{seed};
  for (int round = 0; round < 10; ++round) {
    const int num_ranks = 1 + static_cast<int>(random.below(4));
    const int num_experts = num_ranks * (1 + static_cast<int>(random.below(2)));
    const int num_redundant = num_ranks * static_cast<int>(random.below(3));
    Case c = random_case(random, num_ranks, num_experts, num_redundant, 3);
    c.options.waterfill = random.below(2) == 1;
    c.options.num_shared_experts = static_cast<int>(random.below(3));
    Routed routed = run(c);
    check_plan(c, routed);
    check_assignment(c, routed);
    const Best best = brute_force(c);
    RC_ASSERT(routed.plan.max_load == best.max_load);
    RC_ASSERT(routed.plan.lower_bound == best.max_load);
    RC_ASSERT(routed.plan.num_messages == best.num_messages);
  }
}

RC_GTEST_PROP(Route, EqualsTheSubsetBound, (uint64_t seed)) {
  SplitMix64 random{seed};
  for (int round = 0; round < 30; ++round) {
    const int num_ranks = 2 + static_cast<int>(random.below(7));
    const int num_experts = num_ranks * (1 + static_cast<int>(random.below(8)));
    const int num_redundant = num_ranks * static_cast<int>(random.below(4));
    Case c = random_case(random, num_ranks, num_experts, num_redundant, 60);
    c.options.waterfill = random.below(2) == 1;
    Routed routed = run(c);
    check_plan(c, routed);
    check_assignment(c, routed);
    RC_ASSERT(routed.plan.max_load == subset_bound(c));
    RC_ASSERT(routed.plan.lower_bound == routed.plan.max_load);
    RC_ASSERT(confined_bound(c, routed.plan) == routed.plan.max_load);
  }
}

RC_GTEST_PROP(Route, ProvesItsMaximumAtAnyEpSize, (uint64_t seed)) {
  SplitMix64 random{seed};
  const int num_ranks = 9 + static_cast<int>(random.below(120));
  const int num_experts = num_ranks * (1 + static_cast<int>(random.below(3)));
  Case c = random_case(random, num_ranks, num_experts,
                       num_ranks * static_cast<int>(random.below(4)), 40);
  c.options.waterfill = random.below(2) == 1;
  Routed routed = run(c);
  check_plan(c, routed);
  check_assignment(c, routed);
  RC_ASSERT(routed.plan.lower_bound == routed.plan.max_load);
  RC_ASSERT(confined_bound(c, routed.plan) == routed.plan.max_load);
}

// Of the shared experts a source sends away: how many could go where their token goes anyway, rank
// by rank, and how many do.
struct Following {
  int64_t possible = 0;
  int64_t actual = 0;
};

Following count_following(const Case& c, Routed& routed, int source) {
  const std::vector<int32_t>& ids = c.topk_ids[source];
  std::vector<int32_t> physical(ids.size());
  std::vector<int32_t> shared(ids.size() / c.k);
  EXPECT_TRUE(
      assign(routed.tables, routed.plan, source, ids, c.k, routed.workspace, physical, shared)
          .ok());
  Following following;
  for (int r = 0; r < c.placement.num_ranks; ++r) {
    if (r == source) continue;
    int64_t num_visitors = 0;
    for (size_t i = 0; i < shared.size(); ++i) {
      const auto token = std::span(physical).subspan(i * c.k, c.k);
      const bool visits = std::any_of(token.begin(), token.end(), [&](int32_t slot) {
        return slot >= 0 && slot / c.placement.slots_per_rank() == r;
      });
      num_visitors += visits;
      following.actual += visits && shared[i] == r;
    }
    following.possible += std::min<int64_t>(routed.plan.shared_by(source)[r], num_visitors);
  }
  return following;
}

TEST(Route, SharedExpertsFollowTheirTokens) {
  SplitMix64 random{5};
  for (const int num_ranks : {8, 32}) {
    Following sum;
    for (int round = 0; round < 20; ++round) {
      Case c = random_case(random, num_ranks, 256, 32, 200);
      c.options.waterfill = true;
      Routed routed = run(c);
      for (int s = 0; s < num_ranks; ++s) {
        const Following following = count_following(c, routed, s);
        sum.possible += following.possible;
        sum.actual += following.actual;
      }
    }
    ASSERT_GT(sum.possible, 1000);
    EXPECT_GE(sum.actual * 100, sum.possible * 96);
  }
}

RC_GTEST_PROP(Route, OtherPoliciesAreValidAndNeverBetter, (uint64_t seed)) {
  SplitMix64 random{seed};
  for (int round = 0; round < 20; ++round) {
    const int num_ranks = 1 + static_cast<int>(random.below(16));
    Case c = random_case(random, num_ranks, num_ranks * 4, num_ranks * 2, 40);
    c.options.waterfill = random.below(2) == 1;
    const int64_t best = run(c).plan.max_load;
    for (const auto algorithm : {DispatchAlgorithm::kStatic, DispatchAlgorithm::kDynamic}) {
      c.options.algorithm = algorithm;
      Routed routed = run(c);
      check_plan(c, routed);
      check_assignment(c, routed);
      RC_ASSERT(routed.plan.max_load == routed.plan.lower_bound);
      RC_ASSERT(routed.plan.max_load >= best);
    }
  }
}

RC_GTEST_PROP(Route, SglangsWaterfillIsValidAndNeverBetter, (uint64_t seed)) {
  SplitMix64 random{seed};
  const int num_ranks = 1 + static_cast<int>(random.below(16));
  Case c = random_case(random, num_ranks, num_ranks * 4, num_ranks * 2, 150);
  c.options.waterfill = true;
  const int64_t best = run(c).plan.max_load;
  c.options.seed = seed;
  for (const auto rule : {WaterfillRule::kSglang, WaterfillRule::kSglangGlobal}) {
    for (const auto algorithm :
         {DispatchAlgorithm::kStatic, DispatchAlgorithm::kDynamic, DispatchAlgorithm::kExact}) {
      c.options.waterfill_rule = rule;
      c.options.algorithm = algorithm;
      Routed routed = run(c);
      const RoutePlan at_home = routed.plan;
      std::vector<std::vector<int32_t>> drawn(num_ranks);
      for (int s = 0; s < num_ranks; ++s) {
        std::vector<int32_t> physical(c.topk_ids[s].size());
        drawn[s].resize(physical.size() / c.k);
        RC_ASSERT(assign(routed.tables, routed.plan, s, c.topk_ids[s], c.k, routed.workspace,
                         physical, drawn[s])
                      .ok());
        RC_ASSERT(enter_shared_ranks(routed.tables, s, drawn[s], routed.plan).ok());
        const auto at_work = std::ranges::count_if(drawn[s], [](int32_t r) { return r >= 0; });
        RC_ASSERT(at_work == c.active_tokens[s]);
        for (int r = 0; r < num_ranks; ++r) {
          RC_ASSERT(routed.plan.shared_by(s)[r] == std::ranges::count(drawn[s], r));
        }
        if (drawn[s].size() < 64) RC_ASSERT(at_work == routed.plan.shared_by(s)[s]);
      }
      check_plan(c, routed);
      RC_ASSERT(routed.plan.routed == at_home.routed);
      RC_ASSERT(routed.plan.max_load >= best);
      for (int s = 0; s < num_ranks; ++s) {  // the same draws again, though all are entered
        std::vector<int32_t> physical(c.topk_ids[s].size()), again(drawn[s].size());
        RC_ASSERT(assign(routed.tables, routed.plan, s, c.topk_ids[s], c.k, routed.workspace,
                         physical, again)
                      .ok());
        RC_ASSERT(again == drawn[s]);
      }
    }
  }
}

// Ranks of different cost, some masked out, where every expert still has a copy.
void mask_and_slow_ranks(SplitMix64& random, Case& c) {
  const int num_ranks = c.placement.num_ranks;
  c.options.rank_cost.resize(num_ranks);
  for (int32_t& cost : c.options.rank_cost) cost = static_cast<int32_t>(random.below(5));
  c.options.rank_cost[random.below(num_ranks)] = 1;
  if (!make_route_tables(c.placement, 0, c.options).ok()) {
    for (int32_t& cost : c.options.rank_cost) cost = std::max(cost, 1);
  }
  for (int s = 0; s < num_ranks; ++s) {
    if (c.options.rank_cost[s] > 0) continue;
    c.topk_ids[s].clear();
    c.active_tokens[s] = 0;
    std::fill_n(c.counts.begin() + s * c.placement.num_logical_experts,
                c.placement.num_logical_experts, 0);
  }
}

RC_GTEST_PROP(Route, SharedExpertOfAnyCostOnRanksOfAnySpeed, (uint64_t seed)) {
  SplitMix64 random{seed};
  for (int round = 0; round < 2; ++round) {
    const int num_ranks = 1 + static_cast<int>(random.below(4));
    Case c = random_case(random, num_ranks, num_ranks * 2, num_ranks * 2, 3);
    c.options.waterfill = random.below(2) == 1;
    c.options.shared_cost = {static_cast<int32_t>(random.below(4)),
                             1 + static_cast<int32_t>(random.below(3))};
    if (random.below(2) == 1) mask_and_slow_ranks(random, c);
    Routed routed = run(c);
    c.options.shared_cost = routed.tables.options.shared_cost;  // reduced
    check_plan(c, routed);
    check_assignment(c, routed);
    const Best best = brute_force(c);
    RC_ASSERT(routed.plan.max_load == best.max_load);
    RC_ASSERT(routed.plan.lower_bound == best.max_load);
    RC_ASSERT(routed.plan.num_messages == best.num_messages);
  }
}

RC_GTEST_PROP(Route, LumpsOvershootByLessThanOne, (uint64_t seed)) {
  SplitMix64 random{seed};
  Case c = random_case(random, 8, 32, 8 * static_cast<int>(random.below(3)), 60);
  c.options.waterfill = true;
  c.options.shared_cost = {2 + static_cast<int32_t>(random.below(5)),
                           1 + static_cast<int32_t>(random.below(3))};
  Routed routed = run(c);
  c.options.shared_cost = routed.tables.options.shared_cost;
  check_plan(c, routed);
  check_assignment(c, routed);
  RC_ASSERT(routed.plan.max_load < routed.plan.lower_bound + c.options.shared_cost.num);
}

RC_GTEST_PROP(Route, FewestExpertsAtWork, (uint64_t seed)) {
  SplitMix64 random{seed};
  const int num_ranks = 1 + static_cast<int>(random.below(4));
  Case c = random_case(random, num_ranks, num_ranks * 3, num_ranks * 2, 3);
  c.options.objective = RouteObjective::kExperts;
  if (random.below(2) == 1) mask_and_slow_ranks(random, c);
  Routed routed = run(c);
  check_plan(c, routed);
  check_assignment(c, routed);
  std::vector<int64_t> shared(num_ranks);
  for (int r = 0; r < num_ranks; ++r) shared[r] = c.active_tokens[r] > 0 ? rank_cost(c, r) : 0;
  const int64_t best = brute_force_whole_experts(c, shared, [](int64_t) { return 1; });
  RC_ASSERT(routed.plan.max_load == best);
  RC_ASSERT(routed.plan.lower_bound == best);
}

RC_GTEST_PROP(Route, LeastTime, (uint64_t seed)) {
  SplitMix64 random{seed};
  const int num_ranks = 1 + static_cast<int>(random.below(4));
  Case c = random_case(random, num_ranks, num_ranks * 3, num_ranks * 2, 6);
  if (random.below(2) == 1) mask_and_slow_ranks(random, c);
  c.options.objective = RouteObjective::kTime;
  c.options.ns_per_expert = static_cast<int32_t>(random.below(50));
  c.options.ns_per_token = static_cast<int32_t>(random.below(5));
  Routed routed = run(c);
  check_plan(c, routed);
  check_assignment(c, routed);
  std::vector<int64_t> shared(num_ranks);
  for (int r = 0; r < num_ranks; ++r) {
    if (c.active_tokens[r] == 0) continue;
    shared[r] = rank_cost(c, r) *
                (c.options.ns_per_expert + int64_t{c.options.ns_per_token} * c.active_tokens[r]);
  }
  const auto time = [&](int64_t tokens) {
    return c.options.ns_per_expert + c.options.ns_per_token * tokens;
  };
  const int64_t best_whole = brute_force_whole_experts(c, shared, time);
  RC_ASSERT(routed.plan.max_load >= routed.plan.lower_bound);
  RC_ASSERT(static_cast<double>(routed.plan.max_load) <= 1.25 * static_cast<double>(best_whole));
  RC_ASSERT(routed.plan.lower_bound <= best_whole);
  if (c.options.ns_per_expert == 0) RC_ASSERT(routed.plan.max_load == routed.plan.lower_bound);
}

TEST(Route, RefusesWhatCannotBe) {
  const Placement placement = *trivial_placement(1, 4, 0, 2);
  RouteOptions options;
  options.rank_cost = {1, 0};
  EXPECT_NE(make_route_tables(placement, 0, options).error().message.find("masked ranks only"),
            std::string::npos);
  options.rank_cost = {1};
  EXPECT_FALSE(make_route_tables(placement, 0, options).ok());
  options = {};
  options.objective = RouteObjective::kExperts;
  options.waterfill = true;
  EXPECT_NE(make_route_tables(placement, 0, options).error().message.find("leave waterfill out"),
            std::string::npos);
  options.waterfill = false;
  options.algorithm = DispatchAlgorithm::kStatic;
  EXPECT_FALSE(make_route_tables(placement, 0, options).ok());
  options = {.waterfill = true, .waterfill_rule = WaterfillRule::kSglang, .num_shared_experts = 2};
  EXPECT_NE(make_route_tables(placement, 0, options).error().message.find("one shared expert"),
            std::string::npos);
  const Placement copied{1, 2, 4, 2, {0, 1, 0, 1}};
  options = {};
  options.rank_cost = {1, 0};
  const auto tables = make_route_tables(copied, 0, options);
  ASSERT_TRUE(tables.ok());
  RouteWorkspace workspace(*tables);
  RoutePlan plan(*tables);
  EXPECT_TRUE(route(*tables, std::vector{1, 0, 0, 0}, std::vector{1, 0}, workspace, plan).ok());
  EXPECT_NE(route(*tables, std::vector{0, 0, 1, 0}, std::vector{0, 1}, workspace, plan)
                .error()
                .message.find("rank 1 is masked out but has tokens"),
            std::string::npos);
  EXPECT_FALSE(route(*tables, std::vector{-1, 0, 0, 0}, std::vector{0, 0}, workspace, plan).ok());
  EXPECT_FALSE(route(*tables, std::vector{1, 0}, std::vector{0, 0}, workspace, plan).ok());
}

}  // namespace
}  // namespace plimsoll
