// Exact routing on recorded traffic: every batch of every layer of every trace meets the min-cut
// bound.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>

#include "balance/route/route_reference.h"
#include "plimsoll/plan.h"

namespace plimsoll {
namespace {

struct Trace {
  int num_layers;
  int top_k;
  std::vector<uint8_t> ids;  // [token, layer, k]
  int num_tokens() const { return static_cast<int>(ids.size()) / (num_layers * top_k); }
};

constexpr int kNumExperts = 64;  // of every trace here

Trace read_trace(const std::string& path, int num_layers, int top_k) {
  std::ifstream file(path, std::ios::binary);
  return {num_layers, top_k, {std::istreambuf_iterator<char>(file), {}}};
}

// A run of tokens as one batch, split over the ranks in order.
void fill_batch(const Trace& trace, int layer, int first, int size, Case& c) {
  const int num_ranks = c.placement.num_ranks;
  c.counts.assign(static_cast<size_t>(num_ranks) * kNumExperts, 0);
  c.active_tokens.assign(num_ranks, 0);
  for (int i = 0; i < size; ++i) {
    const int source = static_cast<int>(int64_t{i} * num_ranks / size);
    const size_t token = (static_cast<size_t>(first + i) * trace.num_layers + layer) * trace.top_k;
    for (int k = 0; k < trace.top_k; ++k) {
      ++c.counts[static_cast<size_t>(source) * kNumExperts + trace.ids[token + k]];
    }
    ++c.active_tokens[source];
  }
}

// The layer's load over the first half of the trace.
LoadHistory first_half(const Trace& trace, int layer) {
  LoadHistory load{1, 1, kNumExperts, std::vector<int64_t>(kNumExperts, 0)};
  for (int t = 0; t < trace.num_tokens() / 2; ++t) {
    for (int k = 0; k < trace.top_k; ++k) {
      ++load.counts[trace.ids[(static_cast<size_t>(t) * trace.num_layers + layer) * trace.top_k +
                              k]];
    }
  }
  return load;
}

void expect_bound_met(const Trace& trace, int batch_tokens) {
  ASSERT_GT(trace.num_tokens(), batch_tokens);
  PlanOptions options;
  options.algorithm = "deepseek";
  options.num_ranks = 8;
  for (int layer = 0; layer < trace.num_layers; ++layer) {
    for (const int num_redundant : {0, 8, 16}) {
      options.num_redundant_experts = num_redundant;
      Case c;
      c.placement = make_plan(first_half(trace, layer), options)->placement;
      for (const bool waterfill : {false, true}) {
        c.options.waterfill = waterfill;
        const auto tables = make_route_tables(c.placement, 0, c.options);
        RouteWorkspace workspace(*tables);
        RoutePlan plan(*tables);
        for (int first = 0; first + batch_tokens <= trace.num_tokens(); first += batch_tokens) {
          fill_batch(trace, layer, first, batch_tokens, c);
          ASSERT_TRUE(route(*tables, c.counts, c.active_tokens, workspace, plan).ok());
          ASSERT_EQ(plan.max_load, subset_bound(c)) << "layer " << layer << " token " << first;
          ASSERT_EQ(plan.max_load, confined_bound(c, plan));
        }
      }
    }
  }
}

TEST(RouteTrace, DemoTracesMeetTheBound) {
  for (const char* kind : {"dictionary", "pgdoc", "pydoc", "scripture", "speech"}) {
    SCOPED_TRACE(kind);
    const std::string path =
        PLIMSOLL_SOURCE_DIR "/testdata/traces/demo_" + std::string(kind) + ".u8";
    expect_bound_met(read_trace(path, 6, 6), 512);
  }
}

TEST(RouteTrace, DeepSeekV2LiteTracesMeetTheBound) {
  const std::string folder = PLIMSOLL_SOURCE_DIR "/../shared/traces/";
  if (!std::filesystem::exists(folder + "dsv2lite_intent.u8")) {
    GTEST_SKIP() << folder
                 << " is not here: the DeepSeek-V2-Lite traces are not part of the project";
  }
  for (const char* task : {"intent", "summary"}) {
    SCOPED_TRACE(task);
    expect_bound_met(read_trace(folder + "dsv2lite_" + task + ".u8", 26, 6), 256);
  }
}

}  // namespace
}  // namespace plimsoll
