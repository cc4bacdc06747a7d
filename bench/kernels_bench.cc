// Speed of the forward pass's kernels at the demo model's sizes, in GFLOP/s where they multiply,
// and of the processor's multipliers themselves to hold them against.
#include <benchmark/benchmark.h>

#include <cstdio>
#include <string>
#include <vector>

#include "model/forward/experts.h"
#include "model/kernels/kernels.h"
#include "model/kernels/packed_matrix.h"

namespace plimsoll {
namespace {

std::vector<float> pattern(int count, bool bf16_exact) {
  std::vector<float> values(static_cast<size_t>(count));
  uint32_t state = 1;
  for (float& v : values) {
    state = state * 1664525u + 1013904223u;
    const int step = static_cast<int>(state >> 25) - 64;
    v = static_cast<float>(step) * (bf16_exact ? 0x1p-7f : 0.0101f);
  }
  return values;
}

void count_flops(benchmark::State& state, double flops_per_iteration) {
  state.counters["FLOP/s"] =
      benchmark::Counter(flops_per_iteration, benchmark::Counter::kIsIterationInvariantRate);
}

// rows x outputs x inputs, as the projections, experts and the head are.
void BM_Gemm(benchmark::State& state) {
  const int rows = static_cast<int>(state.range(0));
  const int outputs = static_cast<int>(state.range(1));
  const int inputs = static_cast<int>(state.range(2));
  const PackedMatrix w =
      pack_matrix(pattern(outputs * inputs, state.range(3) != 0), outputs, inputs);
  const std::vector<float> x = pattern(rows * inputs, false);
  std::vector<float> y(static_cast<size_t>(rows * outputs));
  GemmArgs args;
  args.x = x.data();
  args.x_row_stride = inputs;
  args.num_rows = rows;
  args.w = panels(w);
  args.y = y.data();
  args.y_row_stride = outputs;
  for (auto _ : state) {
    kernels().gemm(args);
    benchmark::ClobberMemory();
  }
  count_flops(state, 2.0 * rows * outputs * inputs);
}
BENCHMARK(BM_Gemm)
    ->ArgNames({"rows", "outputs", "inputs", "bf16"})
    ->Args({256, 256, 256, 1})
    ->Args({256, 512, 128, 1})
    ->Args({256, 24, 1024, 0})
    ->Args({48, 128, 256, 1})
    ->Args({48, 256, 64, 1})
    ->Args({6, 128, 256, 1})
    ->Args({6, 256, 64, 1})
    ->Args({32, 4096, 256, 1});

// One expert over the rows that came to it.
void BM_ExpertRows(benchmark::State& state) {
  const int n = static_cast<int>(state.range(0));
  const int dim = 256, hidden = 64;
  ExpertWeights expert;
  expert.gate_up =
      pack_interleaved(pattern(hidden * dim, true), pattern(hidden * dim, true), hidden, dim);
  expert.down = pack_matrix(pattern(dim * hidden, true), dim, hidden);
  const std::vector<float> x = pattern(n * dim, false);
  std::vector<float> out(x.size());
  std::vector<ExpertRow> rows;
  for (int i = 0; i < n; ++i) rows.push_back({x.data() + i * dim, 0.25f, out.data() + i * dim});
  ExpertScratch scratch;
  for (auto _ : state) {
    expert_rows(expert, 10.0f, rows, scratch);
    benchmark::ClobberMemory();
  }
  count_flops(state, 2.0 * n * dim * hidden * 3);
}
BENCHMARK(BM_ExpertRows)->ArgName("rows")->Arg(1)->Arg(6)->Arg(12)->Arg(48)->Arg(256);

// Attention of 4 queries of 8 heads over `keys` keys of 64 dimensions: logits, softmax, values.
void BM_Attention(benchmark::State& state) {
  const int keys = static_cast<int>(state.range(0));
  const int lanes = static_cast<int>(state.range(1));
  const int dim = 64;
  const std::vector<float> key_rows = pattern(keys * dim, false);
  const std::vector<float> query = pattern(dim * kPanelLanes, false);
  std::vector<float> logits(static_cast<size_t>(keys * kPanelLanes));
  std::vector<float> out(static_cast<size_t>(lanes * dim));
  const std::vector<float> first(kPanelLanes, 0.0f), last(kPanelLanes, static_cast<float>(keys)),
      sink(kPanelLanes, 0.0f);
  std::vector<float> scale(kPanelLanes);
  GemmArgs dot;
  dot.x = key_rows.data();
  dot.x_row_stride = dim;
  dot.num_rows = keys;
  dot.w = {.f32 = query.data(), .num_outputs = round_up(lanes, kRowAlignment), .num_inputs = dim};
  dot.y = logits.data();
  dot.y_row_stride = kPanelLanes;
  GemmArgs sum;
  sum.x = logits.data();
  sum.x_row_stride = 1;
  sum.x_k_stride = kPanelLanes;
  sum.num_rows = lanes;
  sum.w = {.f32 = key_rows.data(),
           .panel_stride = kPanelLanes,
           .k_stride = dim,
           .num_outputs = dim,
           .num_inputs = keys};
  sum.y = out.data();
  sum.y_row_stride = dim;
  const SoftmaxArgs::Run run{keys, 0, first.data(), last.data()};
  for (auto _ : state) {
    kernels().gemm(dot);
    kernels().softmax({logits.data(), std::span(&run, 1), lanes, sink.data(), scale.data()});
    kernels().gemm(sum);
    benchmark::ClobberMemory();
  }
  count_flops(state, 4.0 * keys * lanes * dim);
}
BENCHMARK(BM_Attention)
    ->ArgNames({"keys", "lanes"})
    ->Args({131, 32})
    ->Args({256, 32})
    ->Args({256, 8});

// Hyper-connections of 64 tokens: coefficients from their 24 sums, collapse, expand.
void BM_HyperConnection(benchmark::State& state) {
  const int tokens = static_cast<int>(state.range(0));
  const int n = 4, dim = 256, rows = (2 + n) * n;
  const std::vector<float> mix = pattern(tokens * rows, false), base = pattern(rows, false);
  const std::vector<float> scale(3, 0.5f), inverse_rms(static_cast<size_t>(tokens), 1.0f);
  std::vector<float> streams = pattern(tokens * n * dim, false),
                     u(static_cast<size_t>(tokens * dim));
  std::vector<float> pre(static_cast<size_t>(tokens * n)), post(pre),
      comb(static_cast<size_t>(tokens * n * n));
  for (auto _ : state) {
    kernels().hyper_mix({.mix = mix.data(),
                         .mix_stride = rows,
                         .inverse_rms = inverse_rms.data(),
                         .scale = scale.data(),
                         .base = base.data(),
                         .eps = 1e-6f,
                         .num_streams = n,
                         .sinkhorn_iterations = 20,
                         .num_tokens = tokens,
                         .pre = pre.data(),
                         .post = post.data(),
                         .comb = comb.data()});
    kernels().hyper_collapse(streams.data(), pre.data(), tokens, n, dim, u.data());
    kernels().hyper_expand(u.data(), post.data(), comb.data(), tokens, n, dim, streams.data());
    benchmark::ClobberMemory();
  }
  state.SetItemsProcessed(state.iterations() * tokens);
}
BENCHMARK(BM_HyperConnection)->ArgName("tokens")->Arg(1)->Arg(64)->Arg(512);

}  // namespace
}  // namespace plimsoll

BENCHMARK_MAIN();
