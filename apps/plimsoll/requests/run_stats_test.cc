#include "requests/run_stats.h"

#include <gtest/gtest.h>

namespace plimsoll {
namespace {

TEST(DistributionOf, UsesNearestRankPercentiles) {
  std::vector<double> values;
  for (int i = 100; i >= 1; --i) values.push_back(i);
  const Distribution hundred = distribution_of(values);
  EXPECT_EQ(hundred.mean, 50.5);
  EXPECT_EQ(hundred.p50, 50);
  EXPECT_EQ(hundred.p99, 99);
  EXPECT_EQ(hundred.max, 100);
  EXPECT_EQ(distribution_of({7}).p99, 7);
  EXPECT_EQ(distribution_of({}).max, 0);
}

// Two layers on two ranks, worked out by hand; a third layer without any load is left out.
TEST(BalanceStats, KeepsTheRatiosOfEveryLayerStep) {
  const StepBalance step{.num_ranks = 2,
                         .num_layers = 3,
                         .routed_load = {30, 10, 5, 5, 0, 0},
                         .total_load = {30, 30, 12, 8, 0, 0},
                         .home_load = {30, 30, 12, 8, 0, 0},
                         .bound = {30, 10, 0}};
  BalanceStats stats;
  stats.add(step);
  EXPECT_EQ(stats.routed, (std::vector<double>{1.5, 1.0}));
  EXPECT_EQ(stats.total, (std::vector<double>{1.0, 1.2}));
  EXPECT_EQ(stats.bound, (std::vector<double>{1.0, 1.0}));
}

TEST(RunStats, RatesAreTokensOverTheirOwnTime) {
  RunStats stats;
  EXPECT_EQ(stats.tokens_per_second(), 0);
  stats.num_prefill_tokens = 1000;
  stats.num_sampled_tokens = 500;
  stats.num_decode_tokens = 400;
  stats.prefill_seconds = 2;
  stats.decode_seconds = 8;
  EXPECT_EQ(stats.prefill_tokens_per_second(), 500);
  EXPECT_EQ(stats.decode_tokens_per_second(), 50);
  EXPECT_EQ(stats.tokens_per_second(), 150);
}

}  // namespace
}  // namespace plimsoll
