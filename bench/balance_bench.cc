// Speed of planning and routing. Loads and batches follow a power law, the named stand-in for real
// traffic where none is at hand: expert popularity ~ rank^-alpha, shuffled.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "balance/random.h"
#include "plimsoll/eplb.h"
#include "plimsoll/plan.h"
#include "plimsoll/route.h"

namespace plimsoll {
namespace {

std::vector<double> popularity(SplitMix64& random, int num_experts, double alpha) {
  std::vector<double> share(num_experts);
  for (int e = 0; e < num_experts; ++e) share[e] = std::pow(e + 1, -alpha);
  for (int e = num_experts - 1; e > 0; --e) std::swap(share[e], share[random.below(e + 1)]);
  const double sum = std::accumulate(share.begin(), share.end(), 0.0);
  for (double& s : share) s /= sum;
  return share;
}

LoadHistory power_law_load(int num_layers, int num_experts, double alpha) {
  SplitMix64 random{7};
  LoadHistory load{1, num_layers, num_experts, {}};
  for (int l = 0; l < num_layers; ++l) {
    for (const double share : popularity(random, num_experts, alpha)) {
      load.counts.push_back(static_cast<int64_t>(share * 8192 * 6 * 100) + random.below(16));
    }
  }
  return load;
}

// counts[source, expert] of num_tokens tokens in all, top_k distinct experts each.
std::vector<int32_t> draw_counts(SplitMix64& random,
                                 const std::vector<double>& share,
                                 int num_ranks,
                                 int num_tokens,
                                 int top_k) {
  const int num_experts = static_cast<int>(share.size());
  std::vector<double> cumulative(share.size());
  std::partial_sum(share.begin(), share.end(), cumulative.begin());
  std::vector<int32_t> counts(static_cast<size_t>(num_ranks) * num_experts, 0);
  std::vector<int> chosen;
  for (int t = 0; t < num_tokens; ++t) {
    chosen.clear();
    while (static_cast<int>(chosen.size()) < top_k) {
      const double at = static_cast<double>(random.next() >> 11) * 0x1p-53;
      const int e = std::min<int>(
          static_cast<int>(std::upper_bound(cumulative.begin(), cumulative.end(), at) -
                           cumulative.begin()),
          num_experts - 1);
      if (std::find(chosen.begin(), chosen.end(), e) == chosen.end()) chosen.push_back(e);
    }
    for (const int e : chosen) ++counts[static_cast<size_t>(t % num_ranks) * num_experts + e];
  }
  return counts;
}

// Plans with certificates. The load is known: one step.
void BM_Plan(benchmark::State& state,
             const char* algorithm,
             int num_layers,
             int num_experts,
             int num_redundant,
             int num_ranks,
             double alpha) {
  const LoadHistory load = power_law_load(num_layers, num_experts, alpha);
  PlanOptions options;
  options.algorithm = algorithm;
  options.num_ranks = num_ranks;
  options.num_redundant_experts = num_redundant;
  double worst_gap = 0;
  double mean_over_max = 0;
  for (auto _ : state) {
    const auto plan = make_plan(load, options);
    mean_over_max = 0;
    for (const Certificate& c : plan->certificates) {
      worst_gap = std::max(worst_gap, c.gap());
      mean_over_max += c.mean_load / static_cast<double>(c.max_load) / num_layers;
    }
  }
  state.counters["worst_gap_%"] = worst_gap * 100;
  state.counters["mean/max"] = mean_over_max;
}
#define PLAN(name, algorithm, ...) \
  BENCHMARK_CAPTURE(BM_Plan, name, algorithm, __VA_ARGS__)->Unit(benchmark::kMicrosecond)
PLAN(deepseek_58x256_to_288_on_32, "deepseek", 58, 256, 32, 32, 1.01);
PLAN(plimsoll_58x256_to_288_on_32, "plimsoll", 58, 256, 32, 32, 1.01);
PLAN(deepseek_58x256_to_320_on_64, "deepseek", 58, 256, 64, 64, 1.2);
PLAN(plimsoll_58x256_to_320_on_64, "plimsoll", 58, 256, 64, 64, 1.2);
PLAN(plimsoll_61x1024_to_2048_on_1024, "plimsoll", 61, 1024, 1024, 1024, 1.01);

// The published algorithm alone, without certificates.
void BM_EplbDeepSeek(benchmark::State& state) {
  const LoadHistory load = power_law_load(58, 256, 1.01);
  const std::vector<float> weight(load.counts.begin(), load.counts.end());
  for (auto _ : state) {
    benchmark::DoNotOptimize(eplb_deepseek({58, 256, 288, 32}, weight, false).ok());
  }
}
BENCHMARK(BM_EplbDeepSeek)->Unit(benchmark::kMicrosecond);

// Routes batches of 4,096 tokens, top-6, with at least 32 redundant experts: as many as fill the
// slots of every rank.
void BM_Route(benchmark::State& state) {
  const int num_ranks = static_cast<int>(state.range(0));
  const int num_experts = static_cast<int>(state.range(1));
  PlanOptions options;
  options.algorithm = "deepseek";
  options.num_ranks = num_ranks;
  const int slots_per_rank = (num_experts + 32 + num_ranks - 1) / num_ranks;
  options.num_redundant_experts = slots_per_rank * num_ranks - num_experts;
  SplitMix64 random{3};
  const std::vector<double> share = popularity(random, num_experts, 1.01);
  LoadHistory load{1, 1, num_experts, {}};
  for (const double s : share) load.counts.push_back(static_cast<int64_t>(s * 1e6));
  const auto plan = make_plan(load, options);
  RouteOptions route_options;
  route_options.waterfill = state.range(2) != 0;
  const auto tables = make_route_tables(plan->placement, 0, route_options);
  RouteWorkspace workspace(*tables);
  RoutePlan routed(*tables);
  std::vector<std::vector<int32_t>> batches;
  for (int i = 0; i < 16; ++i) batches.push_back(draw_counts(random, share, num_ranks, 4096, 6));
  const std::vector<int32_t> active(num_ranks, 4096 / num_ranks);
  size_t next = 0;
  for (auto _ : state) {
    (void)route(*tables, batches[next++ % batches.size()], active, workspace, routed).ok();
  }
  state.counters["max/mean"] = static_cast<double>(routed.max_load) * num_ranks /
                               static_cast<double>(std::accumulate(
                                   routed.rank_load.begin(), routed.rank_load.end(), int64_t{0}));
}
BENCHMARK(BM_Route)
    ->ArgNames({"ranks", "experts", "waterfill"})
    ->ArgsProduct({{8, 16, 32, 64, 128, 256, 512, 1024}, {256}, {0, 1}})
    ->ArgsProduct({{8}, {64, 128, 512, 1024}, {0, 1}})
    ->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace plimsoll

BENCHMARK_MAIN();
