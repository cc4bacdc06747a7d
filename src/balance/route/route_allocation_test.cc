// route() and assign() take their memory at set-up: what runs for every batch never allocates.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <new>

#include "balance/random.h"
#include "plimsoll/route.h"

namespace {
std::atomic<int64_t> num_allocations{0};
}  // namespace

// Every way in which the standard library asks for memory of ordinary alignment; the array forms
// call these. Inlined, GCC takes new with free for a mistake.
[[gnu::noinline]] void* operator new(size_t size) {
  ++num_allocations;
  if (void* memory = std::malloc(size)) return memory;
  std::abort();
}
[[gnu::noinline]] void* operator new(size_t size, const std::nothrow_t&) noexcept {
  ++num_allocations;
  return std::malloc(size);
}
[[gnu::noinline]] void operator delete(void* memory) noexcept {
  std::free(memory);
}
[[gnu::noinline]] void operator delete(void* memory, size_t) noexcept {
  std::free(memory);
}
[[gnu::noinline]] void operator delete(void* memory, const std::nothrow_t&) noexcept {
  std::free(memory);
}

namespace plimsoll {
namespace {

constexpr int kNumRanks = 8;
constexpr int kNumExperts = 32;
constexpr int kTopK = 4;
constexpr int kTokensPerRank = 24;

struct Batch {
  std::vector<int32_t> topk_ids;  // [source, token, k]
  std::vector<int32_t> counts;    // [source, expert]
};

Batch draw_batch(SplitMix64& random) {
  Batch batch;
  batch.counts.assign(kNumRanks * kNumExperts, 0);
  for (int i = 0; i < kNumRanks * kTokensPerRank; ++i) {
    const auto first = static_cast<int32_t>(std::min(random.below(32), random.below(32)));
    for (int k = 0; k < kTopK; ++k) {
      const int32_t expert = (first + k * 7) % kNumExperts;
      batch.topk_ids.push_back(expert);
      ++batch.counts[i / kTokensPerRank * kNumExperts + expert];
    }
  }
  return batch;
}

// Allocations while ten batches are routed and dealt out.
int64_t allocations_of(const RouteOptions& options) {
  const auto placement = trivial_placement(1, kNumExperts, 16, kNumRanks);
  const auto tables = make_route_tables(*placement, 0, options);
  EXPECT_TRUE(tables.ok());
  RouteWorkspace workspace(*tables);
  RoutePlan plan(*tables);
  SplitMix64 random{5};
  std::vector<Batch> batches;
  for (int i = 0; i < 10; ++i) batches.push_back(draw_batch(random));
  const std::vector<int32_t> active(kNumRanks, kTokensPerRank);
  std::vector<int32_t> physical_ids(kTokensPerRank * kTopK);
  std::vector<int32_t> shared_ranks(kTokensPerRank * options.num_shared_experts);
  const int64_t before = num_allocations;
  bool done = true;
  for (const Batch& batch : batches) {
    done &= route(*tables, batch.counts, active, workspace, plan).ok();
    for (int s = 0; s < kNumRanks; ++s) {
      const auto ids = std::span(batch.topk_ids)
                           .subspan(static_cast<size_t>(s) * kTokensPerRank * kTopK,
                                    static_cast<size_t>(kTokensPerRank) * kTopK);
      done &= assign(*tables, plan, s, ids, kTopK, workspace, physical_ids, shared_ranks).ok();
    }
  }
  const int64_t after = num_allocations;
  EXPECT_TRUE(done);
  return after - before;
}

TEST(RouteAllocation, TheCounterCounts) {
  const int64_t before = num_allocations;
  const std::vector<int32_t> some(100);
  EXPECT_EQ(num_allocations, before + 1) << some.size();
}

TEST(RouteAllocation, NoneAfterSetUp) {
  for (const auto algorithm :
       {DispatchAlgorithm::kExact, DispatchAlgorithm::kStatic, DispatchAlgorithm::kDynamic}) {
    for (const bool waterfill : {false, true}) {
      EXPECT_EQ(allocations_of({.algorithm = algorithm, .waterfill = waterfill}), 0)
          << static_cast<int>(algorithm) << " " << waterfill;
    }
  }
}

TEST(RouteAllocation, NoneForOtherObjectives) {
  EXPECT_EQ(allocations_of({.objective = RouteObjective::kExperts}), 0);
  EXPECT_EQ(allocations_of({.waterfill = true,
                            .objective = RouteObjective::kTime,
                            .ns_per_expert = 900,
                            .ns_per_token = 7}),
            0);
}

TEST(RouteAllocation, NoneWithSeveralSharedExpertsAndUnlikeRanks) {
  EXPECT_EQ(allocations_of({.waterfill = true,
                            .num_shared_experts = 2,
                            .shared_cost = {3, 2},
                            .rank_cost = {4, 5, 4, 4, 4, 4, 4, 4}}),
            0);
}

}  // namespace
}  // namespace plimsoll
