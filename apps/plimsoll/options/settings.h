// What the user asked for, typed. Each member's initial value here is the option's default: the
// options table (options_*.cc) points at these members and never repeats a default.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "engine/options.h"
#include "serve/loop/hand_over.h"

namespace plimsoll {

struct InputSettings {
  std::vector<std::string> prompts;       // given on the command line
  std::vector<std::string> prompt_files;  // files or folders of them; see prompts.h for the format
  std::vector<std::string> dataset;       // the same
  std::string golden;
  std::string file;     // positional
  int num_prompts = 0;  // 0: all of them
  int concurrency = 64;
};

struct SamplingSettings {
  int max_tokens = 64;
  double temperature = 0.0;  // 0: always the most likely token
  double top_p = 1.0;
  int64_t seed = 0;
};

struct PlanSettings {
  std::vector<std::string> load;
  std::vector<std::string> scenarios;
  std::vector<std::string> dead_ranks;  // numbers
  int num_groups = 0;                   // 0: the model has none
  int max_moved_experts = -1;           // -1: any number
  int64_t expert_bytes = 0;             // 0: not known
  std::string target;                   // the engine that will run the plan; empty: Plimsoll
  bool explain = false;
  std::string layers;  // "3-60": of the model; empty: all
  std::string out;
  std::string format;  // of out; empty: what it ends in
};

struct ServeSettings {
  std::string host = "127.0.0.1";
  int port = 30000;
  std::string api_key;
  std::string admin_api_key;
  std::string served_model_name;  // empty: the model folder's name
  int max_queued_requests = 512;
  int max_body_memory_mib = 64;
  bool expert_metrics_per_layer = false;
  DisaggregationOptions disaggregation;  // its mode is that of the engine
};

struct RouterSettings {
  std::vector<std::string> prefill;  // URLs
  std::vector<std::string> decode;
};

struct LoadSettings {
  std::string base_url;
  std::string endpoint = "/v1/completions";
  double request_rate = std::numeric_limits<double>::infinity();  // a second
  int max_concurrency = 0;                                        // 0: no limit
  bool ignore_eos = false;
  std::vector<std::string> goodput;
  std::string result_file;
};

struct ReplaySettings {
  std::vector<std::string> traces;
  std::vector<std::string> placements;  // none: trivial
  std::vector<std::string> policies;    // none: the usual ones
  int64_t batch_tokens = 4096;
  bool shuffle = false;
  int top_k = 0;  // 0: as the recording says
  int num_shared_experts = 1;
  std::string objective = "tokens";
  int ns_per_expert = 0;  // of the objective time
  int ns_per_token = 1;
  std::string jit_objective = "balance";
  double link_gbps = 450;
  std::string format = "text";
};

struct Settings {
  InputSettings input;
  SamplingSettings sampling;
  EngineOptions engine;
  PlanSettings plan;
  ServeSettings serve;
  RouterSettings router;
  LoadSettings load;
  ReplaySettings replay;
  std::string recorder_dir = ".";
  std::string out_dir = "out";
  std::string config;
  bool json = false;
};

}  // namespace plimsoll
