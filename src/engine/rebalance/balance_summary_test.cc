#include "engine/rebalance/balance_summary.h"

#include <gtest/gtest.h>

namespace plimsoll {
namespace {

TEST(BalanceSummary, LeavesEmptyLayersOutAndSumsTheOthers) {
  const BalanceSummary summary = summarize({.num_ranks = 2,
                                            .num_layers = 3,
                                            .routed_load = {5, 1, 0, 0, 3, 5},
                                            .total_load = {6, 2, 0, 0, 5, 5},
                                            .home_load = {7, 1, 0, 0, 6, 4},
                                            .bound = {5, 0, 5}});
  EXPECT_EQ(summary.num_layers, 2);
  EXPECT_DOUBLE_EQ(summary.mean_ratio, (1.5 + 1) / 2);
  EXPECT_DOUBLE_EQ(summary.min_ratio, (0.5 + 1) / 2);
  EXPECT_DOUBLE_EQ(summary.worst_ratio, 1.5);
  EXPECT_DOUBLE_EQ(summary.bound_ratio, (1.25 + 1) / 2);
  EXPECT_EQ(summary.max_load, 11);
  EXPECT_EQ(summary.min_load, 7);
  EXPECT_DOUBLE_EQ(summary.mean_load, 9);
  EXPECT_EQ(summary.bound_load, 10);
  EXPECT_EQ(summary.home_load, 13);
}

}  // namespace
}  // namespace plimsoll
