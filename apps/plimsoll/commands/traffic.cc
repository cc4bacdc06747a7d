#include "commands/traffic.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <thread>

#include "engine/placement_source.h"
#include "plimsoll/expert_location.h"
#include "shared/terminal.h"

namespace plimsoll {
namespace {

Result<Traffic> load_counts(const Settings& settings) {
  auto recorded = load_recorded(settings.plan.load, settings);
  if (!recorded) return recorded.error();
  const int recorded_top_k = recorded->info ? recorded->info->top_k : 0;
  const int top_k = settings.replay.top_k > 0 ? settings.replay.top_k : recorded_top_k;
  if (top_k == 0) {
    return invalid_argument(
        "the recording does not say how many experts a token chooses; give --top-k");
  }
  talk(
      "note: counts do not say where tokens came from; they are spread evenly over the ranks, and "
      "messages per token are not known");
  return Traffic{RecordedCounts{std::move(recorded->load), top_k}, std::move(recorded->layers)};
}

// The ids of the chosen layers only.
ExpertTrace of_layers(const ExpertTrace& trace, const std::vector<int32_t>& layers) {
  ExpertTrace chosen{
      trace.model, static_cast<int>(layers.size()), trace.num_logical_experts, trace.top_k, {}};
  chosen.ids.reserve(trace.num_tokens() * layers.size() * trace.top_k);
  for (int64_t token = 0; token < trace.num_tokens(); ++token) {
    for (const int32_t layer : layers) {
      const auto first = trace.ids.begin() + (token * trace.num_layers + layer) * trace.top_k;
      chosen.ids.insert(chosen.ids.end(), first, first + trace.top_k);
    }
  }
  return chosen;
}

// "exact+waterfill" to the routing it names; the options table has checked it.
RouteOptions route_of(const std::string& policy, const ReplaySettings& settings) {
  RouteOptions route;
  route.num_shared_experts = settings.num_shared_experts;
  if (settings.objective == "experts") route.objective = RouteObjective::kExperts;
  if (settings.objective == "time") route.objective = RouteObjective::kTime;
  route.ns_per_expert = settings.ns_per_expert;
  route.ns_per_token = settings.ns_per_token;
  route.waterfill = policy.find("waterfill") != policy.npos;
  if (policy.ends_with("+sglang_waterfill")) route.waterfill_rule = WaterfillRule::kSglang;
  if (policy.ends_with("+sglang_waterfill_global")) {
    route.waterfill_rule = WaterfillRule::kSglangGlobal;
  }
  if (policy.starts_with("static")) route.algorithm = DispatchAlgorithm::kStatic;
  if (policy.starts_with("dynamic")) route.algorithm = DispatchAlgorithm::kDynamic;
  return route;
}

Result<JitOptions> jit_of(const Settings& all) {
  const ReplaySettings& settings = all.replay;
  JitOptions jit{.slots_per_rank = all.engine.jit_expert_slots,
                 .tolerance = to_ratio(all.engine.jit_tolerance),
                 .min_tokens = all.engine.jit_min_tokens};
  if (settings.jit_objective == "balance") return jit;
  if (all.plan.expert_bytes == 0) {
    return invalid_argument(
        "--jit-objective time weighs copies by their size; give --expert-bytes (DeepSeek-V4-Flash "
        "in FP4: 13369344)");
  }
  jit.cost.ns_per_token = settings.ns_per_token;
  jit.cost.ns_per_expert = settings.ns_per_expert;
  jit.cost.ns_per_copy =
      std::llround(static_cast<double>(all.plan.expert_bytes) / settings.link_gbps);
  return jit;
}

}  // namespace

int Traffic::num_layers() const {
  const auto* trace = std::get_if<ExpertTrace>(&recorded);
  return trace ? trace->num_layers : std::get<RecordedCounts>(recorded).history.num_layers;
}

int Traffic::num_logical_experts() const {
  const auto* trace = std::get_if<ExpertTrace>(&recorded);
  return trace ? trace->num_logical_experts
               : std::get<RecordedCounts>(recorded).history.num_logical_experts;
}

LoadHistory Traffic::history(int64_t batch_tokens) const {
  const auto* trace = std::get_if<ExpertTrace>(&recorded);
  return trace ? count_experts(*trace, batch_tokens) : std::get<RecordedCounts>(recorded).history;
}

Result<Replay> Traffic::replay(const std::string& label,
                               const Placement& placement,
                               const std::string& policy,
                               const Settings& settings) const {
  RouteOptions route = route_of(policy, settings.replay);
  ReplayOptions options{
      .batch_tokens = settings.replay.batch_tokens,
      .shuffle = settings.replay.shuffle,
      .num_threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()))};
  if (policy == "ultraep") options.jit_rule = JitRule::kUltraEp;
  if (policy == "moonep") options.jit_rule = JitRule::kMoonEp;
  if (copies_just_in_time(policy)) {
    const auto jit = jit_of(settings);
    if (!jit) return jit.error();
    route.jit = *jit;
  }
  Progress progress(label);
  const auto show = [&](int64_t done, int64_t total) { progress.show(done, total); };
  if (const auto* trace = std::get_if<ExpertTrace>(&recorded)) {
    return plimsoll::replay(*trace, placement, route, options, show);
  }
  const auto& [history, top_k] = std::get<RecordedCounts>(recorded);
  return plimsoll::replay(history, top_k, placement, route, options, show);
}

Result<Traffic> load_traffic(const Settings& settings) {
  const bool has_trace = !settings.replay.traces.empty();
  if (has_trace == !settings.plan.load.empty()) {
    return invalid_argument("give recorded traffic: either --trace or --load");
  }
  if (!has_trace) return load_counts(settings);
  auto trace = load_trace(settings.replay.traces,
                          {.allow_missing_ranks = settings.engine.allow_missing_ranks});
  if (!trace) return trace.error();
  if (trace->num_tokens() == 0) return invalid_argument("the trace holds no token");
  auto layers = choose_layers(settings, trace->num_layers);
  if (!layers) return layers.error();
  const bool all_layers = std::ssize(layers->rows) == trace->num_layers;
  return Traffic{all_layers ? std::move(*trace) : of_layers(*trace, layers->rows),
                 std::move(*layers)};
}

Result<std::vector<NamedPlacement>> load_placements(const Settings& settings,
                                                    int num_layers,
                                                    int num_logical_experts) {
  std::vector<std::string> names = settings.replay.placements;
  if (names.empty()) names = {"trivial"};
  ModelConfig model;
  model.num_hidden_layers = num_layers;
  model.n_routed_experts = num_logical_experts;
  std::vector<NamedPlacement> placements;
  for (const std::string& name : names) {
    if (const auto map = load_expert_map(name)) {  // says by itself how many copies there are
      auto placement =
          make_placement(*map, num_layers, num_logical_experts, settings.engine.ep_size);
      if (!placement) {
        return Error{placement.error().code,
                     "--placement " + name + ": " + placement.error().message};
      }
      placements.push_back({name, std::move(*placement)});
      continue;
    }
    EngineOptions options = settings.engine;
    options.init_expert_location = name;
    auto chosen = choose_placement(options, model);
    if (!chosen)
      return Error{chosen.error().code, "--placement " + name + ": " + chosen.error().message};
    for (const std::string& note : chosen->notes) talk("note: " + name + ": " + note);
    placements.push_back({name, std::move(chosen->placement)});
  }
  return placements;
}

bool copies_just_in_time(const std::string& policy) {
  return policy.ends_with("+jit") || policy == "ultraep" || policy == "moonep";
}

}  // namespace plimsoll
