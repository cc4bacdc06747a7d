// The engine: ranks, and the recorder.
#include "options/option_sections.h"

namespace plimsoll {
namespace {

constexpr std::string_view kParallel = "Expert parallelism";
constexpr std::string_view kRecorder = "Recorder";

}  // namespace

std::vector<Option> parallel_options() {
  return {
      {.name = "ep-size",
       .section = kParallel,
       .value_name = "R",
       .commands = kServing | kPlan | kReplay | kReport,
       .required_by = kPlan | kReplay | kReport,
       .field = [](Settings& s) -> Field { return &s.engine.ep_size; },
       .min = 1,
       .max = 1024,
       .help =
           "Expert-parallel ranks; each is a thread, pinned to a core where cores suffice. Spread "
           "evenly over the processes that mpirun started, one in each unless more are asked for."},
      {.name = "device",
       .section = kParallel,
       .value_name = "D",
       .commands = kServing,
       .field = [](Settings& s) -> Field { return &s.engine.device; },
       .choices = {"auto", "cpu", "cuda", "cuda-on-cpu"},
       .help =
           "What the ranks compute on. cuda: all of them on one GPU, in float32 by plain kernels; "
           "auto: a GPU where this build has CUDA and one is usable, and a line says which and "
           "why; cuda-on-cpu: the GPU's code run on the CPU, for tests."},
      {.name = "rank-timeout-seconds",
       .section = kParallel,
       .value_name = "S",
       .commands = kServing,
       .field = [](Settings& s) -> Field { return &s.engine.rank_timeout_seconds; },
       .min = 1,
       .max = 3600,
       .help =
           "Where several processes hold the ranks (mpirun): one that has not been heard of for "
           "so long is given up. Heartbeats come however long a step takes."},
      {.name = "elastic",
       .section = kParallel,
       .commands = kServe,
       .field = [](Settings& s) -> Field { return &s.engine.elastic; },
       .help = "Where several processes hold the ranks: when one dies or hangs, serve on with the "
               "others, which take over its experts from the checkpoint and its requests. Needs "
               "mpirun --enable-recovery; the death of process 0 ends the service."},
      {.name = "nnodes",
       .section = kParallel,
       .value_name = "N",
       .commands = kServing | kPlan | kReplay | kReport,
       .field = [](Settings& s) -> Field { return &s.engine.nnodes; },
       .min = 1,
       .max = 1024,
       .help = "Nodes that the ranks are spread over, for hierarchical placement."},
      {.name = "moe-a2a-backend",
       .section = kParallel,
       .value_name = "{none,deepep}",
       .commands = kServing,
       .field = [](Settings& s) -> Field { return &s.engine.moe_a2a_backend; },
       .help = "How tokens reach their experts: through a DeepEP-style all-to-all, or not at all."},
      {.name = "deepep-mode",
       .section = kParallel,
       .value_name = "M",
       .commands = kServing,
       .field = [](Settings& s) -> Field { return &s.engine.deepep_mode; },
       .choices = {"auto", "normal", "low_latency"},
       .help = "auto: a step with any prefill token is normal, a step of pure decode low_latency."},
      {.name = "max-dispatch-tokens-per-rank",
       .section = kParallel,
       .value_name = "N",
       .commands = kServing,
       .field = [](Settings& s) -> Field { return &s.engine.max_dispatch_tokens_per_rank; },
       .min = 1,
       .max = kUnbounded,
       .help = "Capacity of a low-latency step: tokens that one rank may send."},
      {.name = "ep-dispatch-algorithm",
       .section = kParallel,
       .value_name = "A",
       .commands = kServing | kPlan | kReport,
       .field = [](Settings& s) -> Field { return &s.engine.ep_dispatch_algorithm; },
       .choices = {"static", "dynamic", "exact", "even"},
       .help = "Which copy of an expert serves a token: the nearest, a random one, or the one that "
               "makes the fullest rank as light as it can be. For plan and report: what the engine "
               "that runs the plan will do, static and dynamic as SGLang does them with an "
               "all-to-all backend and this many --nnodes; even, for these two only, splits an "
               "expert's tokens evenly over its copies."},
      {.name = "enable-waterfill",
       .alias = "enable-deepep-waterfill",
       .section = kParallel,
       .commands = kServing,
       .field = [](Settings& s) -> Field { return &s.engine.enable_waterfill; },
       .help = "Let the shared expert of a token run on any rank, to level them."},
      {.name = "enable-jit-experts",
       .section = kParallel,
       .commands = kServing,
       .field = [](Settings& s) -> Field { return &s.engine.enable_jit_experts; },
       .help =
           "Copy experts just in time, for one layer of one step, where the standing copies and "
           "the shared expert leave the ranks uneven."},
      {.name = "jit-expert-slots",
       .section = kParallel,
       .value_name = "B",
       .commands = kServing | kReplay,
       .field = [](Settings& s) -> Field { return &s.engine.jit_expert_slots; },
       .max = 1024,
       .help = "Spare slots of a rank for copies just in time (--enable-jit-experts; replay: "
               "policies with "
               "+jit, ultraep, moonep)."},
      {.name = "jit-tolerance",
       .section = kParallel,
       .value_name = "X",
       .commands = kServing | kReplay,
       .field = [](Settings& s) -> Field { return &s.engine.jit_tolerance; },
       .max = 10,
       .help =
           "How far above level the fullest rank may stay: 0.01 is 1 %. Exactly level ranks need "
           "about as many copies as there are ranks."},
      {.name = "jit-min-tokens",
       .section = kParallel,
       .value_name = "N",
       .commands = kServing | kReplay,
       .field = [](Settings& s) -> Field { return &s.engine.jit_min_tokens; },
       .min = 1,
       .max = 1000000000,
       .help = "A copy that would serve fewer tokens is not made."},
      {.name = "max-running-requests",
       .section = kParallel,
       .value_name = "N",
       .commands = kServing,
       .field = [](Settings& s) -> Field { return &s.engine.max_running_requests; },
       .max = kUnbounded,
       .help =
           "Sequences that run at the same time, over all ranks; 0 takes what a low-latency step "
           "holds, at most 256."},
      {.name = "max-total-tokens",
       .section = kParallel,
       .value_name = "N",
       .commands = kServing,
       .field = [](Settings& s) -> Field { return &s.engine.max_total_tokens; },
       .max = kUnbounded,
       .help =
           "Tokens that the running sequences may hold, over all ranks; a rank that outgrows its "
           "share sends its youngest request back to wait. 0: what the state memory holds."},
      {.name = "max-state-memory-mib",
       .section = kParallel,
       .value_name = "N",
       .commands = kServing,
       .field = [](Settings& s) -> Field { return &s.engine.max_state_memory_mib; },
       .max = 1 << 30,
       .help = "Memory for the running sequences' state, over all ranks; 0: a quarter of what is "
               "free at start."},
      {.name = "chunked-prefill-size",
       .section = kParallel,
       .value_name = "N",
       .commands = kServing,
       .field = [](Settings& s) -> Field { return &s.engine.chunked_prefill_size; },
       .min = 1,
       .max = kUnbounded,
       .help = "Prompt tokens that a rank computes in one step at most."},
  };
}

std::vector<Option> recorder_options() {
  return {
      {.name = "expert-distribution-recorder-mode",
       .section = kRecorder,
       .value_name = "M",
       .commands = kServing,
       .field = [](Settings& s) -> Field { return &s.engine.expert_distribution_recorder_mode; },
       .choices = {"stat", "per_pass", "per_token"},
       .help = "Record which experts the tokens select: counts of the last steps, counts of every "
               "pass, or every token's choice."},
      {.name = "expert-distribution-recorder-buffer-size",
       .section = kRecorder,
       .value_name = "N",
       .commands = kServing,
       .field = [](Settings& s) -> Field {
         return &s.engine.expert_distribution_recorder_buffer_size;
       },
       .min = -1,
       .max = kUnbounded,
       .help = "Steps that are kept; -1 keeps all."},
      {.name = "expert-distribution-recorder-dir",
       .section = kRecorder,
       .value_name = "DIR",
       .commands = kServing,
       .field = [](Settings& s) -> Field { return &s.recorder_dir; },
       .help = "Folder for expert_distribution_recorder_<time>.pt."},
  };
}

}  // namespace plimsoll
