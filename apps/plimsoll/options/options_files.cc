// What commands read and write.
#include "options/option_sections.h"

namespace plimsoll {
namespace {

constexpr std::string_view kInput = "Input";
constexpr std::string_view kSampling = "Sampling";
constexpr std::string_view kOutput = "Output";

}  // namespace

std::vector<Option> input_options() {
  return {
      {.name = "model",
       .section = kInput,
       .value_name = "DIR",
       .commands = kServing | kDemo,
       .required_by = kServing | kDemo,
       .field = [](Settings& s) -> Field { return &s.engine.model_dir; },
       .help = "Checkpoint folder: config.json, safetensors, tokenizer.json."},
      {.name = "prompt",
       .section = kInput,
       .value_name = "TEXT",
       .commands = kGenerate,
       .field = [](Settings& s) -> Field { return &s.input.prompts; },
       .help = "Text to continue. May be given several times: the prompts run as one batch."},
      {.name = "prompt-file",
       .section = kInput,
       .value_name = "F",
       .commands = kGenerate,
       .field = [](Settings& s) -> Field { return &s.input.prompt_files; },
       .help = "A text file of prompts, separated by lines holding a single %, or a folder of such "
               "*.txt files. May be given several times."},
      {.name = "golden",
       .section = kInput,
       .value_name = "F",
       .commands = kEval,
       .required_by = kEval,
       .field = [](Settings& s) -> Field { return &s.input.golden; },
       .help = "Safetensors file of reference answers to compare with."},
      {.name = "dataset",
       .section = kInput,
       .value_name = "F",
       .commands = kBench | kBenchServing | kDemo,
       .required_by = kBench | kBenchServing | kDemo,
       .field = [](Settings& s) -> Field { return &s.input.dataset; },
       .help = "Prompts to run, in the format of --prompt-file. May be given several times."},
      {.name = "num-prompts",
       .section = kInput,
       .value_name = "N",
       .commands = kBench | kBenchServing | kDemo,
       .field = [](Settings& s) -> Field { return &s.input.num_prompts; },
       .max = kUnbounded,
       .help = "Run N prompts, starting over when the dataset has fewer; 0 runs each one once."},
      {.name = "concurrency",
       .section = kInput,
       .value_name = "C",
       .commands = kBench,
       .field = [](Settings& s) -> Field { return &s.input.concurrency; },
       .min = 1,
       .max = kUnbounded,
       .help = "Requests that wait or run at the same time, over all ranks."},
      {.name = "load",
       .section = kInput,
       .value_name = "F",
       .commands = kPlan | kReplay | kReport,
       .required_by = kReport,
       .field = [](Settings& s) -> Field { return &s.plan.load; },
       .help =
           "Recorded expert selection: a recorder's .pt file, JSON with logical_count or vLLM's "
           "logical_expert_load, .npy, or a .u8 trace. Several files of the modes "
           "per_pass and per_token are those of the ranks of one recording; of others the steps "
           "follow each other. A pattern in quotes must match one recording.",
       .takes_many = true},
      {.name = "allow-missing-ranks",
       .section = kInput,
       .commands = kServing | kPlan | kReplay | kReport,
       .field = [](Settings& s) -> Field { return &s.engine.allow_missing_ranks; },
       .help = "Take a recording of which the files of some ranks, or some passes of a rank, are "
               "missing: a part of the load for the whole."},
      {.name = "layers",
       .section = kInput,
       .value_name = "L",
       .commands = kPlan | kReplay | kReport,
       .field = [](Settings& s) -> Field { return &s.plan.layers; },
       .help = "Layers to look at, such as 3-60 or 0,2-5; else all that recorded anything. Others "
               "keep their placement, and are left out of files that name MoE layers only."},
      {.name = "scenario",
       .section = kInput,
       .value_name = "F",
       .commands = kPlan,
       .field = [](Settings& s) -> Field { return &s.plan.scenarios; },
       .help =
           "Recorded expert selection of one kind of traffic, as --load takes it, instead of "
           "--load. Given several times, the placement is made for the one that it suits worst."},
      {.name = "trace",
       .section = kInput,
       .value_name = "F",
       .commands = kReplay,
       .field = [](Settings& s) -> Field { return &s.replay.traces; },
       .help = "Which experts each token chose: a .u8 trace, a per_token recording (.pt), or .npy "
               "[tokens, layers, k]. Several files are joined.",
       .takes_many = true},
      {.name = "file",
       .section = kInput,
       .value_name = "F",
       .commands = kInspect,
       .required_by = kInspect,
       .field = [](Settings& s) -> Field { return &s.input.file; },
       .help = "A recorder file, a placement, a trace, or a checkpoint folder.",
       .positional = true},
  };
}

std::vector<Option> sampling_options() {
  return {
      {.name = "max-tokens",
       .section = kSampling,
       .value_name = "N",
       .commands = kGenerate | kBench | kBenchServing | kDemo,
       .field = [](Settings& s) -> Field { return &s.sampling.max_tokens; },
       .min = 1,
       .max = kUnbounded,
       .help = "Tokens to generate for each prompt at most."},
      {.name = "temperature",
       .section = kSampling,
       .value_name = "T",
       .commands = kGenerate | kBench | kBenchServing | kDemo,
       .field = [](Settings& s) -> Field { return &s.sampling.temperature; },
       .max = 100,
       .help = "Spread of sampling; 0 always takes the most likely token."},
      {.name = "top-p",
       .section = kSampling,
       .value_name = "P",
       .commands = kGenerate | kBench | kBenchServing | kDemo,
       .field = [](Settings& s) -> Field { return &s.sampling.top_p; },
       .max = 1,
       .help = "Sample among the most likely tokens whose probabilities sum to P."},
      {.name = "seed",
       .section = kSampling,
       .value_name = "S",
       .commands = kGenerate | kBench | kBenchServing | kDemo,
       .field = [](Settings& s) -> Field { return &s.sampling.seed; },
       .max = kUnbounded,
       .help = "Same seed, same text, whatever else is in the batch; and the same arrivals of "
               "bench-serving's requests."},
  };
}

std::vector<Option> output_options() {
  return {
      {.name = "out",
       .section = kOutput,
       .value_name = "F",
       .commands = kPlan | kReport,
       .required_by = kPlan | kReport,
       .field = [](Settings& s) -> Field { return &s.plan.out; },
       .help = "plan: the placement to write, in the format it ends in: .json or .pt as SGLang and "
               "--init-expert-location read them, .yaml as TensorRT-LLM does, or .npy; see "
               "--format. report: the page."},
      {.name = "format",
       .section = kOutput,
       .value_name = "F",
       .commands = kPlan,
       .field = [](Settings& s) -> Field { return &s.plan.format; },
       .help =
           "Whose format --out is in, where .json could be several's: sglang, vllm, vllm-ascend, "
           "tensorrt-llm or npy."},
      {.name = "out-dir",
       .section = kOutput,
       .value_name = "DIR",
       .commands = kDemo,
       .field = [](Settings& s) -> Field { return &s.out_dir; },
       .help = "Folder for the recording and the plan."},
      {.name = "output-format",
       .alias = "o",
       .section = kOutput,
       .value_name = "F",
       .commands = kReplay,
       .field = [](Settings& s) -> Field { return &s.replay.format; },
       .choices = {"text", "md", "csv", "json"},
       .help = "How to print the rows."},
      {.name = "explain",
       .section = kOutput,
       .commands = kPlan,
       .field = [](Settings& s) -> Field { return &s.plan.explain; },
       .help = "Say of every layer why it cannot do better."},
      {.name = "json",
       .section = kOutput,
       .commands = kAll,
       .field = [](Settings& s) -> Field { return &s.json; },
       .help = "Print the result as JSON."},
      {.name = "config",
       .section = kOutput,
       .value_name = "F.json",
       .commands = kAll,
       .field = [](Settings& s) -> Field { return &s.config; },
       .help = "Read options from a JSON object; what stands on the command line wins."},
  };
}

}  // namespace plimsoll
