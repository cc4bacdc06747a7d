// One MoE layer's routing in a CUDA graph: gate -> count -> solve -> assign, captured once and
// replayed for new logits, then for a new placement.
//
//   graph_routing
//
// Eight EP ranks share this GPU, so their counts are gathered as they are made. With a GPU a rank,
// give the capture exchange over_nccl(communicator) and one source per process.
#include <cfloat>
#include <cstdio>
#include <cstdlib>

#include "cuda/balance/route/device_case.h"
#include "cuda/balance/route/exchange.h"
#include "cuda/balance/route/gpu_route.h"

namespace {

using plimsoll::SplitMix64;
using plimsoll::Status;
using plimsoll::gpu::DeviceArray;

constexpr int kRanks = 8;
constexpr int kExperts = 64;
constexpr int kTokens = 512;  // a rank
constexpr int kTopK = 6;

void must(const Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "graph_routing: %s\n", status.error().message.c_str());
  std::exit(1);
}
void must(cudaError_t error) {
  must(plimsoll::gpu::to_status(error, "a CUDA call"));
}

// The gate: a token's kTopK largest logits, by one thread; equal ones by the lower expert.
__global__ void gate(const float* logits, int32_t* ids, float* weights, int num_tokens) {
  const int token = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (token >= num_tokens) return;
  const float* of_token = logits + static_cast<size_t>(token) * kExperts;
  uint64_t chosen = 0;
  static_assert(kExperts <= 64);
  for (int j = 0; j < kTopK; ++j) {
    int best = 0;
    float largest = -FLT_MAX;
    for (int e = 0; e < kExperts; ++e) {
      if ((chosen >> e & 1) == 0 && of_token[e] > largest) largest = of_token[e], best = e;
    }
    chosen |= uint64_t{1} << best;
    ids[token * kTopK + j] = best;
    weights[token * kTopK + j] = 1.0f / (1.0f + expf(-largest));
  }
}

// Logits under which some experts are much liked.
std::vector<float> draw_logits(SplitMix64& random) {
  std::vector<float> logits;
  for (int i = 0; i < kRanks * kTokens * kExperts; ++i) {
    const float liking = 1.5f / static_cast<float>(1 + i % kExperts);
    logits.push_back(liking + static_cast<float>(random.below(1000)) / 1000.0f);
  }
  return logits;
}

struct Layer {
  DeviceArray<float> logits{size_t{kRanks} * kTokens * kExperts};
  DeviceArray<int32_t> ids{size_t{kRanks} * kTokens * kTopK};
  DeviceArray<float> weights{size_t{kRanks} * kTokens * kTopK};
  DeviceArray<int32_t> counts{size_t{kRanks} * (kExperts + 1)};
  DeviceArray<int32_t> physical_ids{size_t{kRanks} * kTokens * (kTopK + 1)};
  DeviceArray<float> out_weights{size_t{kRanks} * kTokens * (kTopK + 1)};
  DeviceArray<int32_t> bound{kRanks};
};

cudaGraphExec_t capture(const Layer& layer,
                        const plimsoll::gpu::DevicePlacement& placement,
                        plimsoll::gpu::CountExchange& exchange,
                        cudaStream_t stream) {
  const plimsoll::gpu::Batch<int32_t> batch{0,
                                            kRanks,
                                            kTokens,
                                            kTopK,
                                            layer.ids.data(),
                                            layer.weights.data(),
                                            layer.physical_ids.data(),
                                            layer.out_weights.data()};
  cudaGraph_t graph;
  cudaGraphExec_t replay;
  must(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  gate<<<kRanks * kTokens / 128, 128, 0, stream>>>(layer.logits.data(), layer.ids.data(),
                                                   layer.weights.data(), kRanks * kTokens);
  must(count(placement, batch, layer.counts.data(), stream));
  must(exchange.all_gather(layer.counts.data(), placement.shape().row_size(), stream));
  must(
      route(placement, batch, layer.counts.data(), {nullptr, nullptr, layer.bound.data()}, stream));
  must(cudaStreamEndCapture(stream, &graph));
  must(cudaGraphInstantiate(&replay, graph, 0));
  must(cudaGraphDestroy(graph));
  return replay;
}

void print_loads(const Layer& layer, const plimsoll::gpu::Shape& shape) {
  std::vector<int> load(kRanks, 0);
  for (const int32_t id : layer.physical_ids.read()) {
    if (id < 0) continue;
    ++load[id < shape.num_slots ? id / shape.slots_per_rank() : id - shape.num_slots];
  }
  std::printf("bound %d, loads", layer.bound.read().at(0));
  for (const int n : load) std::printf(" %d", n);
  std::printf("\n");
}

}  // namespace

int main() {
  int num_gpus = 0;
  if (cudaGetDeviceCount(&num_gpus) != cudaSuccess || num_gpus == 0) {
    std::printf("graph_routing: no CUDA GPU on this machine\n");
    return 0;
  }
  SplitMix64 random{1};
  plimsoll::RouteOptions options;
  options.waterfill = true;
  const auto tables_of = [&](const plimsoll::Placement& placement) {
    return *make_route_tables(placement, 0, options);
  };
  const auto placement = plimsoll::gpu::DevicePlacement::create(
      tables_of(plimsoll::gpu::random_placement(random, kExperts, 16, kRanks)));
  if (!placement.ok()) must(placement.error());
  const Layer layer;
  cudaStream_t stream;
  must(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  const auto exchange = plimsoll::gpu::already_gathered();
  const cudaGraphExec_t replay = capture(layer, **placement, *exchange, stream);

  for (int batch = 0; batch < 4; ++batch) {
    const std::vector<float> logits = draw_logits(random);
    must(cudaMemcpyAsync(layer.logits.data(), logits.data(), logits.size() * sizeof(float),
                         cudaMemcpyHostToDevice, stream));
    if (batch == 2) {  // live rebalancing: the graph stays
      must((*placement)
               ->stage(tables_of(plimsoll::gpu::random_placement(random, kExperts, 16, kRanks)),
                       stream));
      must((*placement)->publish(stream));
    }
    must(cudaGraphLaunch(replay, stream));
    must(cudaStreamSynchronize(stream));
    print_loads(layer, (*placement)->shape());
  }
  must(cudaGraphExecDestroy(replay));
  must(cudaStreamDestroy(stream));
  return 0;
}
