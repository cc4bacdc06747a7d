// Times routing on the GPU: one source's part of a batch in which every source has as many tokens.
// A graph holds 16 launches, each with its own tokens, count matrix and source rank; a replay's
// time over 16 is one launch's, and the table gives the median over replays. The floor beside it is
// an empty kernel launched the same way plus the bytes over the bandwidth a large copy reaches
// here.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <numeric>

#include "cuda/balance/route/device_case.h"
#include "cuda/balance/route/gpu_route.h"
#include "plimsoll/plan.h"

namespace plimsoll::gpu {
namespace {

constexpr int kInputs = 16;
constexpr int kReplays = 200;
constexpr int kTopK = 6;

void must(const Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "gpu_route_bench: %s\n", status.error().message.c_str());
  std::exit(1);
}
void must(cudaError_t error) {
  must(to_status(error, "a CUDA call"));
}

// Median time in µs of one of the `kInputs` launches that `enqueue` puts on a stream.
template <typename Enqueue>
double time_us(Enqueue enqueue) {
  cudaStream_t stream;
  cudaGraph_t graph;
  cudaGraphExec_t replay;
  cudaEvent_t begin, end;
  must(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  must(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  for (int i = 0; i < kInputs; ++i) enqueue(i, stream);
  must(cudaStreamEndCapture(stream, &graph));
  must(cudaGraphInstantiate(&replay, graph, 0));
  must(cudaEventCreate(&begin));
  must(cudaEventCreate(&end));
  std::vector<float> times;
  for (int i = 0; i < kReplays + 10; ++i) {
    float ms = 0;
    must(cudaEventRecord(begin, stream));
    must(cudaGraphLaunch(replay, stream));
    must(cudaEventRecord(end, stream));
    must(cudaEventSynchronize(end));
    must(cudaEventElapsedTime(&ms, begin, end));
    if (i >= 10) times.push_back(ms);
  }
  cudaEventDestroy(end);
  cudaEventDestroy(begin);
  cudaGraphExecDestroy(replay);
  cudaGraphDestroy(graph);
  cudaStreamDestroy(stream);
  std::nth_element(times.begin(), times.begin() + kReplays / 2, times.end());
  return times[kReplays / 2] * 1e3 / kInputs;
}

__global__ void empty_kernel() {}

void launch_empty(cudaStream_t stream) {
  cudaLaunchAttribute cluster{};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {8, 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = 8;
  config.blockDim = 512;
  config.stream = stream;
  config.attrs = &cluster;
  config.numAttrs = 1;
  must(cudaLaunchKernelEx(&config, empty_kernel));
}

double empty_launch_us() {
  return time_us([](int, cudaStream_t stream) { launch_empty(stream); });
}

// Bytes read and written per second by a large copy, in bytes per µs.
double copy_bandwidth() {
  const size_t size = size_t{2} << 30;
  const DeviceArray<uint8_t> from(size);
  const DeviceArray<uint8_t> to(size);
  const double us = time_us([&](int, cudaStream_t stream) {
    must(cudaMemcpyAsync(to.data(), from.data(), size, cudaMemcpyDeviceToDevice, stream));
  });
  return 2.0 * static_cast<double>(size) / us;
}

std::vector<double> popularity(SplitMix64& random, int num_experts) {
  std::vector<double> share(num_experts);
  for (int e = 0; e < num_experts; ++e) share[e] = std::pow(e + 1, -1.01);
  for (int e = num_experts - 1; e > 0; --e) std::swap(share[e], share[random.below(e + 1)]);
  const double sum = std::accumulate(share.begin(), share.end(), 0.0);
  for (double& s : share) s /= sum;
  return share;
}

std::vector<int32_t> draw_ids(SplitMix64& random, const std::vector<double>& share, int tokens) {
  std::vector<double> end(share.size());
  std::partial_sum(share.begin(), share.end(), end.begin());
  std::vector<int32_t> ids;
  for (int t = 0; t < tokens; ++t) {
    const auto token = static_cast<ptrdiff_t>(ids.size());
    while (static_cast<ptrdiff_t>(ids.size()) < token + kTopK) {
      const double at = static_cast<double>(random.next() >> 11) * 0x1p-53;
      const auto e = std::min<ptrdiff_t>(std::upper_bound(end.begin(), end.end(), at) - end.begin(),
                                         static_cast<ptrdiff_t>(share.size()) - 1);
      if (std::find(ids.begin() + token, ids.end(), e) == ids.end()) {
        ids.push_back(static_cast<int32_t>(e));
      }
    }
  }
  return ids;
}

// One of the rotating inputs. The rows of the other sources are drawn from fewer tokens and scaled.
struct Input {
  Input(SplitMix64& random, const std::vector<double>& share, int num_ranks, int tokens)
      : ids(draw_ids(random, share, tokens)),
        weights(static_cast<size_t>(tokens) * kTopK),
        out(static_cast<size_t>(tokens) * (kTopK + 1)),
        out_weights(static_cast<size_t>(tokens) * (kTopK + 1)),
        counts(draw_counts(random, share, num_ranks, tokens)) {}

  static std::vector<int32_t> draw_counts(SplitMix64& random,
                                          const std::vector<double>& share,
                                          int num_ranks,
                                          int tokens) {
    const int sampled = std::min(tokens, 512);
    std::vector<int32_t> counts;
    for (int r = 0; r < num_ranks; ++r) {
      std::vector<int32_t> row(share.size() + 1, 0);
      for (const int32_t id : draw_ids(random, share, sampled)) row[id] += tokens / sampled;
      row.back() = tokens;
      counts.insert(counts.end(), row.begin(), row.end());
    }
    return counts;
  }

  DeviceArray<int32_t> ids;
  DeviceArray<float> weights;
  DeviceArray<int32_t> out;
  DeviceArray<float> out_weights;
  DeviceArray<int32_t> counts;
};

struct Setting {
  int tokens, num_ranks, num_experts, num_redundant;
};

void time_setting(const Setting& at, double empty_us, double bytes_per_us) {
  SplitMix64 random{11};
  const std::vector<double> share = popularity(random, at.num_experts);
  LoadHistory load{1, 1, at.num_experts, {}};
  for (const double s : share) load.counts.push_back(static_cast<int64_t>(s * 1e6));
  PlanOptions plan;
  plan.algorithm = "deepseek";
  plan.num_ranks = at.num_ranks;
  plan.num_redundant_experts = at.num_redundant;
  RouteOptions options;
  options.waterfill = true;
  const auto planned = make_plan(load, plan);
  if (!planned.ok()) must(planned.error());
  const auto made = DevicePlacement::create(*make_route_tables(planned->placement, 0, options));
  if (!made.ok()) must(made.error());
  const DevicePlacement& placement = **made;
  std::vector<std::unique_ptr<Input>> inputs;
  std::vector<Batch<int32_t>> batches;
  for (int i = 0; i < kInputs; ++i) {
    inputs.push_back(std::make_unique<Input>(random, share, at.num_ranks, at.tokens));
    const Input& in = *inputs.back();
    batches.push_back({i * at.num_ranks / kInputs, 1, at.tokens, kTopK, in.ids.data(),
                       in.weights.data(), in.out.data(), in.out_weights.data()});
  }
  const double fused = time_us([&](int i, cudaStream_t stream) {
    must(count_and_route(placement, batches[i], inputs[i]->counts.data(), {}, stream));
  });
  // After a kernel of another kind, which does not let this one begin before its own end.
  const double apart =
      time_us([&](int i, cudaStream_t stream) {
        launch_empty(stream);
        must(count_and_route(placement, batches[i], inputs[i]->counts.data(), {}, stream));
      }) -
      empty_us;
  const double counted = time_us([&](int i, cudaStream_t stream) {
    must(count(placement, batches[i], inputs[i]->counts.data(), stream));
  });
  const double routed = time_us([&](int i, cudaStream_t stream) {
    must(route(placement, batches[i], inputs[i]->counts.data(), {}, stream));
  });
  const double solved = time_us([&](int i, cudaStream_t stream) {
    Batch<int32_t> none = batches[i];
    none.num_tokens = 0;
    must(route(placement, none, inputs[i]->counts.data(), {}, stream));
  });
  const double bytes = 8.0 * at.tokens * (2 * kTopK + 1) +
                       4.0 * at.num_ranks * placement.shape().row_size() +
                       2.0 * TableLayout(placement.shape()).size;
  std::printf("| %d | %d | %d | %d | %.1f | %.1f | %.1f | %.1f | %.1f | %.1f |\n", at.tokens,
              at.num_ranks, at.num_experts, at.num_redundant, fused, apart,
              empty_us + bytes / bytes_per_us, counted, routed, solved);
}

}  // namespace
}  // namespace plimsoll::gpu

int main(int argc, char**) {
  using namespace plimsoll::gpu;
  cudaDeviceProp device{};
  if (cudaGetDeviceProperties(&device, 0) != cudaSuccess) {
    std::printf("gpu_route_bench: no CUDA GPU on this machine\n");
    return 0;
  }
  const double empty_us = empty_launch_us();
  const double bandwidth = copy_bandwidth();
  std::printf("%s; an empty launch %.2f µs (again %.2f), copy %.0f GB/s\n\n", device.name, empty_us,
              empty_launch_us(), bandwidth / 1e3);
  std::printf(
      "| tokens | EP | experts | redundant | one launch, µs | after another kernel | floor | count "
      "| "
      "solve and assign | solve |\n"
      "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n");
  const bool is_short = argc > 1;
  for (const int tokens : {64, 512, 4096, 16384}) {
    for (const int num_ranks : {8, 16, 32, 64}) {
      for (const int num_experts : {64, 256, 384}) {
        if (is_short && (num_experts != 256 || tokens < 4096)) continue;
        for (const int more : {0, 32}) {  // as many redundant experts as divide over the ranks
          const int each = (num_experts + more + num_ranks - 1) / num_ranks;
          time_setting({tokens, num_ranks, num_experts, each * num_ranks - num_experts}, empty_us,
                       bandwidth);
        }
      }
    }
  }
  return 0;
}
