// Offline throughput of the whole engine on the demo model: prompt tokens and decoded tokens per
// second.
#include <benchmark/benchmark.h>

#include <cstdio>

#include "engine/engine.h"
#include "model/checkpoint/golden.h"

namespace plimsoll {
namespace {

const std::string kSource = PLIMSOLL_SOURCE_DIR;

std::unique_ptr<Engine> make_engine(int ep_size, bool waterfill) {
  EngineOptions options;
  options.model_dir = kSource + "/demo/model";
  options.ep_size = ep_size;
  options.enable_waterfill = waterfill;
  Result<std::unique_ptr<Engine>> engine = Engine::create(options);
  if (engine.ok()) return std::move(*engine);
  std::fprintf(stderr, "%s\n", engine.error().message.c_str());
  return nullptr;
}

// Real text: the longest golden prompt, cut as asked.
std::vector<int32_t> text_tokens(const ModelConfig& config, size_t offset, size_t num_tokens) {
  static const auto prompts = load_golden(kSource + "/demo/golden.safetensors", config);
  const std::vector<int32_t>& text = prompts->back().input_ids;
  std::vector<int32_t> tokens;
  for (size_t i = 0; i < num_tokens; ++i) tokens.push_back(text[(offset + i) % text.size()]);
  return tokens;
}

void run(Engine& engine, std::vector<RequestUpdate>& updates) {
  while (!engine.idle()) {
    updates.clear();
    if (!engine.step(updates).ok()) return;
  }
}

// 16 prompts of 512 tokens.
void prefill(benchmark::State& state) {
  const auto engine = make_engine(static_cast<int>(state.range(0)), state.range(1) != 0);
  if (!engine) return state.SkipWithError("no engine");
  std::vector<RequestUpdate> updates;
  int64_t num_tokens = 0;
  for (auto _ : state) {
    for (int i = 0; i < 16; ++i) {
      Request request{
          .id = i, .prompt = text_tokens(engine->config(), i * 61, 512), .max_tokens = 1};
      num_tokens += static_cast<int64_t>(request.prompt.size());
      if (!engine->submit(std::move(request)).ok()) return state.SkipWithError("refused");
    }
    run(*engine, updates);
  }
  state.SetItemsProcessed(num_tokens);
}

// 64 sequences that decode together; the prompts are short and not counted.
void decode(benchmark::State& state) {
  const auto engine = make_engine(static_cast<int>(state.range(0)), state.range(1) != 0);
  if (!engine) return state.SkipWithError("no engine");
  constexpr int kSequences = 64;
  constexpr int kTokens = 32;
  std::vector<RequestUpdate> updates;
  PhaseSeconds seconds;
  for (auto _ : state) {
    state.PauseTiming();
    for (int i = 0; i < kSequences; ++i) {
      const Status status = engine->submit({.id = i,
                                            .prompt = text_tokens(engine->config(), i * 23, 64),
                                            .max_tokens = kTokens + 1,
                                            .ignore_eos = true});
      if (!status.ok()) return state.SkipWithError("refused");
    }
    bool any_prompt = true;
    while (any_prompt) {  // until every sequence has its first token
      updates.clear();
      if (!engine->step(updates).ok()) return state.SkipWithError("step failed");
      any_prompt = engine->last_plan().mode == StepMode::kNormal;
    }
    state.ResumeTiming();
    run(*engine, updates);
    for (const RankResult& rank : engine->last_result().ranks) seconds += rank.seconds;
  }
  state.SetItemsProcessed(state.iterations() * kSequences * (kTokens - 1));
  for (const auto& [name, part] : {std::pair{"attention", seconds.attention},
                                   {"routing", seconds.routing},
                                   {"dispatch", seconds.dispatch},
                                   {"experts", seconds.experts},
                                   {"combine", seconds.combine},
                                   {"other", seconds.other}}) {
    state.counters[name] = part / seconds.total();
  }
}

BENCHMARK(prefill)
    ->ArgNames({"ep", "waterfill"})
    ->Args({1, 0})
    ->Args({2, 0})
    ->Args({2, 1})
    ->MeasureProcessCPUTime()
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);
BENCHMARK(decode)
    ->ArgNames({"ep", "waterfill"})
    ->Args({1, 0})
    ->Args({2, 0})
    ->Args({2, 1})
    ->MeasureProcessCPUTime()
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace plimsoll

BENCHMARK_MAIN();
