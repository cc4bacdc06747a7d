#include "options/commands.h"

#include <array>

namespace plimsoll {
namespace {

const std::array<Command, 11> kCommands = {{
    {kGenerate,
     "generate",
     "Continue prompts.",
     {"plimsoll generate --model demo/model --prompt 'In the beginning'",
      "plimsoll generate --model demo/model --prompt-file demo/prompts --ep-size 2 \\\n"
      "      --expert-distribution-recorder-mode stat",
      "plimsoll generate --model demo/model --prompt 'Call me' --temperature 0.8 --seed 7 --json"},
     run_generate},
    {kEval,
     "eval",
     "Compare the model's answers with reference answers.",
     {"plimsoll eval --model demo/model --golden demo/golden.safetensors",
      "plimsoll eval --model demo/model --golden demo/golden.safetensors --ep-size 8 \\\n"
      "      --ep-num-redundant-experts 8 --enable-waterfill --json"},
     run_eval},
    {kBench,
     "bench",
     "Measure throughput, balance over the ranks, and where the time goes.",
     {"plimsoll bench --model demo/model --dataset demo/prompts --ep-size 2",
      "plimsoll bench --model demo/model --dataset demo/prompts --ep-size 2 \\\n"
      "      --init-expert-location placement.json --enable-waterfill --json"},
     run_bench},
    {kServe,
     "serve",
     "Serve OpenAI clients over HTTP.",
     {"plimsoll serve --model demo/model --ep-size 2 --enable-waterfill",
      "plimsoll serve --model demo/model --ep-size 2 --port 8000 --api-key KEY \\\n"
      "      --expert-distribution-recorder-mode stat"},
     run_serve},
    {kRouter,
     "router",
     "Let OpenAI clients be answered by servers that prefill and decode apart.",
     {"plimsoll router --prefill http://127.0.0.1:30001 --decode http://127.0.0.1:30002",
      "plimsoll router --port 8000 --prefill http://10.0.0.1:30000 http://10.0.0.2:30000 \\\n"
      "      --decode http://10.0.0.3:30000"},
     run_router},
    {kBenchServing,
     "bench-serving",
     "Load an OpenAI server, and measure latency, throughput and goodput.",
     {"plimsoll bench-serving --base-url http://127.0.0.1:30000 --dataset demo/prompts",
      "plimsoll bench-serving --base-url http://127.0.0.1:30000 --dataset demo/prompts \\\n"
      "      --num-prompts 500 --request-rate 20 --goodput ttft:500 tpot:50 --json"},
     run_bench_serving},
    {kDemo,
     "demo",
     "The whole loop: record, plan, replay with Waterfill, compare.",
     {"plimsoll demo --model demo/model --dataset demo/prompts --ep-num-redundant-experts 8"},
     run_demo},
    {kPlan,
     "plan",
     "Plan a placement of the experts from recorded load.",
     {"plimsoll plan --load expert_distribution_recorder_1700000000.0.pt --ep-size 8 \\\n"
      "      --ep-num-redundant-experts 8 --out placement.json --explain",
      "plimsoll plan --load today.pt --ep-size 8 --ep-num-redundant-experts 8 \\\n"
      "      --placement placement.json --max-moved-experts 100 --out tomorrow.json",
      "plimsoll plan --scenario day.pt --scenario night.pt --ep-size 8 --out both.json"},
     run_plan},
    {kReport,
     "report",
     "Draw recorded load and a plan for it as a page for a browser.",
     {"plimsoll report --load expert_distribution_recorder_1700000000.0.pt --ep-size 8 \\\n"
      "      --ep-num-redundant-experts 8 --out report.html"},
     run_report},
    {kInspect,
     "inspect",
     "Say what a recorder file, placement, trace or checkpoint holds.",
     {"plimsoll inspect expert_distribution_recorder_1700000000.0.pt",
      "plimsoll inspect demo/model --json"},
     run_inspect},
    {kReplay,
     "replay",
     "Route recorded traffic under placements and policies, and compare.",
     {"plimsoll replay --trace trace.u8 --ep-size 8 --placement trivial --placement placement.json",
      "plimsoll replay --trace rank_0.pt --trace rank_1.pt --ep-size 16 --batch-tokens 256 \\\n"
      "      --shuffle --policy static --policy exact+waterfill -o csv"},
     run_replay},
}};

}  // namespace

std::span<const Command> all_commands() {
  return kCommands;
}

const Command* find_command(std::string_view name) {
  for (const Command& command : kCommands) {
    if (command.name == name) return &command;
  }
  return nullptr;
}

}  // namespace plimsoll
