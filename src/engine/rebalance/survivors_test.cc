// Every expert finds a slot on the ranks that live, and few more are moved than were lost.
#include "engine/rebalance/survivors.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>

#include "plimsoll/plan.h"

namespace plimsoll {
namespace {

LoadHistory even_load(const Placement& placement) {
  LoadHistory load{1, placement.num_layers, placement.num_logical_experts, {}};
  load.counts.assign(size_t{1} * load.num_layers * load.num_logical_experts, 10);
  return load;
}

// The slots of `after` whose rank did not hold their expert.
int num_moved(const SurvivorTask& task, const Placement& after) {
  const int before_per_rank = task.in_force.slots_per_rank();
  int moved = 0;
  for (int l = 0; l < after.num_layers; ++l) {
    for (int s = 0; s < after.num_physical_experts; ++s) {
      const int rank = task.living[s / after.slots_per_rank()];
      const auto held = task.in_force.layer(l).subspan(rank * before_per_rank, before_per_rank);
      moved += std::ranges::find(held, after.layer(l)[s]) == held.end();
    }
  }
  return moved;
}

TEST(Survivors, KeepWhatTheyHoldWhereCopiesAreLeft) {
  // Every expert has a copy on rank r and one on rank r + 2.
  SurvivorTask task{
      .in_force = *trivial_placement(3, 16, 16, 4), .living = {0, 1, 2}, .algorithm = "plimsoll"};
  task.load = even_load(task.in_force);
  const auto placement = place_on_survivors(task);
  ASSERT_TRUE(placement.ok()) << placement.error().message;
  EXPECT_TRUE(validate(*placement).ok());
  EXPECT_EQ(placement->num_ranks, 3);
  EXPECT_EQ(placement->slots_per_rank(), 8);
  EXPECT_EQ(num_moved(task, *placement), 0);
}

TEST(Survivors, TakeMoreSlotsWhereTheyHaveTooFew) {
  SurvivorTask task{
      .in_force = *trivial_placement(2, 16, 0, 4), .living = {0, 2, 3}, .algorithm = "plimsoll"};
  task.load = even_load(task.in_force);
  const auto placement = place_on_survivors(task);
  ASSERT_TRUE(placement.ok()) << placement.error().message;
  EXPECT_TRUE(validate(*placement).ok());
  EXPECT_EQ(placement->slots_per_rank(), 6);  // 16 experts on three ranks
  EXPECT_LE(num_moved(task, *placement), 2 * (4 + 2) * 2);
}

RC_GTEST_PROP(Survivors, HoldEveryExpertWhoeverDies, ()) {
  const int num_ranks = *rc::gen::inRange(2, 9);
  const int num_experts = num_ranks * *rc::gen::inRange(1, 5);
  const int num_redundant = num_ranks * *rc::gen::inRange(0, 3);
  SurvivorTask task{.in_force = *trivial_placement(2, num_experts, num_redundant, num_ranks)};
  for (int r = 0; r < num_ranks; ++r) {
    if (r == 0 || *rc::gen::inRange(0, 2) == 0) task.living.push_back(r);
  }
  task.load = even_load(task.in_force);
  for (int64_t& count : task.load.counts) count = *rc::gen::inRange(0, 1000);
  task.load.counts[0] = 1;
  task.algorithm = *rc::gen::elementOf(
      std::vector<std::string>{"plimsoll", "plimsoll_hierarchical", "auto", "deepseek",
                               "deepseek_vec_hierarchical", "elasticity_aware"});
  const auto placement = place_on_survivors(task);
  RC_ASSERT(placement.ok());
  RC_ASSERT(validate(*placement).ok());
  RC_ASSERT(placement->num_ranks == static_cast<int>(task.living.size()));
  RC_ASSERT(placement->slots_per_rank() >= task.in_force.slots_per_rank());
}

}  // namespace
}  // namespace plimsoll
