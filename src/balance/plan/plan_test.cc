#include "plimsoll/plan.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <bit>
#include <numeric>

#include "balance/measure/bounds.h"
#include "balance/plan/plimsoll.h"
#include "balance/random.h"

namespace plimsoll {
namespace {

LoadHistory one_step(int num_layers, int num_experts, std::vector<int64_t> counts) {
  return {1, num_layers, num_experts, std::move(counts)};
}

std::vector<int64_t> random_load(SplitMix64& random, int num_experts) {
  std::vector<int64_t> load(num_experts);
  for (int64_t& n : load) n = random.below(4) == 0 ? random.below(1000) : random.below(40);
  load[0] += 1;
  return load;
}

// max over rank sets of the load confined to them, over their number, rounded up.
int64_t subset_max(const Placement& p, std::span<const int64_t> load) {
  std::vector<size_t> ranks(load.size(), 0);
  for (int slot = 0; slot < p.num_physical_experts; ++slot) {
    ranks[p.physical_to_logical[slot]] |= size_t{1} << (slot / p.slots_per_rank());
  }
  int64_t result = 0;
  for (size_t set = 1; set < size_t{1} << p.num_ranks; ++set) {
    int64_t confined = 0;
    for (size_t e = 0; e < load.size(); ++e) confined += (ranks[e] & ~set) == 0 ? load[e] : 0;
    result = std::max(result, (confined + std::popcount(set) - 1) / std::popcount(set));
  }
  return result;
}

TEST(Plan, RefusesWithReasonAndFix) {
  const LoadHistory load = one_step(1, 8, {1, 2, 3, 4, 5, 6, 7, 8});
  PlanOptions options;
  options.num_ranks = 4;
  options.algorithm = "deepsek";
  std::string names;
  for (const std::string_view name : eplb_algorithms()) {
    names += names.empty() ? "" : ", ";
    names += name;
  }
  EXPECT_EQ(make_plan(load, options).error().message,
            "unknown algorithm 'deepsek'; use one of " + names);
  options.algorithm = "deepseek";
  options.num_redundant_experts = 2;
  EXPECT_NE(make_plan(load, options).error().message.find("use 0 or 4 redundant experts"),
            std::string::npos);
  options.num_redundant_experts = 0;
  const auto empty = make_plan(one_step(1, 8, std::vector<int64_t>(8, 0)), options);
  EXPECT_NE(empty.error().message.find("the load is all zero"), std::string::npos);
  EXPECT_FALSE(make_plan(one_step(1, 8, {1, 2}), options).ok());
  EXPECT_FALSE(make_plan(one_step(1, 2, {-1, 2}), options).ok());
  options.active_ranks = {1, 0, 1, 1};
  EXPECT_NE(make_plan(load, options).error().message.find("use elasticity_aware"),
            std::string::npos);
  options.algorithm = "elasticity_aware";
  EXPECT_NE(make_plan(load, options).error().message.find("more redundant experts"),
            std::string::npos);
  options.active_ranks.clear();
  options.algorithm = "deepseek_hierarchical";
  EXPECT_NE(make_plan(load, options).error().message.find("use the global algorithm"),
            std::string::npos);
}

TEST(Plan, EveryNameMakesAValidPlan) {
  SplitMix64 random{1};
  const LoadHistory load = one_step(1, 16, random_load(random, 16));
  PlanOptions options{.num_ranks = 4, .num_redundant_experts = 4, .num_nodes = 2, .num_groups = 4};
  for (const std::string_view name : eplb_algorithms()) {
    options.algorithm = name;
    const auto plan = make_plan(load, options);
    ASSERT_TRUE(plan.ok()) << name << ": " << plan.error().message;
    EXPECT_TRUE(validate(plan->placement).ok()) << name;
    EXPECT_EQ(plan->algorithm, name == "auto" ? "deepseek_hierarchical" : name);
  }
}

TEST(Plan, AutoIsHierarchicalWhereGroupsDivideOverNodes) {
  const LoadHistory load = one_step(1, 8, {1, 2, 3, 4, 5, 6, 7, 8});
  PlanOptions options;
  options.num_ranks = 4;
  options.algorithm = "auto";
  EXPECT_EQ(make_plan(load, options)->algorithm, "deepseek");
  options.num_nodes = 2;
  options.num_groups = 4;
  EXPECT_EQ(make_plan(load, options)->algorithm, "deepseek_hierarchical");
  options.num_groups = 1;
  EXPECT_EQ(make_plan(load, options)->algorithm, "deepseek");
  options.num_groups = 4;
  options.num_redundant_experts = 4;
  options.active_ranks = {1, 1, 0, 1};
  EXPECT_EQ(make_plan(load, options)->algorithm, "elasticity_aware");
}

TEST(Plan, DeadRanksHoldNothing) {
  const LoadHistory load = one_step(1, 6, {60, 50, 40, 30, 20, 10});
  PlanOptions options;
  options.algorithm = "elasticity_aware";
  options.num_ranks = 4;
  options.num_redundant_experts = 6;
  options.active_ranks = {1, 0, 1, 1};
  const auto plan = make_plan(load, options);
  ASSERT_TRUE(plan.ok()) << plan.error().message;
  const auto slots = plan->placement.layer(0).subspan(3, 3);
  EXPECT_TRUE(std::all_of(slots.begin(), slots.end(), [](int32_t e) { return e == 0; }));
  EXPECT_EQ(plan->certificates[0].lower_bound, 70);  // 210 tokens over 3 ranks
  EXPECT_EQ(plan->certificates[0].bound_ranks[1], 0);
}

RC_GTEST_PROP(Plan, CertificateIsTheMinCut, (uint64_t seed)) {
  SplitMix64 random{seed};
  for (int round = 0; round < 10; ++round) {
    const int num_ranks = 1 + static_cast<int>(random.below(8));
    const int num_experts = num_ranks * (1 + static_cast<int>(random.below(4)));
    PlanOptions options;
    options.num_ranks = num_ranks;
    options.num_redundant_experts = num_ranks * static_cast<int>(random.below(3));
    options.algorithm = "deepseek";
    const std::vector<int64_t> counts = random_load(random, num_experts);
    const auto plan = make_plan(one_step(1, num_experts, counts), options);
    RC_ASSERT(plan.ok());
    const Certificate& c = plan->certificates[0];
    RC_ASSERT(c.max_load == subset_max(plan->placement, counts));
    RC_ASSERT(c.max_load >= c.lower_bound);
    RC_ASSERT(c.max_load <= c.max_load_even);
    RC_ASSERT(c.gap() >= 0);
    RC_ASSERT(!explain(c).empty());
  }
}

bool has_double_copy(const Placement& p, int layer) {
  const auto experts = p.layer(layer);
  for (int slot = 0; slot < p.num_physical_experts; ++slot) {
    const auto begin = experts.begin() + slot / p.slots_per_rank() * p.slots_per_rank();
    if (std::count(begin, begin + p.slots_per_rank(), experts[slot]) > 1) return true;
  }
  return false;
}

// A load of several steps over a few sizes of model, with as many redundant experts as may come up.
LoadHistory random_history(SplitMix64& random, PlanOptions& options) {
  options.num_ranks = 1 + static_cast<int>(random.below(9));
  const int num_experts = 1 + static_cast<int>(random.below(40));
  const int most = options.num_ranks * num_experts;  // a copy on every rank
  options.num_redundant_experts =
      (options.num_ranks - num_experts % options.num_ranks) % options.num_ranks +
      options.num_ranks * static_cast<int>(random.below(4));
  while (num_experts + options.num_redundant_experts > most) {
    options.num_redundant_experts -= options.num_ranks;
  }
  LoadHistory load{1 + static_cast<int>(random.below(5)), 2, num_experts, {}};
  for (int i = 0; i < load.num_steps * load.num_layers; ++i) {
    const std::vector<int64_t> step = random_load(random, num_experts);
    load.counts.insert(load.counts.end(), step.begin(), step.end());
  }
  return load;
}

RC_GTEST_PROP(Plimsoll, PlacesEveryExpertAndNoneTwiceOnARank, (uint64_t seed)) {
  SplitMix64 random{seed};
  PlanOptions options;
  const LoadHistory load = random_history(random, options);
  const auto plan = make_plan(load, options);
  RC_ASSERT(plan.ok());
  RC_ASSERT(validate(plan->placement).ok());
  RC_ASSERT(!has_double_copy(plan->placement, 0) && !has_double_copy(plan->placement, 1));
  const auto again = make_plan(load, options);
  RC_ASSERT(again->placement.physical_to_logical == plan->placement.physical_to_logical);
  if (options.num_redundant_experts >= options.num_ranks - 1 && load.num_steps == 1) {
    for (const Certificate& c : plan->certificates) RC_ASSERT(c.max_load == c.lower_bound);
  }
}

RC_GTEST_PROP(Plimsoll, NamesOfExpertsChangeNothing, (uint64_t seed)) {
  SplitMix64 random{seed};
  PlanOptions options;
  const LoadHistory load = random_history(random, options);
  std::vector<int32_t> name(load.num_logical_experts);
  std::iota(name.begin(), name.end(), 0);
  for (size_t i = name.size() - 1; i > 0; --i) {
    std::swap(name[i], name[random.below(static_cast<uint32_t>(i + 1))]);
  }
  LoadHistory renamed = load;
  for (size_t i = 0; i < load.counts.size(); ++i) {
    const size_t e = i % name.size();
    renamed.counts[i - e + name[e]] = load.counts[i];
  }
  for (int l = 0; l < load.num_layers; ++l) {
    const LayerPlan plan = plan_layer(layer_load(load, l), options);
    const LayerPlan other = plan_layer(layer_load(renamed, l), options);
    for (int slot = 0; slot < plan.num_slots(); ++slot) {
      for (int t = 0; t < load.num_steps; ++t) {  // the same expert, or one with the same load
        const size_t row = (static_cast<size_t>(t) * load.num_layers + l) * name.size();
        RC_ASSERT(load.counts[row + plan.expert[slot]] == renamed.counts[row + other.expert[slot]]);
      }
    }
  }
}

RC_GTEST_PROP(Plimsoll, KeepsGroupsWithinNodes, (uint64_t seed)) {
  SplitMix64 random{seed};
  PlanOptions options;
  options.algorithm = "plimsoll_hierarchical";
  options.num_nodes = 2 + static_cast<int>(random.below(2));
  options.num_groups = options.num_nodes * (1 + static_cast<int>(random.below(3)));
  options.num_ranks = options.num_nodes * 2;
  const int group_size = 2 * (1 + static_cast<int>(random.below(3)));
  const int num_experts = options.num_groups * group_size;
  options.num_redundant_experts =
      (options.num_ranks - num_experts % options.num_ranks) % options.num_ranks +
      options.num_ranks * static_cast<int>(random.below(2));
  const auto plan = make_plan(one_step(1, num_experts, random_load(random, num_experts)), options);
  RC_ASSERT(plan.ok());
  const int slots_per_node = plan->placement.num_physical_experts / options.num_nodes;
  std::vector<int> node_of_group(options.num_groups, -1);
  for (int slot = 0; slot < plan->placement.num_physical_experts; ++slot) {
    int& node = node_of_group[plan->placement.physical_to_logical[slot] / group_size];
    RC_ASSERT(node == -1 || node == slot / slots_per_node);
    node = slot / slots_per_node;
  }
}

RC_GTEST_PROP(Plimsoll, MovesNoMoreExpertsThanAllowed, (uint64_t seed)) {
  SplitMix64 random{seed};
  PlanOptions options;
  const LoadHistory before = random_history(random, options);
  options.in_force = make_plan(before, options)->placement;
  LoadHistory after = before;
  for (int64_t& n : after.counts) n = random.below(100) + 1;
  const auto now = *certify(options.in_force, total_load(after));
  const auto free = make_plan(after, options);
  RC_ASSERT(free->moved_experts.size() == 2u);
  options.max_moved_experts = static_cast<int>(random.below(6));
  const auto limited = make_plan(after, options);
  RC_ASSERT(limited.ok());
  RC_ASSERT(limited->moved_experts[0] + limited->moved_experts[1] <= options.max_moved_experts);
  RC_ASSERT(!has_double_copy(limited->placement, 0));
  if (options.max_moved_experts == 0) {
    for (int l = 0; l < 2; ++l) RC_ASSERT(limited->certificates[l].max_load == now[l].max_load);
  }
}

// Sum of the maxima over layers.
int64_t time_of(const std::vector<Certificate>& certificates) {
  return std::accumulate(certificates.begin(), certificates.end(), int64_t{0},
                         [](int64_t sum, const Certificate& c) { return sum + c.max_load; });
}

TEST(Plimsoll, SpendsMovesWhereTheyHelpMost) {
  SplitMix64 random{11};
  PlanOptions options;
  options.num_ranks = 8;
  options.num_redundant_experts = 8;
  const int num_layers = 6;
  LoadHistory before{1, num_layers, 64, {}};
  LoadHistory after = before;
  for (int l = 0; l < num_layers; ++l) {
    for (LoadHistory* load : {&before, &after}) {
      const std::vector<int64_t> counts = random_load(random, 64);
      load->counts.insert(load->counts.end(), counts.begin(), counts.end());
    }
  }
  options.in_force = make_plan(before, options)->placement;
  const int64_t stay = time_of(*certify(options.in_force, after.counts));
  const int64_t best = time_of(make_plan(after, options)->certificates);
  int64_t last = stay;
  for (const int moves : {0, 10, 40, 160}) {
    options.max_moved_experts = moves;
    const int64_t time = time_of(make_plan(after, options)->certificates);
    EXPECT_LE(time, last) << moves;
    last = time;
    // Each layer alone needs fewer than 40 moves to be level: 40 over all buy half of the way.
    if (moves == 40) {
      EXPECT_LE(time - best, (stay - best) / 2);
    }
  }
}

TEST(Plimsoll, ReplanningTheSameLoadMovesNothing) {
  SplitMix64 random{5};
  PlanOptions options;
  options.num_ranks = 8;
  options.num_redundant_experts = 8;
  const LoadHistory load = one_step(1, 64, random_load(random, 64));
  options.in_force = make_plan(load, options)->placement;
  for (int slot = 0; slot < 36; ++slot) {  // the same under other names of the ranks
    std::swap(options.in_force.physical_to_logical[slot],
              options.in_force.physical_to_logical[36 + slot]);
  }
  const auto plan = make_plan(load, options);
  EXPECT_EQ(plan->moved_experts[0], 0);
  EXPECT_EQ(plan->placement.physical_to_logical, options.in_force.physical_to_logical);
}

// The best of all placements, by trying them all: fills slot after slot, ranks in any order.
int64_t best_of_all(Placement& p, std::span<const int64_t> load, int slot) {
  if (slot == p.num_physical_experts) {
    return validate(p).ok() ? subset_max(p, load) : INT64_MAX;
  }
  int64_t best = INT64_MAX;
  const int first = slot % p.slots_per_rank() == 0 ? 0 : p.physical_to_logical[slot - 1];
  for (int e = first; e < p.num_logical_experts; ++e) {  // within a rank the order does not matter
    p.physical_to_logical[slot] = e;
    best = std::min(best, best_of_all(p, load, slot + 1));
  }
  return best;
}

double worst_ratio(const std::vector<std::vector<Certificate>>& certificates) {
  double worst = 0;
  for (const auto& layers : certificates) {
    worst = std::max(worst, static_cast<double>(layers[0].max_load) / layers[0].mean_load);
  }
  return worst;
}

// One layer's placement under loads of one step.
double worst_ratio(const Placement& placement, const std::vector<LoadHistory>& scenarios) {
  std::vector<std::vector<Certificate>> certificates;
  for (const LoadHistory& load : scenarios) {
    certificates.push_back(*certify(placement, load.counts));
  }
  return worst_ratio(certificates);
}

RC_GTEST_PROP(RobustPlan, WorstCaseIsNoWorseThanAnyOtherPlans, (uint64_t seed)) {
  SplitMix64 random{seed};
  PlanOptions options;
  options.num_ranks = 2 + static_cast<int>(random.below(7));
  const int num_experts = options.num_ranks * (1 + static_cast<int>(random.below(6)));
  options.num_redundant_experts = options.num_ranks * static_cast<int>(random.below(2));
  std::vector<LoadHistory> scenarios;
  LoadHistory sum = one_step(1, num_experts, std::vector<int64_t>(num_experts, 0));
  for (uint32_t s = 0; s < 2 + random.below(3); ++s) {
    scenarios.push_back(one_step(1, num_experts, random_load(random, num_experts)));
    for (int e = 0; e < num_experts; ++e) sum.counts[e] += scenarios.back().counts[e];
  }
  const auto robust = make_robust_plan(scenarios, options);
  RC_ASSERT(robust.ok());
  RC_ASSERT(validate(robust->placement).ok());
  RC_ASSERT(!has_double_copy(robust->placement, 0));
  RC_ASSERT(worst_ratio(robust->placement, scenarios) == worst_ratio(robust->certificates));
  std::vector<LoadHistory> others = scenarios;
  others.push_back(sum);
  for (const LoadHistory& load : others) {
    RC_ASSERT(worst_ratio(robust->certificates) <=
              worst_ratio(make_plan(load, options)->placement, scenarios));
  }
  const auto again = make_robust_plan(scenarios, options);
  RC_ASSERT(again->placement.physical_to_logical == robust->placement.physical_to_logical);
}

// Experts 0 and 1 are hot by day, 2 and 3 by night. Many more tokens by day would hide the night
// from a plan for the sum.
TEST(RobustPlan, LooksAfterTheSmallScenarioToo) {
  const std::vector<LoadHistory> scenarios = {
      one_step(1, 8, {40000, 40000, 10, 20, 10000, 10000, 10000, 10000}),
      one_step(1, 8, {0, 0, 40, 40, 10, 10, 10, 10})};
  PlanOptions options;
  options.num_ranks = 2;
  const auto robust = make_robust_plan(scenarios, options);
  ASSERT_TRUE(robust.ok()) << robust.error().message;
  Placement p{1, 8, 8, 2, std::vector<int32_t>(8)};
  double best = 100;
  for (int set = 0; set < 256; ++set) {  // every way to split 8 experts over 2 ranks
    if (std::popcount(static_cast<unsigned>(set)) != 4) continue;
    int next[2] = {0, 4};
    for (int e = 0; e < 8; ++e) p.physical_to_logical[next[set >> e & 1]++] = e;
    best = std::min(best, worst_ratio(p, scenarios));
  }
  EXPECT_DOUBLE_EQ(worst_ratio(robust->certificates), best);
  EXPECT_LT(best, 1.001);
}

RC_GTEST_PROP(RobustPlan, ComesCloseToTheBestOfAll, (uint64_t seed)) {
  SplitMix64 random{seed};
  PlanOptions options;
  options.num_ranks = 2;
  const std::vector<LoadHistory> scenarios = {one_step(1, 6, random_load(random, 6)),
                                              one_step(1, 6, random_load(random, 6))};
  const auto robust = make_robust_plan(scenarios, options);
  Placement p{1, 6, 6, 2, std::vector<int32_t>(6)};
  double best = 100;
  for (int set = 0; set < 64; ++set) {
    if (std::popcount(static_cast<unsigned>(set)) != 3) continue;
    int next[2] = {0, 3};
    for (int e = 0; e < 6; ++e) p.physical_to_logical[next[set >> e & 1]++] = e;
    best = std::min(best, worst_ratio(p, scenarios));
  }
  RC_ASSERT(worst_ratio(robust->certificates) <= best * 1.25);
}

TEST(RobustPlan, RefusesWithReason) {
  PlanOptions options;
  options.num_ranks = 2;
  const LoadHistory a = one_step(1, 4, {1, 2, 3, 4}), b = one_step(1, 2, {1, 2});
  EXPECT_NE(make_robust_plan(std::vector{a, b}, options).error().message.find("different models"),
            std::string::npos);
  options.algorithm = "deepseek";
  EXPECT_NE(make_robust_plan(std::vector{a, a}, options).error().message.find("need plimsoll"),
            std::string::npos);
  EXPECT_FALSE(make_robust_plan({}, options).ok());
}

RC_GTEST_PROP(Plan, NoPlacementBeatsTheBound, (uint64_t seed)) {
  SplitMix64 random{seed};
  const int num_ranks = 2 + static_cast<int>(random.below(2));
  const int slots_per_rank = 1 + static_cast<int>(random.below(num_ranks == 2 ? 3 : 2));
  const int num_slots = num_ranks * slots_per_rank;
  const int num_experts = num_slots - static_cast<int>(random.below(std::min(num_slots, 4)));
  std::vector<int64_t> load(num_experts);
  for (int64_t& n : load) n = random.below(30);
  load[0] += 1;
  Placement p{1, num_experts, num_slots, num_ranks, std::vector<int32_t>(num_slots)};
  const int64_t best = best_of_all(p, load, 0);
  std::sort(load.begin(), load.end(), std::greater<>());
  RC_ASSERT(lower_bound(load, num_ranks, slots_per_rank).value <= best);
  for (const int64_t reached : {best, best + best / 4, 2 * best}) {
    RC_ASSERT(tight_lower_bound(load, num_ranks, slots_per_rank, reached).value <= best);
  }
}

TEST(Plan, EachBoundBinds) {
  const std::vector<int64_t> even = {10, 10, 10, 10};
  EXPECT_EQ(lower_bound(even, 2, 2).binding, Bound::kMean);
  const std::vector<int64_t> hot = {100, 1, 1, 1};
  const LowerBound cardinality = lower_bound(hot, 2, 2);
  EXPECT_EQ(cardinality.binding, Bound::kSlotCardinality);
  EXPECT_EQ(cardinality.value, 101);
  const LowerBound budget = lower_bound(hot, 4, 1);
  EXPECT_EQ(budget.value, 100);
  const std::vector<int64_t> two_hot = {100, 60};
  const LowerBound spread = lower_bound(two_hot, 3, 1);
  EXPECT_EQ(spread.binding, Bound::kReplicaBudget);
  EXPECT_EQ(spread.value, 60);
}

}  // namespace
}  // namespace plimsoll
