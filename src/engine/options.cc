#include "engine/options.h"

#include <algorithm>

#include "engine/placement_source.h"
#include "engine/state_limits.h"
#include "plimsoll/plan.h"

namespace plimsoll {
namespace {

constexpr int64_t kMaxRunningDefault = 256;

std::string quoted(const std::string& word) {
  return "\"" + word + "\"";
}

template <typename T>
struct Choice {
  const char* word;
  T value;
};

// The value that `word` names, or an error that lists the words there are.
template <typename T, size_t n>
Result<T> choose(const char* flag, const std::string& word, const Choice<T> (&choices)[n]) {
  std::string words;
  for (const Choice<T>& choice : choices) {
    if (word == choice.word) return choice.value;
    words += (words.empty() ? "" : ", ") + std::string(choice.word);
  }
  return invalid_argument(std::string(flag) + " is " + quoted(word) + "; choose one of " + words);
}

constexpr Choice<A2aBackend> kBackends[] = {{"none", A2aBackend::kNone},
                                            {"deepep", A2aBackend::kDeepep}};
constexpr Choice<DeepepMode> kModes[] = {{"auto", DeepepMode::kAuto},
                                         {"normal", DeepepMode::kNormal},
                                         {"low_latency", DeepepMode::kLowLatency}};
constexpr Choice<DispatchAlgorithm> kAlgorithms[] = {{"exact", DispatchAlgorithm::kExact},
                                                     {"static", DispatchAlgorithm::kStatic},
                                                     {"dynamic", DispatchAlgorithm::kDynamic}};
constexpr Choice<RecorderMode> kRecorderModes[] = {{"stat", RecorderMode::kStat},
                                                   {"per_pass", RecorderMode::kPerPass},
                                                   {"per_token", RecorderMode::kPerToken}};

Status check_backend(const EngineOptions& options) {
  if (options.moe_a2a_backend == "megamoe") {
    return unsupported(
        std::string("--moe-a2a-backend megamoe is not here yet: it fuses dispatch, experts and "
                    "combine into one GPU kernel") +
        (options.enable_waterfill ? ", and --enable-waterfill needs the shared expert to go "
                                    "through dispatch"
                                  : "") +
        "; use --moe-a2a-backend deepep");
  }
  if (options.enable_waterfill && options.moe_a2a_backend == "none") {
    return invalid_argument(
        "--enable-waterfill needs --moe-a2a-backend deepep: without an all-to-all the shared "
        "expert "
        "never leaves its token's home rank; drop --moe-a2a-backend none or --enable-waterfill");
  }
  return ok_status();
}

Result<JitOptions> jit_options(const EngineOptions& options) {
  if (!options.enable_jit_experts) return JitOptions{};
  if (options.mesh != nullptr) {
    return unsupported(
        "--enable-jit-experts needs all ranks in one process: experts are not copied between "
        "processes within a layer yet; start it without mpirun, or drop the flag");
  }
  if (options.moe_a2a_backend == "none") {
    return invalid_argument(
        "--enable-jit-experts needs --moe-a2a-backend deepep: without an all-to-all tokens cannot "
        "go where the copies are");
  }
  if (options.ep_dispatch_algorithm != "exact") {
    return invalid_argument("--enable-jit-experts needs --ep-dispatch-algorithm exact, but it is " +
                            quoted(options.ep_dispatch_algorithm) + "; drop one of the two");
  }
  return JitOptions{.slots_per_rank = options.jit_expert_slots,
                    .tolerance = to_ratio(options.jit_tolerance),
                    .min_tokens = options.jit_min_tokens};
}

// Prefill and decode apart: each role has its mode.
Status check_role(const EngineOptions& options) {
  const std::string& role = options.disaggregation_mode;
  if (role == "null") return ok_status();
  if (role != "prefill" && role != "decode") {
    return invalid_argument("--disaggregation-mode is " + quoted(role) +
                            "; choose one of null, prefill, decode");
  }
  if (options.mesh != nullptr) {
    return unsupported("--disaggregation-mode " + role +
                       " needs all ranks in one process; start it without mpirun");
  }
  const std::string mode = role == "prefill" ? "normal" : "low_latency";
  if (options.moe_a2a_backend == "none") {
    return invalid_argument("--disaggregation-mode " + role +
                            " needs --moe-a2a-backend deepep: it runs in " + mode + " mode");
  }
  if (options.deepep_mode == mode || options.deepep_mode == "auto") return ok_status();
  return invalid_argument("--disaggregation-mode " + role + " needs --deepep-mode " + mode +
                          ", but it is " + options.deepep_mode + "; drop --deepep-mode");
}

// What auto comes to for the role: a prefill server's steps all have prompt tokens, a decode server
// must never leave its mode.
std::string deepep_mode_of(const EngineOptions& options) {
  if (options.deepep_mode != "auto") return options.deepep_mode;
  if (options.disaggregation_mode == "prefill") return "normal";
  return options.disaggregation_mode == "decode" ? "low_latency" : "auto";
}

Status check_numbers(const EngineOptions& options) {
  const std::pair<const char*, int> positive[] = {
      {"--ep-size", options.ep_size},
      {"--nnodes", options.nnodes},
      {"--max-dispatch-tokens-per-rank", options.max_dispatch_tokens_per_rank},
      {"--chunked-prefill-size", options.chunked_prefill_size}};
  for (const auto& [flag, value] : positive) {
    if (value < 1) {
      return invalid_argument(std::string(flag) + " is " + std::to_string(value) +
                              ", expected at least 1");
    }
  }
  if (options.ep_size > kMaxRanks) {
    return invalid_argument("--ep-size is " + std::to_string(options.ep_size) +
                            ", expected at most " + std::to_string(kMaxRanks) + " ranks");
  }
  const int num_processes = options.mesh ? options.mesh->num_processes() : 1;
  if (options.ep_size % num_processes != 0) {
    return invalid_argument("--ep-size is " + std::to_string(options.ep_size) + ", but " +
                            std::to_string(num_processes) +
                            " processes were started, and each holds as many ranks as the others; "
                            "make --ep-size a multiple of " +
                            std::to_string(num_processes));
  }
  const int buffer_size = options.expert_distribution_recorder_buffer_size;
  if (buffer_size == 0 || buffer_size < -1) {
    return invalid_argument("--expert-distribution-recorder-buffer-size is " +
                            std::to_string(buffer_size) +
                            ", expected a number of passes, or -1 to keep them all");
  }
  const std::pair<const char*, int64_t> not_negative[] = {
      {"--ep-num-redundant-experts", options.ep_num_redundant_experts},
      {"--max-running-requests", options.max_running_requests},
      {"--max-total-tokens", options.max_total_tokens},
      {"--max-state-memory-mib", options.max_state_memory_mib}};
  for (const auto& [flag, value] : not_negative) {
    if (value < 0) {
      return invalid_argument(std::string(flag) + " is " + std::to_string(value) +
                              ", expected no negative number");
    }
  }
  return ok_status();
}

Status check_elastic(const EngineOptions& options) {
  if (!options.elastic || options.mesh != nullptr) return ok_status();
  return invalid_argument(
      "--elastic goes on serving when a process with ranks has died, but this one is alone; start "
      "several with mpirun --enable-recovery, or drop --elastic");
}

Status check_rebalancing(const EngineOptions& options) {
  const EngineOptions defaults;
  if (!options.enable_eplb) {
    const std::pair<const char*, bool> given[] = {
        {"--eplb-rebalance-num-iterations",
         options.eplb_rebalance_num_iterations != defaults.eplb_rebalance_num_iterations},
        {"--eplb-rebalance-layers-per-chunk",
         options.eplb_rebalance_layers_per_chunk != defaults.eplb_rebalance_layers_per_chunk},
        {"--eplb-min-rebalancing-utilization-threshold",
         options.eplb_min_rebalancing_utilization_threshold !=
             defaults.eplb_min_rebalancing_utilization_threshold}};
    for (const auto& [flag, is_given] : given) {
      if (is_given) {
        return invalid_argument(std::string(flag) +
                                " does nothing without --enable-eplb; add that or drop the flag");
      }
    }
    return ok_status();
  }
  if (options.ep_size < 2) {
    return invalid_argument(
        "--enable-eplb levels ranks, but --ep-size is 1; raise --ep-size or drop --enable-eplb");
  }
  if (options.eplb_rebalance_num_iterations < 1 || options.eplb_rebalance_layers_per_chunk < 1) {
    return invalid_argument(
        "--eplb-rebalance-num-iterations and --eplb-rebalance-layers-per-chunk must be at least 1");
  }
  const double threshold = options.eplb_min_rebalancing_utilization_threshold;
  if (!(threshold >= 0 && threshold <= 1)) {
    return invalid_argument(
        "--eplb-min-rebalancing-utilization-threshold is " + std::to_string(threshold) +
        ", expected 0 to 1: the ranks' mean load over the fullest one's, above which nothing is "
        "planned; 1 always plans, 0 only when asked");
  }
  return ok_status();
}

// What --eplb-algorithm would refuse while serving, it refuses of a layer of even load.
Status check_planning(const RebalanceOptions& options, const Placement& placement) {
  const LoadHistory even{1, 1, placement.num_logical_experts,
                         std::vector<int64_t>(placement.num_logical_experts, 1)};
  const Result<Plan> plan =
      make_plan(even, {.algorithm = options.algorithm,
                       .num_ranks = placement.num_ranks,
                       .num_redundant_experts = placement.num_redundant_experts(),
                       .num_nodes = options.num_nodes});
  if (plan.ok()) return ok_status();
  return invalid_argument("--enable-eplb cannot plan: " + plan.error().message);
}

// A first guess: to read, unpack and pack its float32 values at a gigabyte a second.
double seconds_to_read_expert(const ModelConfig& config) {
  return 3.0 * config.hidden_size * config.moe_intermediate_size * sizeof(float) / 1e9;
}

// How many requests run at once. A low-latency step must hold one token of every sequence that may
// decode on a rank.
Result<int> max_running_requests(const EngineOptions& options, DeepepMode mode) {
  const bool bounded = mode != DeepepMode::kNormal && options.moe_a2a_backend != "none";
  const int64_t held = int64_t{options.max_dispatch_tokens_per_rank} * options.ep_size;
  if (options.max_running_requests == 0) {
    return static_cast<int>(bounded ? std::min(held, kMaxRunningDefault) : kMaxRunningDefault);
  }
  const int per_rank = (options.max_running_requests + options.ep_size - 1) / options.ep_size;
  if (!bounded || options.max_dispatch_tokens_per_rank >= per_rank) {
    return options.max_running_requests;
  }
  return invalid_argument("--max-dispatch-tokens-per-rank is " +
                          std::to_string(options.max_dispatch_tokens_per_rank) + ", but " +
                          std::to_string(per_rank) + " requests may decode on one rank (" +
                          std::to_string(options.max_running_requests) + " requests on " +
                          std::to_string(options.ep_size) +
                          " ranks), and a low-latency step cannot be split; raise it to " +
                          std::to_string(per_rank) + ", lower --max-running-requests to " +
                          std::to_string(held) + ", or use --deepep-mode normal");
}

}  // namespace

Result<EngineSetup> check_options(const EngineOptions& options, const ModelConfig& config) {
  for (const Status& status : {check_numbers(options), check_backend(options), check_role(options),
                               check_elastic(options), check_rebalancing(options)}) {
    if (!status.ok()) return status.error();
  }
  const auto backend = choose("--moe-a2a-backend", options.moe_a2a_backend, kBackends);
  if (!backend.ok()) return backend.error();
  const auto mode = choose("--deepep-mode", deepep_mode_of(options), kModes);
  if (!mode.ok()) return mode.error();
  const auto algorithm =
      choose("--ep-dispatch-algorithm", options.ep_dispatch_algorithm, kAlgorithms);
  if (!algorithm.ok()) return algorithm.error();
  const Result<int> max_running = max_running_requests(options, *mode);
  if (!max_running.ok()) return max_running.error();
  const Result<JitOptions> jit = jit_options(options);
  if (!jit.ok()) return jit.error();
  Result<Device> device = choose_device(options);
  if (!device.ok()) return device.error();
  Result<ChosenPlacement> chosen = choose_placement(options, config);
  if (!chosen.ok()) return chosen.error();

  EngineSetup setup;
  setup.device = std::move(*device);
  setup.moe = {
      .backend = *backend,
      .max_dispatch_tokens_per_rank = options.max_dispatch_tokens_per_rank,
      .hidden_size = config.hidden_size,
      .top_k = config.num_experts_per_tok,
      .route = {.algorithm = *algorithm, .waterfill = options.enable_waterfill, .jit = *jit}};
  setup.limits = {.num_ranks = options.ep_size,
                  .mode = *backend == A2aBackend::kNone ? DeepepMode::kNormal : *mode,
                  .max_running_requests = *max_running,
                  .chunked_prefill_size = options.chunked_prefill_size,
                  .max_dispatch_tokens_per_rank = options.max_dispatch_tokens_per_rank,
                  .max_sequence_tokens = config.max_position_embeddings,
                  .eos_tokens = config.eos_token_ids};
  setup.elastic = options.elastic;
  setup.placement_source = chosen->source;
  setup.notes = chosen->notes;
  if (Status status = limit_state(options, config, setup); !status.ok()) return status.error();
  if (const std::string& words = options.expert_distribution_recorder_mode; !words.empty()) {
    const auto mode = choose("--expert-distribution-recorder-mode", words, kRecorderModes);
    if (!mode.ok()) return mode.error();
    setup.recorder = {.mode = *mode,
                      .buffer_size = options.expert_distribution_recorder_buffer_size,
                      .num_ranks = options.ep_size,
                      .num_layers = config.num_hidden_layers,
                      .num_logical_experts = config.n_routed_experts,
                      .top_k = config.num_experts_per_tok};
  }
  if (options.enable_eplb) {
    setup.rebalance = {
        .num_iterations = options.eplb_rebalance_num_iterations,
        .layers_per_chunk = options.eplb_rebalance_layers_per_chunk,
        .max_utilization = options.eplb_min_rebalancing_utilization_threshold,
        .algorithm = options.eplb_algorithm,
        .num_nodes = options.nnodes,
        .route = setup.moe.route,
        .top_k = config.num_experts_per_tok,
        .seconds_per_moved_expert = options.mesh != nullptr ? seconds_to_read_expert(config) : 0};
    Status plans = check_planning(*setup.rebalance, chosen->placement);
    if (!plans.ok()) return plans.error();
  }
  Result<MoeLayout> layout = make_moe_layout(chosen->placement, setup.moe.route);
  if (!layout.ok()) return layout.error();
  setup.layout = std::move(*layout);
  return setup;
}

}  // namespace plimsoll
