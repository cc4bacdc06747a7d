#include "plimsoll/replay.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "plimsoll/plan.h"
#include "record/formats/test_files.h"

namespace plimsoll {
namespace {

ExpertTrace demo_trace(const std::string& kind) {
  return *load_trace(std::string(PLIMSOLL_SOURCE_DIR) + "/testdata/traces/demo_" + kind + ".u8");
}

// Two ranks; experts 0 and 1 on the first, 2 and 3 on the second. Tokens choose two of them.
ExpertTrace small_trace() {
  return {"", 1, 4, 2, {0, 1, /**/ 0, 2, /**/ 0, 1, /**/ 2, 3}};
}

TEST(Replay, CountsByHand) {
  const Placement placement = *trivial_placement(1, 4, 0, 2);
  RouteOptions route;
  route.num_shared_experts = 0;
  const Result<Replay> r = replay(small_trace(), placement, route, {.batch_tokens = 4});
  ASSERT_TRUE(r.ok()) << r.error().message;
  // Rank 0 computes 0,1,0,0,1 and rank 1 computes 2,2,3: loads 5 and 3. Home of the first two
  // tokens is rank 0: token 1 goes to rank 1 once, token 2 (home rank 1) to rank 0 once.
  EXPECT_EQ(r->stats.num_batches, 1);
  EXPECT_EQ(r->layers[0].rank_load, (std::vector<int64_t>{5, 3}));
  EXPECT_DOUBLE_EQ(r->stats.max_over_mean.mean, 1.25);
  EXPECT_DOUBLE_EQ(r->stats.bound_over_mean.mean, 1.25);
  EXPECT_DOUBLE_EQ(r->stats.imbalance_ratio, 0.25);
  EXPECT_NEAR(r->stats.balancedness, 0.8, 1e-5);
  EXPECT_DOUBLE_EQ(r->stats.messages_per_token, 2.0 / 4);
  EXPECT_DOUBLE_EQ(r->stats.local_share, 1 - 3.0 / 8);
}

TEST(Replay, TwoBatchesAndALeftOver) {
  const Placement placement = *trivial_placement(1, 4, 0, 2);
  RouteOptions route;
  route.num_shared_experts = 0;
  ExpertTrace trace = small_trace();
  trace.ids.insert(trace.ids.end(), {3, 3});
  const Result<Replay> r = replay(trace, placement, route, {.batch_tokens = 2});
  ASSERT_TRUE(r.ok());
  // Batches 0,1,0,2 and 0,1,2,3: loads 3:1 and 2:2; the fifth token is left out.
  EXPECT_EQ(r->stats.num_batches, 2);
  EXPECT_EQ(r->stats.num_tokens, 4);
  EXPECT_DOUBLE_EQ(r->stats.max_over_mean.mean, 1.25);
  EXPECT_DOUBLE_EQ(r->stats.max_over_mean.p50, 1.0);
  EXPECT_DOUBLE_EQ(r->stats.max_over_mean.max, 1.5);
  EXPECT_DOUBLE_EQ(r->stats.time_weighted, 5.0 / 4);
}

TEST(Replay, ExactIsNeverWorseAndMeetsTheBound) {
  const ExpertTrace trace = demo_trace("pydoc");
  const LoadHistory load = count_experts(trace, 4096);
  const Plan plan =
      *make_plan(load, {.algorithm = "deepseek", .num_ranks = 8, .num_redundant_experts = 8});
  const ReplayOptions options{.batch_tokens = 2048, .num_threads = 2};
  RouteOptions exact;
  exact.waterfill = true;
  const Replay best = *replay(trace, plan.placement, exact, options);
  EXPECT_EQ(best.stats.num_batches, 8);
  EXPECT_EQ(best.layers.size(), 6u);
  EXPECT_DOUBLE_EQ(best.stats.max_over_mean.mean, best.stats.bound_over_mean.mean);
  for (const DispatchAlgorithm algorithm :
       {DispatchAlgorithm::kStatic, DispatchAlgorithm::kDynamic, DispatchAlgorithm::kExact}) {
    RouteOptions other;
    other.algorithm = algorithm;
    const Replay worse = *replay(trace, plan.placement, other, options);
    EXPECT_GE(worse.stats.max_over_mean.mean, best.stats.max_over_mean.mean);
    EXPECT_GT(worse.stats.messages_per_token, 0);
    EXPECT_LE(worse.stats.messages_per_token, 7);
  }
}

TEST(Replay, SglangsWaterfillLiesBetweenHomeAndExact) {
  const ExpertTrace trace = demo_trace("speech");
  const Placement placement = *trivial_placement(6, 64, 8, 8);
  const ReplayOptions options{.batch_tokens = 4096, .num_threads = 2};
  RouteOptions route{.algorithm = DispatchAlgorithm::kStatic};
  const Replay at_home = *replay(trace, placement, route, options);
  route.waterfill = true;
  const Replay level = *replay(trace, placement, route, options);
  for (const WaterfillRule rule : {WaterfillRule::kSglang, WaterfillRule::kSglangGlobal}) {
    route.waterfill_rule = rule;
    const Replay drawn = *replay(trace, placement, route, options);
    EXPECT_LT(drawn.stats.max_over_mean.mean, at_home.stats.max_over_mean.mean);
    EXPECT_GE(drawn.stats.max_over_mean.mean, level.stats.max_over_mean.mean);
    EXPECT_EQ(drawn.stats.bound_over_mean.mean, level.stats.bound_over_mean.mean);
    EXPECT_LT(drawn.stats.local_share, at_home.stats.local_share);
    // Batches of fewer than 64 tokens a rank stay at home.
    const Replay few = *replay(trace, placement, route, {.batch_tokens = 8 * 63, .num_threads = 2});
    route.waterfill = false;
    const Replay home =
        *replay(trace, placement, route, {.batch_tokens = 8 * 63, .num_threads = 2});
    route.waterfill = true;
    EXPECT_EQ(few.layers[5].rank_load, home.layers[5].rank_load);
    EXPECT_EQ(few.stats.messages_per_token, home.stats.messages_per_token);
    EXPECT_NE(replay(count_experts(trace, 4096), 6, placement, route, {})
                  .error()
                  .message.find("replay a trace"),
              std::string::npos);
  }
}

TEST(Replay, ThreadsAndRepetitionChangeNothing) {
  const ExpertTrace trace = demo_trace("speech");
  const Placement placement = *trivial_placement(6, 64, 8, 4);
  ReplayOptions options{.batch_tokens = 4096, .shuffle = true, .seed = 5, .num_threads = 1};
  const Replay one = *replay(trace, placement, {}, options);
  options.num_threads = 3;
  int last = 0;
  const Replay three = *replay(trace, placement, {}, options, [&](int64_t done, int64_t total) {
    EXPECT_EQ(done, ++last);
    EXPECT_EQ(total, 6);
  });
  EXPECT_EQ(one.stats.max_over_mean.p99, three.stats.max_over_mean.p99);
  EXPECT_EQ(one.stats.messages_per_token, three.stats.messages_per_token);
  for (int l = 0; l < 6; ++l) EXPECT_EQ(one.layers[l].rank_load, three.layers[l].rank_load);
  options.seed = 6;
  EXPECT_NE(one.stats.messages_per_token,
            replay(trace, placement, {}, options)->stats.messages_per_token);
}

TEST(Replay, CountsGiveTheSameLoadsAsTheirTrace) {
  const ExpertTrace trace = demo_trace("scripture");
  const Placement placement = *trivial_placement(6, 64, 0, 8);
  const Replay by_token = *replay(trace, placement, {}, {.batch_tokens = 1024});
  const Replay by_count = *replay(count_experts(trace, 1024), 6, placement, {}, {});
  // Without copies every routing puts the same load on the same ranks.
  EXPECT_DOUBLE_EQ(by_token.stats.max_over_mean.p99, by_count.stats.max_over_mean.p99);
  EXPECT_EQ(by_token.layers[3].rank_load, by_count.layers[3].rank_load);
  EXPECT_EQ(by_token.stats.num_tokens, by_count.stats.num_tokens);
  EXPECT_TRUE(std::isnan(by_count.stats.messages_per_token));
}

TEST(Replay, RefusesWhatDoesNotFit) {
  const ExpertTrace trace = small_trace();
  EXPECT_NE(replay(trace, *trivial_placement(2, 4, 0, 2), {}, {})
                .error()
                .message.find("1 layers of 4 experts, but the placement has 2 of 4"),
            std::string::npos);
  EXPECT_FALSE(replay(trace, *trivial_placement(1, 4, 0, 2), {}, {.batch_tokens = 0}).ok());
  EXPECT_FALSE(replay(count_experts(trace, 1), 0, *trivial_placement(1, 4, 0, 2), {}, {}).ok());
}

// A plan of one kind of text, met by another.
TEST(ReplayJustInTime, LevelsTrafficThatHasMoved) {
  const ExpertTrace planned_for = demo_trace("pgdoc"), met = demo_trace("speech");
  PlanOptions options;
  options.num_ranks = 8;
  options.num_redundant_experts = 8;
  const auto plan = make_plan(count_experts(planned_for, 512), options);
  ASSERT_TRUE(plan.ok());
  const RouteOptions route{.waterfill = true};
  const auto standing = replay(met, plan->placement, route, {});
  RouteOptions with_copies = route;
  with_copies.jit = {.slots_per_rank = 2, .tolerance = {0, 1}};
  const auto copied = replay(met, plan->placement, with_copies, {});
  ASSERT_TRUE(standing.ok() && copied.ok());
  EXPECT_GT(standing->stats.max_over_mean.mean, 1.01);
  EXPECT_LT(copied->stats.max_over_mean.max, 1.001);
  EXPECT_GT(copied->stats.copies_per_batch, 0);
  EXPECT_LE(copied->stats.fewest_copies_per_batch, copied->stats.copies_per_batch);
  EXPECT_EQ(standing->stats.copies_per_batch, 0);
}

TEST(ReplayJustInTime, PublishedRulesNeedOneCopyOfEachExpert) {
  const ExpertTrace trace = demo_trace("pgdoc");
  RouteOptions route;
  route.jit.slots_per_rank = 2;
  const ReplayOptions options{.jit_rule = JitRule::kUltraEp};
  const auto single = replay(trace, *trivial_placement(trace.num_layers, 64, 0, 8), route, options);
  ASSERT_TRUE(single.ok());
  EXPECT_LT(single->stats.max_over_mean.mean, 1.06);
  EXPECT_TRUE(std::isnan(single->stats.messages_per_token));
  EXPECT_FALSE(replay(trace, *trivial_placement(trace.num_layers, 64, 8, 8), route, options).ok());
}

}  // namespace
}  // namespace plimsoll
