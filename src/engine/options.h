// Everything that decides how a model is served. The command's options table fills it;
// check_options refuses what cannot be, before any weight is read.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "comm/process_mesh.h"
#include "engine/device.h"
#include "engine/rebalance/rebalancer.h"
#include "engine/schedule/scheduler.h"
#include "ep/moe_rank.h"
#include "model/checkpoint/config.h"
#include "plimsoll/result.h"
#include "record/recorder.h"

namespace plimsoll {

inline constexpr int kMaxRanks = 256;  // of all processes together

struct EngineOptions {
  std::string model_dir;
  std::string device = "auto";  // auto, cpu, cuda; cuda-on-cpu: the GPU's code on the host

  int ep_size = 1;
  ProcessMesh* mesh = nullptr;  // the processes that hold the ranks; null: this one alone
  double rank_timeout_seconds = 10;
  bool elastic = false;                      // go on without processes that have died
  std::string moe_a2a_backend = "deepep";    // none, deepep
  std::string deepep_mode = "auto";          // auto, normal, low_latency
  std::string disaggregation_mode = "null";  // null, prefill, decode
  int max_dispatch_tokens_per_rank = 128;

  std::string init_expert_location = "trivial";  // see load_expert_location
  bool allow_missing_ranks = false;              // of a recording that it names
  int ep_num_redundant_experts = 0;
  std::string eplb_algorithm = "plimsoll";
  int nnodes = 1;
  std::string ep_dispatch_algorithm = "exact";  // static, dynamic, exact
  bool enable_waterfill = false;
  bool enable_jit_experts = false;
  int jit_expert_slots = 2;     // spare slots of a rank
  double jit_tolerance = 0.01;  // how far above level the fullest rank may stay
  int jit_min_tokens = 1;       // that a copy must serve

  bool enable_eplb = false;
  int eplb_rebalance_num_iterations = 1000;
  int eplb_rebalance_layers_per_chunk = 1;
  double eplb_min_rebalancing_utilization_threshold = 1;

  std::string expert_distribution_recorder_mode;  // empty: none; stat, per_pass, per_token
  int expert_distribution_recorder_buffer_size = 1000;

  int max_running_requests =
      0;  // all ranks together; 0: what a low-latency step holds, at most 256
  int64_t max_total_tokens = 0;  // of all running sequences; 0: what the state memory holds
  int max_state_memory_mib = 0;  // of all ranks; 0: a quarter of the memory free at start
  int chunked_prefill_size = 512;
  bool pin_ranks = true;  // each to its own core, where cores suffice
};

// The options, understood: enumerations instead of words, the placement solved.
struct EngineSetup {
  Device device;
  MoeOptions moe;
  SchedulerLimits limits;
  MoeLayout layout;
  std::string placement_source;    // how the placement came about, in words
  std::vector<std::string> notes;  // what the user should be told before serving starts
  std::optional<RecorderOptions> recorder;
  std::optional<RebalanceOptions> rebalance;
  bool elastic = false;
};

// Refuses, with the reason and the fix, what these options and this model cannot do together; reads
// the file that --init-expert-location names, but no weights.
Result<EngineSetup> check_options(const EngineOptions& options, const ModelConfig& config);

}  // namespace plimsoll
