// The GPU's routing against the CPU's: the same integers, on random cases, corner cases, recorded
// traffic, and across a change of placement between graph replays. PLIMSOLL_GPU_CASES: how many
// random cases (default 100).
#include "cuda/balance/route/gpu_route.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "cuda/balance/route/device_case.h"
#include "cuda/balance/route/exchange.h"
#include "plimsoll/plan.h"
#ifdef PLIMSOLL_NCCL
#include <nccl.h>
#endif

namespace plimsoll::gpu {
namespace {

bool has_gpu() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess && count > 0;
}

#define SKIP_WITHOUT_GPU() \
  if (!has_gpu()) GTEST_SKIP() << "no CUDA GPU on this machine: nothing was compared"

// What the CPU says of a case, laid out as the GPU lays it out.
struct Expected {
  std::vector<int32_t> counts;    // [num_ranks, num_experts + 1]
  std::vector<int32_t> physical;  // [num_ranks, num_tokens, k + m]
  std::vector<int32_t> routed, shared;
  int64_t bound = 0;
};

Expected on_cpu(const GpuCase& c) {
  Expected expected;
  const int num_experts = c.num_experts();
  std::vector<int32_t> counts(static_cast<size_t>(c.num_ranks()) * num_experts, 0);
  std::vector<int32_t> active(c.num_ranks(), 0);
  for (int s = 0; s < c.num_ranks(); ++s) {
    const auto ids = c.ids_of(s);
    int32_t* row = &counts[static_cast<size_t>(s) * num_experts];
    for (int t = 0; t < c.num_tokens; ++t) {
      bool is_active = false;
      for (const int32_t id : ids.subspan(static_cast<size_t>(t) * c.k, c.k)) {
        if (id >= 0) ++row[id], is_active = true;
      }
      active[s] += is_active;
    }
    expected.counts.insert(expected.counts.end(), row, row + num_experts);
    expected.counts.push_back(active[s]);
  }
  const auto tables = make_route_tables(c.placement, 0, c.options);
  RouteWorkspace workspace(*tables);
  RoutePlan plan(*tables);
  EXPECT_TRUE(route(*tables, counts, active, workspace, plan).ok());
  expected.routed = plan.routed;
  expected.shared = plan.shared;
  expected.bound = plan.lower_bound;
  const int m = c.options.num_shared_experts;
  std::vector<int32_t> physical(static_cast<size_t>(c.num_tokens) * c.k);
  std::vector<int32_t> shared(static_cast<size_t>(c.num_tokens) * m);
  for (int s = 0; s < c.num_ranks(); ++s) {
    EXPECT_TRUE(assign(*tables, plan, s, c.ids_of(s), c.k, workspace, physical, shared).ok());
    for (int t = 0; t < c.num_tokens; ++t) {
      const auto token = physical.begin() + static_cast<ptrdiff_t>(t) * c.k;
      expected.physical.insert(expected.physical.end(), token, token + c.k);
      for (int j = 0; j < m; ++j) {
        const int32_t rank = shared[static_cast<size_t>(t) * m + j];
        expected.physical.push_back(rank < 0 ? -1 : c.placement.num_physical_experts + rank);
      }
    }
  }
  return expected;
}

// A case in device memory, as ids of type Id.
template <typename Id>
struct OnDevice {
  explicit OnDevice(const GpuCase& c)
      : ids(std::vector<Id>(c.topk_ids.begin(), c.topk_ids.end())),
        weights(weights_of(c)),
        counts(static_cast<size_t>(c.num_ranks()) * (c.num_experts() + 1)),
        physical(num_out(c)),
        out_weights(num_out(c)),
        routed(static_cast<size_t>(c.num_ranks()) * c.placement.num_physical_experts),
        shared(static_cast<size_t>(c.num_ranks()) * c.num_ranks()),
        bound(c.num_ranks()) {
    batch = {0,          c.num_ranks(),  c.num_tokens,    c.k,
             ids.data(), weights.data(), physical.data(), out_weights.data(),
             0.25f};
    decision = {routed.data(), shared.data(), bound.data()};
    counts.poison(), physical.poison(), out_weights.poison();
    routed.poison(), shared.poison(), bound.poison();
  }
  static size_t num_out(const GpuCase& c) {
    return static_cast<size_t>(c.num_ranks()) * c.num_tokens * (c.k + c.options.num_shared_experts);
  }
  static std::vector<float> weights_of(const GpuCase& c) {
    std::vector<float> weights(c.topk_ids.size());
    for (size_t i = 0; i < weights.size(); ++i) weights[i] = static_cast<float>(i % 9973);
    return weights;
  }

  DeviceArray<Id> ids;
  DeviceArray<float> weights;
  DeviceArray<int32_t> counts;
  DeviceArray<Id> physical;
  DeviceArray<float> out_weights;
  DeviceArray<int32_t> routed, shared, bound;
  Batch<Id> batch;
  Decision decision;
};

template <typename Id>
void expect_weights(const GpuCase& c, const OnDevice<Id>& device) {
  const std::vector<float> in = OnDevice<Id>::weights_of(c);
  const std::vector<float> out = device.out_weights.read();
  const std::vector<Id> ids = device.physical.read();
  const int m = c.options.num_shared_experts;
  for (size_t t = 0; t < in.size() / c.k; ++t) {
    const size_t row = t * (c.k + m);
    ASSERT_TRUE(std::equal(&in[t * c.k], &in[t * c.k] + c.k, &out[row]));
    for (int j = c.k; j < c.k + m; ++j) {
      ASSERT_EQ(out[row + j], ids[row + j] < 0 ? 0.0f : 0.25f);
    }
  }
}

template <typename Id>
void expect_ids(
    const GpuCase& c, const Expected& expected, const OnDevice<Id>& device, int first, int count) {
  const std::vector<Id> ids = device.physical.read();
  const size_t size = expected.physical.size() / c.num_ranks();
  ASSERT_EQ(ids.size(), expected.physical.size());
  for (size_t i = first * size; i < (first + count) * size; ++i) {
    ASSERT_EQ(ids[i], expected.physical[i]) << "cell " << i;
  }
}

// count, then route, for all sources at once; then both in one launch for one of them.
template <typename Id>
void expect_equal_to_cpu(const GpuCase& c, int one_source) {
  const Expected expected = on_cpu(c);
  const auto tables = make_route_tables(c.placement, 0, c.options);
  const auto placement = DevicePlacement::create(*tables);
  ASSERT_TRUE(placement.ok()) << placement.error().message;
  OnDevice<Id> device(c);
  ASSERT_TRUE(count(**placement, device.batch, device.counts.data(), nullptr).ok());
  ASSERT_TRUE(
      already_gathered()->all_gather(device.counts.data(), c.num_experts() + 1, nullptr).ok());
  ASSERT_TRUE(
      route(**placement, device.batch, device.counts.data(), device.decision, nullptr).ok());
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  ASSERT_EQ(device.counts.read(), expected.counts);
  ASSERT_EQ(device.bound.read(), std::vector<int32_t>(c.num_ranks(), expected.bound));
  ASSERT_EQ(device.routed.read(), expected.routed);
  ASSERT_EQ(device.shared.read(), expected.shared);
  expect_ids(c, expected, device, 0, c.num_ranks());
  expect_weights(c, device);

  OnDevice<Id> again(c);
  std::vector<int32_t> others = expected.counts;  // the row of one_source is not there
  std::fill_n(others.begin() + static_cast<ptrdiff_t>(one_source) * (c.num_experts() + 1),
              c.num_experts() + 1, 12345);
  const DeviceArray<int32_t> counts(others);
  Batch<Id> one = again.batch;
  const size_t size = static_cast<size_t>(one_source) * c.num_tokens;
  const int m = c.options.num_shared_experts;
  one.first_source = one_source;
  one.num_sources = 1;
  one.topk_ids += size * c.k;
  one.topk_weights = nullptr;
  one.weights = nullptr;
  one.physical_ids += size * (c.k + m);
  ASSERT_TRUE(count_and_route(**placement, one, counts.data(), {}, nullptr).ok());
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  ASSERT_EQ(counts.read(), expected.counts);
  expect_ids(c, expected, again, one_source, 1);
}

// Fills in tokens: `skew` draws the lowest of so many experts, some are padding, some ranks empty.
void draw_tokens(SplitMix64& random, GpuCase& c) {
  const uint32_t skew = 1 + random.below(5);
  const bool is_sparse = random.below(4) == 0;
  const bool one_expert = random.below(12) == 0;
  const bool may_repeat = random.below(8) == 0;
  const int32_t favourite = static_cast<int32_t>(random.below(c.num_experts()));
  c.topk_ids.assign(static_cast<size_t>(c.num_ranks()) * c.num_tokens * c.k, -1);
  std::vector<size_t> seen_by(c.num_experts(), SIZE_MAX);
  for (int s = 0; s < c.num_ranks(); ++s) {
    const bool is_empty = is_sparse && random.below(2) == 0;
    const int num_tokens = is_empty ? 0 : static_cast<int>(random.below(c.num_tokens + 1));
    for (int t = 0; t < num_tokens; ++t) {
      if (random.below(16) == 0) continue;
      const size_t token = static_cast<size_t>(s) * c.num_tokens + t;
      if (one_expert) c.topk_ids[token * c.k] = favourite;
      for (int j = 0; j < c.k && !one_expert; ++j) {
        uint32_t e = random.below(c.num_experts());
        for (uint32_t i = 1; i < skew; ++i) e = std::min(e, random.below(c.num_experts()));
        while (seen_by[e] == token && !may_repeat) e = (e + 1) % c.num_experts();
        seen_by[e] = token;
        c.topk_ids[token * c.k + j] = static_cast<int32_t>(e);
      }
    }
  }
}

GpuCase random_case(SplitMix64& random) {
  static constexpr int kRanks[] = {2, 3, 4, 8, 12, 16, 32, 48, 64, 96, 128};
  GpuCase c;
  const int num_ranks = kRanks[random.below(std::size(kRanks))];
  const int least = (16 + num_ranks - 1) / num_ranks;
  const int per_rank = least + static_cast<int>(random.below(1024 / num_ranks - least + 1));
  const int slots = num_ranks * (random.below(3) == 0 ? per_rank : std::min(per_rank, least * 4));
  const int redundant = static_cast<int>(random.below(4)) == 0
                            ? 0
                            : static_cast<int>(random.below(std::min(slots / 2, slots - 16) + 1));
  c.placement = random_placement(random, slots - redundant, redundant, num_ranks);
  c.k = 1 + static_cast<int>(random.below(16));
  const int most = random.below(40) == 0 ? 16384 : random.below(4) == 0 ? 1024 : 64;
  const int affordable = 2'000'000 / (num_ranks * c.k);  // the CPU draws and routes them too
  c.num_tokens = static_cast<int>(random.below(std::min(most, affordable) + 1));
  c.options.waterfill = random.below(4) != 0;
  c.options.num_shared_experts = random.below(4) == 0 ? static_cast<int>(random.below(3)) : 1;
  draw_tokens(random, c);
  return c;
}

TEST(GpuRoute, EqualsTheCpuOnRandomCases) {
  SKIP_WITHOUT_GPU();
  const char* wanted = std::getenv("PLIMSOLL_GPU_CASES");
  const int num_cases = wanted == nullptr ? 100 : std::atoi(wanted);
  for (int i = 0; i < num_cases; ++i) {
    SplitMix64 random{static_cast<uint64_t>(i)};
    const GpuCase c = random_case(random);
    SCOPED_TRACE("case " + std::to_string(i) + ": " + std::to_string(c.num_ranks()) + " ranks, " +
                 std::to_string(c.num_experts()) + " experts, " +
                 std::to_string(c.placement.num_redundant_experts()) + " redundant, k " +
                 std::to_string(c.k) + ", " + std::to_string(c.num_tokens) + " tokens, waterfill " +
                 std::to_string(c.options.waterfill) + ", shared " +
                 std::to_string(c.options.num_shared_experts));
    const int one_source = static_cast<int>(random.below(c.num_ranks()));
    if (i % 2 == 0) {
      expect_equal_to_cpu<int32_t>(c, one_source);
    } else {
      expect_equal_to_cpu<int64_t>(c, one_source);
    }
    if (HasFailure()) return;
  }
}

// Small enough for racecheck, which follows every access to shared memory; skewed, so that units
// are pushed along all kinds of ways and bounds are raised.
TEST(GpuRoute, EqualsTheCpuOnSmallCases) {
  SKIP_WITHOUT_GPU();
  for (int i = 0; i < 8; ++i) {
    SCOPED_TRACE("case " + std::to_string(i));
    SplitMix64 random{static_cast<uint64_t>(1000 + i)};
    GpuCase c;
    c.placement = random_placement(random, 16, 8, i < 4 ? 2 : 4);
    c.options.waterfill = i % 4 != 3;
    c.k = 4;
    c.num_tokens = 100;
    draw_tokens(random, c);
    expect_equal_to_cpu<int32_t>(c, i % 2);
  }
}

TEST(GpuRoute, EqualsTheCpuAtTheLargestSizes) {
  SKIP_WITHOUT_GPU();
  SplitMix64 random{17};
  GpuCase c;
  c.placement = random_placement(random, 1024, 1024, 128);
  c.options.waterfill = true;
  for (const auto& [tokens, k] : {std::pair(0, 1), std::pair(1, 16), std::pair(800, 16)}) {
    c.num_tokens = tokens, c.k = k;
    draw_tokens(random, c);
    expect_equal_to_cpu<int32_t>(c, 127);
  }
  c.placement = random_placement(random, 256, 32, 8);
  c.num_tokens = 16384, c.k = 8;
  draw_tokens(random, c);
  expect_equal_to_cpu<int64_t>(c, 3);
}

// Of every trace here.
constexpr int kTraceExperts = 64;
constexpr int kTraceTopK = 6;

struct Trace {
  int num_layers;
  std::vector<uint8_t> ids;  // [token, layer, k]
  int num_tokens() const { return static_cast<int>(ids.size()) / (num_layers * kTraceTopK); }
};

Trace read_trace(const std::string& path, int num_layers) {
  std::ifstream file(path, std::ios::binary);
  return {num_layers, {std::istreambuf_iterator<char>(file), {}}};
}

// All tokens of a layer as one batch, on a placement planned from the first half of them.
void expect_layer_equal_to_cpu(const Trace& trace, int layer, int num_ranks) {
  GpuCase c;
  c.k = kTraceTopK;
  c.num_tokens = trace.num_tokens() / num_ranks;
  ASSERT_GT(c.num_tokens, 0);
  LoadHistory load{1, 1, kTraceExperts, std::vector<int64_t>(kTraceExperts, 0)};
  for (int t = 0; t < c.num_tokens * num_ranks; ++t) {
    for (int j = 0; j < kTraceTopK; ++j) {
      const int id =
          trace.ids[(static_cast<size_t>(t) * trace.num_layers + layer) * kTraceTopK + j];
      c.topk_ids.push_back(id);
      if (t < trace.num_tokens() / 2) ++load.counts[id];
    }
  }
  PlanOptions options;
  options.algorithm = "deepseek";
  options.num_ranks = num_ranks;
  options.num_redundant_experts = 32;
  c.placement = make_plan(load, options)->placement;
  for (const bool waterfill : {true, false}) {
    SCOPED_TRACE("layer " + std::to_string(layer) + ", " + std::to_string(num_ranks) +
                 " ranks, waterfill " + std::to_string(waterfill));
    c.options.waterfill = waterfill;
    expect_equal_to_cpu<int32_t>(c, num_ranks / 2);
  }
}

TEST(GpuRoute, EqualsTheCpuOnRecordedTraffic) {
  SKIP_WITHOUT_GPU();
  for (const std::string name : {"dictionary", "pgdoc", "pydoc", "scripture", "speech"}) {
    SCOPED_TRACE(name);
    const Trace trace = read_trace(PLIMSOLL_SOURCE_DIR "/testdata/traces/demo_" + name + ".u8", 6);
    for (const int num_ranks : {8, 16, 32}) {
      expect_layer_equal_to_cpu(trace, num_ranks / 8 % trace.num_layers, num_ranks);
    }
  }
}

// PLIMSOLL_TRACES: the folder of traces that are not part of the project.
TEST(GpuRoute, EqualsTheCpuOnDeepSeekV2LiteTraffic) {
  SKIP_WITHOUT_GPU();
  const char* wanted = std::getenv("PLIMSOLL_TRACES");
  const std::string folder = wanted == nullptr ? PLIMSOLL_SOURCE_DIR "/../shared/traces" : wanted;
  for (const std::string task : {"intent", "summary"}) {
    const std::string path = folder + "/dsv2lite_" + task + ".u8";
    if (!std::filesystem::exists(path)) {
      GTEST_SKIP() << path
                   << " is not here: the DeepSeek-V2-Lite traces are not part of the project";
    }
    SCOPED_TRACE(task);
    const Trace trace = read_trace(path, 26);
    for (int layer = 0; layer < trace.num_layers; ++layer) {
      expect_layer_equal_to_cpu(trace, layer, 8 << layer % 3);
    }
  }
}

// Live rebalancing: the graph is captured once, the placement changes beneath it.
TEST(GpuRoute, FollowsAPlacementChangedBetweenReplays) {
  SKIP_WITHOUT_GPU();
  SplitMix64 random{23};
  GpuCase c;
  c.placement = random_placement(random, 64, 32, 8);
  c.options.waterfill = true;
  c.num_tokens = 500, c.k = 6;
  draw_tokens(random, c);
  const auto placement = DevicePlacement::create(*make_route_tables(c.placement, 0, c.options));
  ASSERT_TRUE(placement.ok()) << placement.error().message;
  OnDevice<int32_t> device(c);
  cudaStream_t stream = nullptr;
  cudaStream_t side = nullptr;
  ASSERT_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
  ASSERT_EQ(cudaStreamCreateWithFlags(&side, cudaStreamNonBlocking), cudaSuccess);
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t replay = nullptr;
  ASSERT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
  ASSERT_TRUE(count(**placement, device.batch, device.counts.data(), stream).ok());
  ASSERT_TRUE(route(**placement, device.batch, device.counts.data(), device.decision, stream).ok());
  ASSERT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess);
  ASSERT_EQ(cudaGraphInstantiate(&replay, graph, 0), cudaSuccess);
  for (int round = 0; round < 6; ++round) {
    if (round > 0) {
      c.placement = random_placement(random, 64, 32, 8);
      ASSERT_TRUE((*placement)->stage(*make_route_tables(c.placement, 0, c.options), side).ok());
      ASSERT_EQ(cudaGraphLaunch(replay, stream), cudaSuccess);  // still the old placement
      ASSERT_TRUE((*placement)->publish(stream).ok());
      // Right behind: a kernel may begin before the kernel before it has ended, but not before
      // this.
      ASSERT_TRUE(
          route(**placement, device.batch, device.counts.data(), device.decision, stream).ok());
      ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
      ASSERT_EQ(device.routed.read(), on_cpu(c).routed) << "round " << round;
      device.routed.poison();
    }
    ASSERT_EQ(cudaGraphLaunch(replay, stream), cudaSuccess);
    ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
    const Expected expected = on_cpu(c);
    ASSERT_EQ(device.routed.read(), expected.routed) << "round " << round;
    expect_ids(c, expected, device, 0, c.num_ranks());
  }
  cudaGraphExecDestroy(replay);
  cudaGraphDestroy(graph);
  cudaStreamDestroy(side);
  cudaStreamDestroy(stream);
}

TEST(GpuRoute, RefusesWhatItCannotDo) {
  SplitMix64 random{1};
  const Placement p = random_placement(random, 8, 0, 2);
  RouteOptions options;
  options.algorithm = DispatchAlgorithm::kStatic;
  auto made = DevicePlacement::create(*make_route_tables(p, 0, options));
  ASSERT_FALSE(made.ok());
  EXPECT_EQ(made.error().code, ErrorCode::kUnsupported);
  const Placement large = *trivial_placement(1, 256, 0, 256);
  made = DevicePlacement::create(*make_route_tables(large, 0, {}));
  ASSERT_FALSE(made.ok());
  EXPECT_EQ(made.error().code, ErrorCode::kUnsupported);
}

#ifdef PLIMSOLL_NCCL
// A rank a GPU, as many as there are: every one puts its row in, all see all rows.
TEST(GpuRoute, GathersOverNccl) {
  SKIP_WITHOUT_GPU();
  constexpr int kRowSize = 257;
  int num_ranks = 0;
  ASSERT_EQ(cudaGetDeviceCount(&num_ranks), cudaSuccess);
  std::vector<ncclComm_t> communicators(num_ranks);
  ASSERT_EQ(ncclCommInitAll(communicators.data(), num_ranks, nullptr), ncclSuccess);
  std::vector<int32_t> all(static_cast<size_t>(num_ranks) * kRowSize);
  for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<int32_t>(i * i % 9973);
  std::vector<DeviceArray<int32_t>> counts;
  for (int r = 0; r < num_ranks; ++r) {
    std::vector<int32_t> own(all.size(), -1);
    std::copy_n(all.begin() + r * kRowSize, kRowSize, own.begin() + r * kRowSize);
    ASSERT_EQ(cudaSetDevice(r), cudaSuccess);
    counts.emplace_back(own);
  }
  ASSERT_EQ(ncclGroupStart(), ncclSuccess);
  for (int r = 0; r < num_ranks; ++r) {
    ASSERT_EQ(cudaSetDevice(r), cudaSuccess);
    const auto exchange = over_nccl(communicators[r]);
    ASSERT_TRUE(exchange.ok());
    EXPECT_TRUE((*exchange)->all_gather(counts[r].data(), kRowSize, nullptr).ok());
  }
  ASSERT_EQ(ncclGroupEnd(), ncclSuccess);
  for (int r = 0; r < num_ranks; ++r) {
    ASSERT_EQ(cudaSetDevice(r), cudaSuccess);
    ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    EXPECT_EQ(counts[r].read(), all) << "rank " << r;
    ncclCommDestroy(communicators[r]);
  }
  ASSERT_EQ(cudaSetDevice(0), cudaSuccess);
}
#endif

}  // namespace
}  // namespace plimsoll::gpu
