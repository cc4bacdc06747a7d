// Placements, and the replay of recorded traffic.
#include "options/option_sections.h"
#include "plimsoll/plan.h"

namespace plimsoll {
namespace {

constexpr std::string_view kPlacement = "Expert placement";
constexpr std::string_view kReplaying = "Replay";

}  // namespace

std::vector<Option> placement_options() {
  return {
      {.name = "init-expert-location",
       .section = kPlacement,
       .value_name = "P",
       .commands = kServing,
       .field = [](Settings& s) -> Field { return &s.engine.init_expert_location; },
       .help = "trivial; or a placement or recorded load, from which one is planned, in a file of "
               "any format that plan reads, a pattern of such files in quotes, or JSON "
               "itself with physical_to_logical_map or logical_count."},
      {.name = "ep-num-redundant-experts",
       .section = kPlacement,
       .value_name = "K",
       .commands = kServing | kPlan | kDemo | kReplay | kReport,
       .field = [](Settings& s) -> Field { return &s.engine.ep_num_redundant_experts; },
       .max = 1 << 20,
       .help = "Slots for copies of experts, beyond one slot each."},
      {.name = "eplb-algorithm",
       .section = kPlacement,
       .value_name = "A",
       .commands = kServing | kDemo | kPlan | kReplay | kReport,
       .field = [](Settings& s) -> Field { return &s.engine.eplb_algorithm; },
       .choices = {eplb_algorithms().begin(), eplb_algorithms().end()},
       .help = "How a placement is planned from recorded load."},
      {.name = "for",
       .section = kPlacement,
       .value_name = "ENGINE",
       .commands = kPlan | kReport,
       .field = [](Settings& s) -> Field { return &s.plan.target; },
       .choices = {"plimsoll", "sglang", "vllm", "tensorrt-llm"},
       .help =
           "The engine that will run the plan. It sets the dispatch that is planned for: exact "
           "for plimsoll, static for sglang (or dynamic or even, with --ep-dispatch-algorithm), "
           "even for vllm and tensorrt-llm; and refuses files that the engine does not read."},
      {.name = "enable-eplb",
       .section = kPlacement,
       .commands = kServing,
       .field = [](Settings& s) -> Field { return &s.engine.enable_eplb; },
       .help = "Plan placements while serving, from the load at hand, and switch the layers that "
               "gain by it between steps."},
      {.name = "eplb-rebalance-num-iterations",
       .section = kPlacement,
       .value_name = "N",
       .commands = kServing,
       .field = [](Settings& s) -> Field { return &s.engine.eplb_rebalance_num_iterations; },
       .min = 1,
       .max = kUnbounded,
       .help = "With --enable-eplb: plan from the load of every N steps."},
      {.name = "eplb-rebalance-layers-per-chunk",
       .section = kPlacement,
       .value_name = "N",
       .commands = kServing,
       .field = [](Settings& s) -> Field { return &s.engine.eplb_rebalance_layers_per_chunk; },
       .min = 1,
       .max = kUnbounded,
       .help =
           "With --enable-eplb: layers that are switched between two steps; decoding waits for no "
           "more than these."},
      {.name = "eplb-min-rebalancing-utilization-threshold",
       .section = kPlacement,
       .value_name = "U",
       .commands = kServing,
       .field = [](Settings& s) -> Field {
         return &s.engine.eplb_min_rebalancing_utilization_threshold;
       },
       .max = 1,
       .help = "With --enable-eplb: plan only where the ranks' mean load over the fullest one's, "
               "shared experts included, is at most U; 1 always plans, 0 only when asked "
               "(POST /rebalance_experts)."},
      {.name = "num-groups",
       .section = kPlacement,
       .value_name = "G",
       .commands = kPlan | kReport,
       .field = [](Settings& s) -> Field { return &s.plan.num_groups; },
       .max = kUnbounded,
       .help = "Expert groups of the model, which hierarchical placement keeps within a node; 0: "
               "none."},
      {.name = "max-moved-experts",
       .section = kPlacement,
       .value_name = "N",
       .commands = kPlan | kReport,
       .field = [](Settings& s) -> Field { return &s.plan.max_moved_experts; },
       .min = -1,
       .max = kUnbounded,
       .help = "Experts that ranks may have to load to come from the placement in force "
               "(--placement) to the new one, all layers together; -1: any number."},
      {.name = "expert-bytes",
       .section = kPlacement,
       .value_name = "B",
       .commands = kPlan | kReport | kReplay,
       .field = [](Settings& s) -> Field { return &s.plan.expert_bytes; },
       .max = kUnbounded,
       .help = "Size of one expert of one layer, to tell what moving or copying it costs; 0: not "
               "known."},
      {.name = "dead-rank",
       .section = kPlacement,
       .value_name = "R",
       .commands = kPlan,
       .field = [](Settings& s) -> Field { return &s.plan.dead_ranks; },
       .help =
           "A rank that is down and holds nothing; for elasticity_aware, which auto takes then. "
           "May be given several times."},
  };
}

std::vector<Option> replay_options() {
  return {
      {.name = "batch-tokens",
       .section = kReplaying,
       .value_name = "N",
       .commands = kReplay,
       .field = [](Settings& s) -> Field { return &s.replay.batch_tokens; },
       .min = 1,
       .max = kUnbounded,
       .help = "Tokens of a batch, all ranks together; a trace is cut into such batches."},
      {.name = "shuffle",
       .section = kReplaying,
       .commands = kReplay,
       .field = [](Settings& s) -> Field { return &s.replay.shuffle; },
       .help = "Mix the tokens of the whole trace, as a decode step does; else batches are runs of "
               "text, as in prefill."},
      {.name = "placement",
       .section = kReplaying,
       .value_name = "P",
       .commands = kReplay | kPlan | kReport,
       .field = [](Settings& s) -> Field { return &s.replay.placements; },
       .help =
           "What --init-expert-location takes. replay compares any number of them; none is "
           "trivial. For plan it is the placement in force, from which experts move; for report "
           "too."},
      {.name = "policy",
       .section = kReplaying,
       .value_name = "P",
       .commands = kReplay,
       .field = [](Settings& s) -> Field { return &s.replay.policies; },
       .choices = {"static", "dynamic", "exact", "static+waterfill", "dynamic+waterfill",
                   "exact+waterfill", "static+sglang_waterfill", "dynamic+sglang_waterfill",
                   "exact+sglang_waterfill", "static+sglang_waterfill_global",
                   "dynamic+sglang_waterfill_global", "exact+sglang_waterfill_global", "exact+jit",
                   "exact+waterfill+jit", "ultraep", "moonep"},
       .help = "How copies are chosen, as --ep-dispatch-algorithm does, and whether the shared "
               "expert may leave home: to level the ranks, or, to compare with, drawn as SGLang's "
               "--enable-waterfill does (_global: with SGLANG_DISABLE_STATIC_WATERFILL=1). May be "
               "given several times. +jit: experts are copied just in time where the standing "
               "copies do "
               "not level a batch; ultraep and moonep are the published rules for that, to compare "
               "with. None is static, dynamic, exact and exact+waterfill, as far as "
               "the objective and the shared experts allow."},
      {.name = "num-shared-experts",
       .section = kReplaying,
       .value_name = "N",
       .commands = kReplay,
       .field = [](Settings& s) -> Field { return &s.replay.num_shared_experts; },
       .max = 64,
       .help = "Shared experts that every token needs besides its routed ones."},
      {.name = "route-objective",
       .section = kReplaying,
       .value_name = "O",
       .commands = kReplay,
       .field = [](Settings& s) -> Field { return &s.replay.objective; },
       .choices = {"tokens", "experts", "time"},
       .help = "What exact routing levels, and loads are measured in: tokens computed; experts at "
               "work, whose weights a small decode step waits for; or time, --ns-per-expert for "
               "each expert at work and --ns-per-token for each token."},
      {.name = "ns-per-expert",
       .section = kReplaying,
       .value_name = "NS",
       .commands = kReplay,
       .field = [](Settings& s) -> Field { return &s.replay.ns_per_expert; },
       .max = 1000000000,
       .help = "Time that an expert at work takes whatever its tokens, for --route-objective time; "
               "bench measures both."},
      {.name = "ns-per-token",
       .section = kReplaying,
       .value_name = "NS",
       .commands = kReplay,
       .field = [](Settings& s) -> Field { return &s.replay.ns_per_token; },
       .max = 1000000000,
       .help = "Time that each token of an expert takes, for --route-objective time."},
      {.name = "jit-objective",
       .section = kReplaying,
       .value_name = "O",
       .commands = kReplay,
       .field = [](Settings& s) -> Field { return &s.replay.jit_objective; },
       .choices = {"balance", "time"},
       .help = "Whether copies are made until ranks are level, or only while they save more time "
               "(--ns-per-token, --ns-per-expert) than they take (--expert-bytes, --link-gbps)."},
      {.name = "link-gbps",
       .section = kReplaying,
       .value_name = "G",
       .commands = kReplay,
       .field = [](Settings& s) -> Field { return &s.replay.link_gbps; },
       .min = 0.001,
       .max = 1000000,
       .help =
           "Gigabytes a second that a rank sends, and that it receives, when experts are copied."},
      {.name = "top-k",
       .section = kReplaying,
       .value_name = "K",
       .commands = kReplay,
       .field = [](Settings& s) -> Field { return &s.replay.top_k; },
       .max = 1024,
       .help = "Routed experts of a token, where --load names a file that does not say."},
  };
}

}  // namespace plimsoll
