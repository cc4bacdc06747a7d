#include "balance/route/sampled_waterfill.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace plimsoll {
namespace {

constexpr int kNumRanks = 4;
constexpr int kNumTokens[kNumRanks] = {100, 64, 63, 80};

using SharedCounts = std::vector<std::vector<int>>;  // [source, rank]

struct Drawn {
  std::vector<int32_t> first;  // ranks of source 0's first tokens
  SharedCounts counts;
};

// Tokens choose two of eight experts, two a rank, by a formula; the second kind leans on rank 0.
std::vector<int32_t> choices(int source, bool is_skewed) {
  std::vector<int32_t> ids;
  for (int i = 0; i < kNumTokens[source]; ++i) {
    int a = (i * i + 3 * source) % 8;
    int b = (a + 1 + (i + source) % 7) % 8;
    if (is_skewed && i % 3 != 0) {
      a = 0;
      if (b == a) b = 5;
    }
    ids.insert(ids.end(), {a, b});
  }
  return ids;
}

Drawn draw(WaterfillRule rule, uint64_t seed, bool is_skewed) {
  const Placement placement = *trivial_placement(1, 8, 0, kNumRanks);
  const RouteTables tables = *make_route_tables(placement, 0,
                                                {.algorithm = DispatchAlgorithm::kStatic,
                                                 .waterfill = true,
                                                 .waterfill_rule = rule,
                                                 .seed = seed});
  std::vector<int32_t> counts(kNumRanks * 8, 0);
  for (int s = 0; s < kNumRanks; ++s) {
    for (const int32_t id : choices(s, is_skewed)) ++counts[s * 8 + id];
  }
  RouteWorkspace workspace(tables);
  RoutePlan plan(tables);
  EXPECT_TRUE(route(tables, counts, kNumTokens, workspace, plan).ok());
  Drawn drawn;
  for (int s = 0; s < kNumRanks; ++s) {
    const std::vector<int32_t> ids = choices(s, is_skewed);
    std::vector<int32_t> slots(ids.size()), ranks(ids.size() / 2);
    EXPECT_TRUE(assign(tables, plan, s, ids, 2, workspace, slots, ranks).ok());
    if (s == 0) drawn.first.assign(ranks.begin(), ranks.begin() + 12);
    drawn.counts.emplace_back();
    for (int r = 0; r < kNumRanks; ++r) {
      drawn.counts[s].push_back(static_cast<int>(std::ranges::count(ranks, r)));
    }
    EXPECT_TRUE(enter_shared_ranks(tables, s, ranks, plan).ok());
  }
  return drawn;
}

// The answers below are those of a separate program written from the rule's description. Rank 2's
// 63 tokens are too few to draw.

TEST(SampledWaterfill, OwnCounts) {
  const Drawn drawn = draw(WaterfillRule::kSglang, 0, false);
  EXPECT_EQ(drawn.first, (std::vector<int32_t>{3, 1, 3, 2, 1, 3, 2, 1, 3, 1, 3, 2}));
  EXPECT_EQ(drawn.counts,
            (SharedCounts{{0, 38, 19, 43}, {29, 18, 2, 15}, {0, 0, 63, 0}, {0, 26, 0, 54}}));
}

TEST(SampledWaterfill, SeedDrawsAnew) {
  const Drawn drawn = draw(WaterfillRule::kSglang, 7, false);
  EXPECT_EQ(drawn.first, (std::vector<int32_t>{1, 2, 3, 1, 2, 3, 1, 3, 3, 1, 3, 1}));
}

TEST(SampledWaterfill, CountsOfAllRanks) {
  const Drawn drawn = draw(WaterfillRule::kSglangGlobal, 0, false);
  EXPECT_EQ(drawn.first, (std::vector<int32_t>{0, 2, 1, 3, 1, 3, 2, 0, 2, 1, 3, 1}));
  EXPECT_EQ(drawn.counts,
            (SharedCounts{{14, 31, 29, 26}, {8, 19, 16, 21}, {0, 0, 63, 0}, {8, 24, 23, 25}}));
}

// Rank 0 is above the waterline of all ranks: tokens draw from ranks that they visit only.
TEST(SampledWaterfill, CountsOfAllRanksWithOneAboveTheWaterline) {
  const Drawn drawn = draw(WaterfillRule::kSglangGlobal, 0, true);
  EXPECT_EQ(drawn.first, (std::vector<int32_t>{0, 1, 3, 2, 2, 3, 2, 1, 1, 2, 2, 3}));
  EXPECT_EQ(drawn.counts,
            (SharedCounts{{8, 27, 38, 27}, {0, 40, 16, 8}, {0, 0, 63, 0}, {0, 16, 11, 53}}));
}

TEST(SampledWaterfill, RefusesRanksOfAnotherBatch) {
  const Placement placement = *trivial_placement(1, 4, 0, 2);
  const RouteTables tables = *make_route_tables(
      placement, 0, {.waterfill = true, .waterfill_rule = WaterfillRule::kSglang});
  RouteWorkspace workspace(tables);
  RoutePlan plan(tables);
  ASSERT_TRUE(
      route(tables, std::vector{1, 0, 0, 0, 0, 0, 0, 0}, std::vector{1, 0}, workspace, plan).ok());
  EXPECT_FALSE(enter_shared_ranks(tables, 0, std::vector{0, 0}, plan).ok());
  EXPECT_FALSE(enter_shared_ranks(tables, 0, std::vector{2}, plan).ok());
  EXPECT_FALSE(enter_shared_ranks(tables, 2, std::vector{0}, plan).ok());
  EXPECT_TRUE(enter_shared_ranks(tables, 0, std::vector{1}, plan).ok());
  EXPECT_EQ(plan.rank_load, (std::vector<int64_t>{1, 1}));
  EXPECT_EQ(plan.num_messages, 1);
}

}  // namespace
}  // namespace plimsoll
