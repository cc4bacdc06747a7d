#include "requests/run_requests.h"

#include <fmt/format.h>

#include <chrono>

#include "shared/terminal.h"

namespace plimsoll {
namespace {

using Clock = std::chrono::steady_clock;

void add_step(const Engine& engine, double seconds, RunStats& stats) {
  int64_t num_prompt_tokens = 0;
  int64_t num_sampled = 0;
  for (const RankPlan& rank : engine.last_plan().ranks) {
    for (const SegmentPlan& segment : rank.segments) {
      if (segment.is_prompt) num_prompt_tokens += static_cast<int64_t>(segment.tokens.size());
      num_sampled += segment.sample;
    }
  }
  ++stats.num_steps;
  stats.num_prefill_tokens += num_prompt_tokens;
  stats.num_sampled_tokens += num_sampled;
  if (num_prompt_tokens > 0) {
    stats.prefill_seconds += seconds;
  } else {
    stats.decode_seconds += seconds;
    stats.num_decode_tokens += num_sampled;
  }
  for (const RankResult& rank : engine.last_result().ranks) {
    stats.phases += rank.seconds;
    stats.expert_times += rank.expert_times;
    stats.traffic.num_messages += rank.traffic.num_messages;
    stats.traffic.num_bytes += rank.traffic.num_bytes;
  }
  stats.balance.add(engine.last_result().balance);
}

}  // namespace

Result<std::unique_ptr<Engine>> create_engine(const EngineOptions& options) {
  auto engine = Engine::create(options);
  if (!engine) return engine.error();
  for (const std::string& note : (*engine)->setup().notes) talk("note: " + note);
  return engine;
}

Result<std::unique_ptr<Engine>> start_engine(const EngineOptions& options) {
  auto engine = create_engine(options);
  if (!engine) return engine.error();
  if ((*engine)->recorder()) {
    if (Status started = (*engine)->start_recording(); !started) return started.error();
  }
  return engine;
}

Result<RunStats> run_requests(Engine& engine,
                              std::vector<Request> requests,
                              int concurrency,
                              const std::string& label,
                              const std::function<void(RequestUpdate&)>& on_update) {
  RunStats stats;
  int64_t num_tokens = 0;
  for (const Request& request : requests) {
    num_tokens += static_cast<int64_t>(request.prompt.size()) + request.max_tokens;
  }
  Progress progress(label);
  std::vector<RequestUpdate> updates;
  size_t next = 0;
  int num_live = 0;
  while (next < requests.size() || !engine.idle()) {
    for (; next < requests.size() && num_live < concurrency; ++next, ++num_live) {
      if (Status taken = engine.submit(std::move(requests[next])); !taken) return taken.error();
    }
    updates.clear();
    const Clock::time_point start = Clock::now();
    if (Status stepped = engine.step(updates); !stepped) return stepped.error();
    const std::chrono::duration<double> elapsed = Clock::now() - start;
    add_step(engine, elapsed.count(), stats);
    for (const std::string& line : engine.take_news()) talk(line);
    progress.show(stats.num_prefill_tokens + stats.num_sampled_tokens, num_tokens);
    for (RequestUpdate& update : updates) {
      num_live -= update.finish != FinishReason::kNone;
      on_update(update);
    }
  }
  return stats;
}

Result<std::vector<std::string>> finish_recording(Engine& engine, const std::string& folder) {
  if (!engine.recorder()) return std::vector<std::string>{};
  auto paths = engine.dump_recording(folder);
  if (!paths) return paths.error();
  for (const std::string& path : *paths) talk("recorded expert selection in " + path);
  return paths;
}

}  // namespace plimsoll
