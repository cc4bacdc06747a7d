#include "ep/moe_rank.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <random>
#include <string>
#include <thread>

#include "comm/thread_group.h"

namespace plimsoll {
namespace {

constexpr int kHidden = 24;
constexpr int kTopK = 3;
constexpr int kExperts = 12;

// An expert whose output tells which expert it was and depends on every input.
void fake_expert(int, int logical_expert, std::span<const ExpertRow> rows) {
  for (const ExpertRow& row : rows) {
    for (int i = 0; i < kHidden; ++i) {
      const float gate = std::sin(row.row[i] * static_cast<float>(logical_expert + 2));
      row.out[i] = row.weight * (gate + row.row[(i + 1) % kHidden]);
    }
  }
}

struct Batch {
  int num_tokens = 0;
  std::vector<float> rows;
  std::vector<int32_t> ids;
  std::vector<float> weights;
};

Batch random_batch(int num_tokens, std::mt19937& random) {
  Batch batch{.num_tokens = num_tokens};
  for (int t = 0; t < num_tokens; ++t) {
    for (int i = 0; i < kHidden; ++i) batch.rows.push_back((random() % 1000) / 500.0f - 1);
    std::vector<int32_t> experts(kExperts);
    for (int e = 0; e < kExperts; ++e) experts[e] = e;
    for (int k = 0; k < kTopK; ++k) {
      // Low experts more often: the routing must have something to level.
      const int left = kExperts - k;
      std::swap(experts[k], experts[k + std::min<int>(random() % left, random() % left)]);
      batch.ids.push_back(experts[k]);
      batch.weights.push_back((random() % 1000) / 1000.0f);
    }
  }
  return batch;
}

// What one rank alone computes: top-k order, then the shared expert.
std::vector<float> reference(const Batch& batch) {
  std::vector<float> out(batch.rows.size());
  std::vector<float> result(kHidden);
  for (int t = 0; t < batch.num_tokens; ++t) {
    const float* row = batch.rows.data() + t * kHidden;
    for (int k = 0; k <= kTopK; ++k) {
      const ExpertRow one{row, k < kTopK ? batch.weights[t * kTopK + k] : 1.0f, result.data()};
      fake_expert(0, k < kTopK ? batch.ids[t * kTopK + k] : kSharedExpert, {&one, 1});
      for (int i = 0; i < kHidden; ++i) out[t * kHidden + i] += result[i];
    }
  }
  return out;
}

struct Case {
  int num_ranks;
  int num_redundant;
  bool waterfill;
  A2aBackend backend;
  StepMode mode;
  JitOptions jit = {};
};

// Runs a few steps of the case and checks every bit of every row.
void check(const Case& test) {
  SCOPED_TRACE("ranks " + std::to_string(test.num_ranks) + ", redundant " +
               std::to_string(test.num_redundant) + ", waterfill " +
               std::to_string(test.waterfill) + ", backend " +
               std::to_string(static_cast<int>(test.backend)) + ", mode " +
               std::to_string(static_cast<int>(test.mode)));
  const auto placement = trivial_placement(1, kExperts, test.num_redundant, test.num_ranks);
  ASSERT_TRUE(placement.ok()) << placement.error().message;
  const MoeOptions options{.backend = test.backend,
                           .max_dispatch_tokens_per_rank = 40,
                           .hidden_size = kHidden,
                           .top_k = kTopK,
                           .route = {.waterfill = test.waterfill, .jit = test.jit}};
  const auto layout = make_moe_layout(*placement, options.route);
  ASSERT_TRUE(layout.ok()) << layout.error().message;
  ThreadGroup group(test.num_ranks);
  std::atomic<int> num_copies = 0;
  std::vector<std::jthread> threads;
  for (int r = 0; r < test.num_ranks; ++r) {
    threads.emplace_back([&, r] {
      const auto comm = group.connect(r);
      HostMoeCompute compute(kHidden, fake_expert);
      MoeRank rank(*comm, *layout, options, compute);
      std::mt19937 random(r);
      for (int step = 0; step < 5; ++step) {
        const Batch batch = random_batch((random() % 40) * (step != 3 || r == 0), random);
        std::vector<float> out(batch.rows.size(), NAN);
        const MoeTokens tokens{batch.num_tokens, batch.rows.data(), batch.ids.data(),
                               batch.weights.data()};
        const Status status = rank.run(0, test.mode, tokens, out.data());
        ASSERT_TRUE(status.ok()) << status.error().message;
        EXPECT_EQ(out, reference(batch));
        const RoutePlan& route = rank.last_plan().route;
        EXPECT_EQ(*std::ranges::max_element(route.rank_load), route.max_load);
        EXPECT_GE(route.max_load, route.lower_bound);
        EXPECT_LE(route.max_load, rank.last_plan().standing_max);
        num_copies += static_cast<int>(rank.last_plan().copies.size());
      }
      ASSERT_TRUE(comm->all_gather({}, {}).ok());  // peers have read this rank's last results
    });
  }
  threads.clear();
  if (test.jit.slots_per_rank == 0) {
    EXPECT_EQ(num_copies, 0);
  }
  // With redundant experts the standing copies level these batches by themselves.
  if (test.jit.slots_per_rank > 0 && test.num_ranks > 1 && test.num_redundant == 0) {
    EXPECT_GT(num_copies, 0);
  }
}

TEST(MoeRank, GivesTheSameBitsHoweverTheExpertsAreSpread) {
  for (int num_ranks : {1, 2, 3, 4}) {
    for (int num_redundant : {0, 12}) {
      for (bool waterfill : {false, true}) {
        for (StepMode mode : {StepMode::kNormal, StepMode::kLowLatency}) {
          check({num_ranks, num_redundant, waterfill, A2aBackend::kDeepep, mode});
        }
      }
      check({num_ranks, num_redundant, false, A2aBackend::kNone, StepMode::kNormal});
      for (StepMode mode : {StepMode::kNormal, StepMode::kLowLatency}) {
        const JitOptions exactly_level{.slots_per_rank = 3, .tolerance = {0, 1}};
        check({num_ranks, num_redundant, false, A2aBackend::kDeepep, mode, exactly_level});
      }
    }
  }
}

TEST(MoeRank, RefusesMoreTokensThanALowLatencyStepHolds) {
  const auto placement = trivial_placement(1, kExperts, 0, 1);
  const MoeOptions options{
      .max_dispatch_tokens_per_rank = 4, .hidden_size = kHidden, .top_k = kTopK};
  const auto layout = make_moe_layout(*placement, options.route);
  ThreadGroup group(1);
  const auto comm = group.connect(0);
  HostMoeCompute compute(kHidden, fake_expert);
  MoeRank rank(*comm, *layout, options, compute);
  std::mt19937 random(1);
  const Batch batch = random_batch(5, random);
  std::vector<float> out(batch.rows.size());
  const MoeTokens tokens{5, batch.rows.data(), batch.ids.data(), batch.weights.data()};
  const Status status = rank.run(0, StepMode::kLowLatency, tokens, out.data());
  ASSERT_FALSE(status.ok());
  EXPECT_NE(status.error().message.find("--max-dispatch-tokens-per-rank is 4"), std::string::npos);
}

}  // namespace
}  // namespace plimsoll
