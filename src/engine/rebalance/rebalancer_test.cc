#include "engine/rebalance/rebalancer.h"

#include <gtest/gtest.h>

#include <random>
#include <thread>

#include "engine/options.h"

namespace plimsoll {
namespace {

constexpr int kExperts = 8;
constexpr int kLayers = 3;
constexpr int kRanks = 4;
constexpr int kTopK = 2;

// A step in which every layer's tokens chose the experts `hot` of `layer` far more often.
StepResult make_step(const Placement& placement, int hot, int64_t tokens = 100) {
  StepResult step;
  StepBalance& balance = step.balance;
  balance.num_ranks = placement.num_ranks;
  balance.num_layers = placement.num_layers;
  step.ranks.resize(placement.num_ranks);
  for (RankResult& rank : step.ranks) rank.seconds.experts = 1e-3;
  for (int l = 0; l < placement.num_layers; ++l) {
    std::vector<int64_t> load(placement.num_ranks);
    for (int e = 0; e < placement.num_logical_experts; ++e) {
      const bool is_hot = e == hot || e == (hot + 1) % placement.num_logical_experts;
      const int64_t count = is_hot ? tokens : 1;
      balance.expert_counts.push_back(static_cast<int32_t>(count));
      const auto slots = placement.layer(l);
      const auto slot = std::find(slots.begin(), slots.end(), e) - slots.begin();
      load[slot / placement.slots_per_rank()] += count;
    }
    // The shared expert of every token, at home.
    for (int64_t& of_rank : load) of_rank += (2 * tokens + 6) / kTopK / kRanks;
    balance.total_load.insert(balance.total_load.end(), load.begin(), load.end());
    balance.bound.push_back(0);
  }
  return step;
}

class RebalancerTest : public testing::Test {
 protected:
  RebalancerTest()
      : layout_(*make_moe_layout(*trivial_placement(kLayers, kExperts, 0, kRanks), {})) {
    options_.num_iterations = 4;
    options_.algorithm = "plimsoll";
    options_.top_k = kTopK;
  }

  std::unique_ptr<Rebalancer> make() {
    return std::make_unique<Rebalancer>(
        options_, layout_.placement,
        [this](LayerLayout& next) {
          if (next.layer_idx == failing_layer_) return Status(unavailable("a wire was cut"));
          switch_layer(layout_, next);
          ++num_switched_;
          return ok_status();
        },
        bring_, plan_);
  }
  // Steps until a turn has ended in some way; the background thread may take its time.
  void step_until_turn_ends(Rebalancer& rebalancer, int hot) {
    const auto num_turns = [&] {
      const RebalanceStats& stats = rebalancer.stats();
      return stats.num_rebalances + stats.num_skipped + stats.num_failed;
    };
    const int64_t before = num_turns();
    while (num_turns() == before) {
      const int switched_before = num_switched_;
      rebalancer.before_step();
      EXPECT_LE(num_switched_ - switched_before, options_.layers_per_chunk);
      rebalancer.after_step(make_step(layout_.placement, hot));
      std::this_thread::yield();
    }
  }

  MoeLayout layout_;
  RebalanceOptions options_;
  Rebalancer::BringLayer bring_;
  Rebalancer::Plan plan_ = plan_rebalance;
  int failing_layer_ = -1;
  int num_switched_ = 0;
};

TEST_F(RebalancerTest, SplitsHotExpertsThatShareARank) {
  const auto rebalancer = make();
  step_until_turn_ends(*rebalancer, 0);  // experts 0 and 1 start out on rank 0
  const RebalanceStats& stats = rebalancer->stats();
  EXPECT_EQ(stats.num_rebalances, 1);
  EXPECT_EQ(stats.num_switched_layers, kLayers);
  EXPECT_GT(stats.num_moved_experts, 0);
  ASSERT_TRUE(stats.last.has_value());
  EXPECT_GT(stats.last->max_over_mean_before, 1.9);
  EXPECT_LT(stats.last->max_over_mean_predicted, stats.last->max_over_mean_before);
  EXPECT_GT(stats.last->gain_seconds, stats.last->cost_seconds);
  for (int l = 0; l < kLayers; ++l) {
    const auto slots = layout_.placement.layer(l);
    const auto rank_of = [&](int e) {
      return (std::find(slots.begin(), slots.end(), e) - slots.begin()) /
             layout_.placement.slots_per_rank();
    };
    EXPECT_NE(rank_of(0), rank_of(1));
  }
  // The next turn measures what this one predicted, finds nothing to gain, and keeps all.
  const int switched = num_switched_;
  step_until_turn_ends(*rebalancer, 0);
  ASSERT_TRUE(stats.last->max_over_mean_measured.has_value());
  EXPECT_NEAR(*stats.last->max_over_mean_measured, stats.last->max_over_mean_predicted, 0.05);
  EXPECT_EQ(stats.num_skipped, 1);
  EXPECT_EQ(num_switched_, switched);
  EXPECT_EQ(rebalancer->take_news().size(), 3u);
  EXPECT_TRUE(rebalancer->take_news().empty());
}

TEST_F(RebalancerTest, SwitchesAsManyLayersBetweenStepsAsTold) {
  options_.layers_per_chunk = 2;
  const auto rebalancer = make();
  step_until_turn_ends(*rebalancer, 0);
  EXPECT_EQ(num_switched_, kLayers);
}

TEST_F(RebalancerTest, LeavesAloneWhatIsLevelEnough) {
  options_.max_utilization = 0.2;  // the load of one rank in four is better than that
  const auto rebalancer = make();
  step_until_turn_ends(*rebalancer, 0);
  EXPECT_EQ(rebalancer->stats().num_skipped, 1);
  EXPECT_EQ(num_switched_, 0);
}

TEST_F(RebalancerTest, PlansOnlyWhenAskedIfNothingIsTooUneven) {
  options_.max_utilization = 0;
  const auto rebalancer = make();
  step_until_turn_ends(*rebalancer, 0);
  EXPECT_EQ(rebalancer->stats().num_skipped, 1);
  rebalancer->after_step(make_step(layout_.placement, 0));
  ASSERT_TRUE(rebalancer->start_turn().ok());
  step_until_turn_ends(*rebalancer, 0);
  EXPECT_EQ(num_switched_, kLayers);
  // Measured by the steps until somebody asks again.
  rebalancer->after_step(make_step(layout_.placement, 0));
  ASSERT_TRUE(rebalancer->start_turn().ok());
  EXPECT_TRUE(rebalancer->stats().last->max_over_mean_measured.has_value());
}

TEST_F(RebalancerTest, WaitsForExpertsThatTravelAndLearnsWhatThatCosts) {
  int num_asked = 0;
  bring_ = [&](const LayerLayout&) -> Result<std::optional<double>> {
    return ++num_asked % 3 == 0 ? std::optional(10.0) : std::nullopt;
  };
  const auto rebalancer = make();
  step_until_turn_ends(*rebalancer, 0);
  EXPECT_EQ(num_switched_, kLayers);
  EXPECT_EQ(num_asked, 3 * kLayers);
  // So dear that the other way round is not worth it.
  step_until_turn_ends(*rebalancer, 4);
  EXPECT_EQ(rebalancer->stats().num_skipped, 1);
  EXPECT_EQ(num_switched_, kLayers);
}

TEST_F(RebalancerTest, KeepsThePlacementWhereExpertsDoNotArrive) {
  bring_ = [](const LayerLayout& next) -> Result<std::optional<double>> {
    if (next.layer_idx == 1) return unavailable("no such file");
    return std::optional(0.0);
  };
  const auto rebalancer = make();
  step_until_turn_ends(*rebalancer, 0);
  EXPECT_EQ(rebalancer->stats().num_failed, 1);
  EXPECT_NE(rebalancer->stats().last->failure.find("layer 1 keeps its placement: no such file"),
            std::string::npos);
  EXPECT_LT(num_switched_, kLayers);
}

TEST_F(RebalancerTest, ForgetsATurnThatMeansNothingAnyMore) {
  const auto rebalancer = make();
  for (int i = 0; i < options_.num_iterations; ++i) {
    rebalancer->after_step(make_step(layout_.placement, 0));
  }
  ASSERT_FALSE(rebalancer->start_turn().ok());  // it is planning
  rebalancer->abandon_turn();
  step_until_turn_ends(*rebalancer, 0);  // the next
  EXPECT_EQ(rebalancer->stats().num_rebalances, 1);
  EXPECT_GE(rebalancer->stats().last->num_steps, options_.num_iterations);
}

TEST_F(RebalancerTest, KeepsThePlacementWherePlanningFails) {
  plan_ = [](const RebalanceTask&) -> Result<RebalancePlan> { return invalid_argument("no idea"); };
  const std::vector<int32_t> before = layout_.placement.physical_to_logical;
  const auto rebalancer = make();
  step_until_turn_ends(*rebalancer, 0);
  EXPECT_EQ(rebalancer->stats().num_failed, 1);
  EXPECT_EQ(rebalancer->stats().last->failure, "planning failed: no idea");
  EXPECT_EQ(layout_.placement.physical_to_logical, before);
  step_until_turn_ends(*rebalancer, 0);  // and tries again later
  EXPECT_EQ(rebalancer->stats().num_failed, 2);
}

TEST_F(RebalancerTest, KeepsThePlacementOfALayerWhoseExpertsDoNotArrive) {
  failing_layer_ = 1;
  const std::vector<int32_t> before = layout_.placement.physical_to_logical;
  const auto rebalancer = make();
  step_until_turn_ends(*rebalancer, 0);
  const RebalanceStats& stats = rebalancer->stats();
  EXPECT_EQ(stats.num_failed, 1);
  EXPECT_NE(stats.last->failure.find("a wire was cut"), std::string::npos);
  EXPECT_EQ(stats.num_switched_layers, num_switched_);
  const auto layer = layout_.placement.layer(1);
  EXPECT_TRUE(std::equal(layer.begin(), layer.end(), before.begin() + kExperts));
  failing_layer_ = -1;
  step_until_turn_ends(*rebalancer, 0);
  EXPECT_EQ(stats.num_rebalances, 1);
  EXPECT_EQ(num_switched_, kLayers);
}

TEST_F(RebalancerTest, StartsATurnWhenAsked) {
  options_.num_iterations = 1000;
  const auto rebalancer = make();
  EXPECT_FALSE(rebalancer->start_turn().ok());  // nothing to plan for
  rebalancer->after_step(make_step(layout_.placement, 0));
  EXPECT_TRUE(rebalancer->start_turn().ok());
  EXPECT_FALSE(rebalancer->start_turn().ok());  // one is under way
  step_until_turn_ends(*rebalancer, 0);
  EXPECT_EQ(rebalancer->stats().num_rebalances, 1);
}

// Moves that cost more than they gain stay undone; cheaper ones are found where few must move.
TEST(RebalancePlan, MovesOnlyWhatPays) {
  const Placement placement = *trivial_placement(kLayers, kExperts, 0, kRanks);
  LoadWindow window(kLayers, kExperts, 4);
  for (int i = 0; i < 4; ++i) window.add(make_step(placement, 0));
  RebalanceTask task{.runs = window.runs(),
                     .samples = window.samples(),
                     .in_force = placement,
                     .top_k = kTopK,
                     .algorithm = "plimsoll",
                     .num_steps_ahead = 1000,
                     .costs = {.seconds_per_pair = 1e-6, .seconds_per_switch = 1e-5}};
  const auto free = plan_rebalance(task);
  ASSERT_TRUE(free.ok());
  ASSERT_EQ(std::ssize(free->layers), kLayers);
  // A layer gains about 100 pairs a step, 0.1 s in all.
  EXPECT_NEAR(free->gain_seconds / kLayers, 0.1, 0.01);

  task.costs.seconds_per_moved_expert = 0.02;  // two moves are the least, and pay
  const auto few = plan_rebalance(task);
  ASSERT_TRUE(few.ok());
  ASSERT_EQ(std::ssize(few->layers), kLayers);
  EXPECT_EQ(few->total_moved(), 2 * kLayers);
  EXPECT_GT(few->gain_seconds, few->cost_seconds);

  task.costs.seconds_per_moved_expert = 0.06;
  const auto none = plan_rebalance(task);
  ASSERT_TRUE(none.ok());
  EXPECT_TRUE(none->layers.empty());
  EXPECT_EQ(none->max_over_mean_planned, none->max_over_mean_now);
}

// Steps without a pattern: what is best for one is no better for the next.
TEST(RebalancePlan, DoesNotChaseChance) {
  constexpr int kManyExperts = 64, kSteps = 64;
  const Placement placement = *trivial_placement(1, kManyExperts, 0, kRanks);
  std::mt19937 random(7);
  const auto plan = [&](bool has_pattern) {
    LoadWindow window(1, kManyExperts, kSteps);
    for (int i = 0; i < kSteps; ++i) {
      StepResult step;
      step.balance = {.num_ranks = kRanks,
                      .num_layers = 1,
                      .total_load = std::vector<int64_t>(kRanks, 1),
                      .expert_counts = std::vector<int32_t>(kManyExperts)};
      for (int token = 0; token < 64; ++token) {
        const bool is_hot = has_pattern && token % 2 == 0;  // those on rank 0
        ++step.balance.expert_counts[random() % (is_hot ? kManyExperts / kRanks : kManyExperts)];
      }
      window.add(step);
    }
    return *plan_rebalance({.runs = window.runs(),
                            .samples = window.samples(),
                            .in_force = placement,
                            .top_k = 1,
                            .algorithm = "plimsoll",
                            .num_steps_ahead = 1000,
                            .costs = {.seconds_per_pair = 1e-6, .seconds_per_switch = 1e-3}});
  };
  EXPECT_TRUE(plan(false).layers.empty());
  EXPECT_EQ(plan(true).layers.size(), 1u);
}

// Where two moves bring most of the gain, those that would cost more than they add are not made.
TEST(RebalancePlan, LeavesOutTheMovesThatDoNotPay) {
  const Placement placement = *trivial_placement(1, kExperts, 0, kRanks);
  StepResult step;
  step.balance = {.num_ranks = kRanks,
                  .num_layers = 1,
                  .total_load = {200, 120, 100, 20},
                  .expert_counts = {100, 100, 70, 50, 60, 40, 10, 10}};
  LoadWindow window(1, kExperts, 8);
  for (int i = 0; i < 8; ++i) window.add(step);
  RebalanceTask task{.runs = window.runs(),
                     .samples = window.samples(),
                     .in_force = placement,
                     .top_k = 1,
                     .algorithm = "plimsoll",
                     .num_steps_ahead = 1000,
                     .costs = {.seconds_per_pair = 1e-6, .seconds_per_moved_expert = 1e-6}};
  const RebalancePlan cheap = *plan_rebalance(task);
  task.costs.seconds_per_moved_expert = 0.011;
  const RebalancePlan dear = *plan_rebalance(task);
  EXPECT_LT(dear.total_moved(), cheap.total_moved());
  EXPECT_GT(dear.total_moved(), 0);
  EXPECT_LT(dear.gain_seconds, cheap.gain_seconds);
  // The moves left out would have gained less than they cost.
  EXPECT_GT(dear.gain_seconds - dear.cost_seconds,
            cheap.gain_seconds - cheap.total_moved() * task.costs.seconds_per_moved_expert);
}

TEST(CheckOptions, RefusesRebalancingThatCannotBe) {
  const std::string model_dir = PLIMSOLL_SOURCE_DIR "/testdata/tiny-v4";
  const ModelConfig config = *load_config(model_dir);
  const auto refusal = [&](const EngineOptions& options) {
    const auto setup = check_options(options, config);
    return setup.ok() ? "(accepted)" : setup.error().message;
  };
  EngineOptions options{.model_dir = model_dir, .ep_size = 2, .enable_eplb = true};
  EXPECT_EQ(refusal(options), "(accepted)");
  options.eplb_algorithm = "plimsoll_hierarchical";  // the model has no expert groups
  EXPECT_NE(refusal(options).find("--enable-eplb cannot plan: "), std::string::npos);
  options.eplb_algorithm = "deepseek";
  options.eplb_min_rebalancing_utilization_threshold = 0;
  EXPECT_EQ(refusal(options), "(accepted)");
  options.eplb_min_rebalancing_utilization_threshold = 1.1;
  EXPECT_NE(refusal(options).find("expected 0 to 1"), std::string::npos);
  options.ep_size = 1;
  EXPECT_NE(refusal(options).find("--ep-size is 1"), std::string::npos);
  options.enable_eplb = false;
  EXPECT_NE(refusal(options).find("--eplb-min-rebalancing-utilization-threshold does nothing"),
            std::string::npos);
}

TEST(CheckOptions, RefusesToOutliveProcessesThatAreNotThere) {
  const std::string model_dir = PLIMSOLL_SOURCE_DIR "/testdata/tiny-v4";
  const auto setup = check_options({.model_dir = model_dir, .ep_size = 2, .elastic = true},
                                   *load_config(model_dir));
  ASSERT_FALSE(setup.ok());
  EXPECT_NE(setup.error().message.find("mpirun --enable-recovery"), std::string::npos);
}

TEST(LoadWindow, KeepsRunsAndSamplesOfTheLastSteps) {
  const Placement placement = *trivial_placement(1, 2, 0, 2);
  LoadWindow window(1, 2, 192);  // three steps a run
  for (int64_t i = 0; i < 195; ++i) {
    StepResult step;
    step.balance = {.num_ranks = 2,
                    .num_layers = 1,
                    .total_load = {i, 0},
                    .expert_counts = {static_cast<int32_t>(i), 0}};
    window.add(step);
  }
  EXPECT_EQ(window.num_steps(), 195);
  const LoadHistory runs = window.runs();
  EXPECT_EQ(runs.num_steps, 64);
  EXPECT_EQ(runs.counts[0], 193 + 194);  // the newest took the place of the oldest
  EXPECT_EQ(runs.counts[2], 4 + 5);
  EXPECT_EQ(window.samples().counts[0], 192);
  EXPECT_EQ(window.samples().counts[2], 3);
  EXPECT_DOUBLE_EQ(window.utilization(), 0.5);
  EXPECT_DOUBLE_EQ(window.max_over_mean(), 2);
  window.clear();
  EXPECT_EQ(window.runs().num_steps, 0);
  EXPECT_DOUBLE_EQ(window.utilization(), 1);
}

}  // namespace
}  // namespace plimsoll
