// plimsoll inspect: say what a file holds, how skewed it is, and what it is good for.
#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <numeric>

#include "model/checkpoint/checkpoint_summary.h"
#include "options/commands.h"
#include "plimsoll/expert_location.h"
#include "plimsoll/plan.h"
#include "plimsoll/recording.h"
#include "plimsoll/trace.h"
#include "record/formats/json_text.h"
#include "shared/terminal.h"

namespace plimsoll {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

// What is printed, as text or as JSON.
struct Description {
  std::string kind;
  Json facts = Json::object();
  Json layers = Json::array();  // objects with the same keys
  std::vector<std::string> usable_for;
};

std::string cell_text(const Json& value) {
  if (value.is_string()) return value.get<std::string>();
  return value.is_number_float() ? fmt::format("{:.3f}", value.get<double>()) : value.dump();
}

std::string as_text(const Description& description) {
  std::string text = description.kind + "\n";
  for (const auto& [key, value] : description.facts.items()) {
    text += fmt::format("  {:<24}{}\n", key, cell_text(value));
  }
  std::vector<std::vector<std::string>> table;
  for (const Json& layer : description.layers) {
    if (table.empty()) {
      table.emplace_back();
      for (const auto& [key, value] : layer.items()) table.back().push_back(key);
    }
    table.emplace_back();
    for (const auto& [key, value] : layer.items()) table.back().push_back(cell_text(value));
  }
  if (!table.empty()) text += "\n" + table_text(table);
  text += "\nusable for:\n";
  for (const std::string& use : description.usable_for) text += "  " + use + "\n";
  return text;
}

std::string as_json(const Description& description, const std::string& path) {
  Json json = {{"file", path}, {"kind", description.kind}};
  json.update(description.facts);
  json["layers"] = description.layers;
  json["usable_for"] = description.usable_for;
  return json_text(json, 2) + "\n";
}

// counts: [layers, experts]
Json describe_skew(std::span<const int64_t> counts, int num_layers, int num_experts) {
  Json layers = Json::array();
  for (int layer = 0; layer < num_layers; ++layer) {
    const auto row = counts.subspan(static_cast<size_t>(layer) * num_experts, num_experts);
    const int64_t sum = std::accumulate(row.begin(), row.end(), int64_t{0});
    const auto hottest = std::max_element(row.begin(), row.end());
    const double mean = static_cast<double>(sum) / num_experts;
    layers.push_back({{"layer", layer},
                      {"selections", sum},
                      {"unused_experts", std::count(row.begin(), row.end(), 0)},
                      {"hottest_expert", hottest - row.begin()},
                      {"hottest_selections", *hottest},
                      {"max_over_mean", sum > 0 ? static_cast<double>(*hottest) / mean : 1.0}});
  }
  return layers;
}

std::string utc(double unix_time) {
  return fmt::format("{:%Y-%m-%d %H:%M:%S} UTC", fmt::gmtime(static_cast<time_t>(unix_time)));
}

void add_info(const std::optional<RecordingInfo>& info, Json& facts) {
  if (!info) {
    facts["written_by"] = "a program that does not say (SGLang?)";
    return;
  }
  facts["written_by"] = "Plimsoll " + info->version;
  facts["model_type"] = info->model_type;
  facts["top_k"] = info->top_k;
  facts["tokens"] = info->num_tokens;
  facts["ep_size"] = info->placement.num_ranks;
  facts["redundant_experts"] = info->placement.num_redundant_experts();
  facts["eplb_algorithm"] = info->eplb_algorithm;
  facts["recorded_from"] = utc(info->start_time);
  facts["recorded_until"] = utc(info->end_time);
}

std::string mode_name(RecorderMode mode) {
  constexpr std::array kNames = {"stat", "per_pass", "per_token"};
  return kNames[static_cast<int>(mode)];
}

Description describe(const LoadedCounts& loaded, const std::string& path) {
  const LoadHistory& history = loaded.history;
  Description description{.kind = "recorded load"};
  description.facts["steps"] = history.num_steps;
  description.facts["num_layers"] = history.num_layers;
  description.facts["num_experts"] = history.num_logical_experts;
  if (const auto recording = read_recording(path)) {
    description.facts["recorder_mode"] = mode_name(recording->mode);
  }
  add_info(loaded.info, description.facts);
  const std::vector<int64_t> total = total_load(history);
  description.layers = describe_skew(total, history.num_layers, history.num_logical_experts);
  const bool empty = std::all_of(total.begin(), total.end(), [](int64_t n) { return n == 0; });
  description.usable_for =
      empty ? std::vector<std::string>{"nothing: no expert was selected; record under load"}
            : std::vector<std::string>{
                  fmt::format("plimsoll plan --load {}", path),
                  fmt::format("--init-expert-location {}, with a model of {} layers and {} experts",
                              path, history.num_layers, history.num_logical_experts)};
  return description;
}

Description describe(const ExpertMap& map, const std::string& path) {
  Description description{.kind = "placement"};
  const auto begin = map.physical_to_logical.begin();
  const int num_experts =
      1 + *std::max_element(begin, begin + static_cast<ptrdiff_t>(map.physical_to_logical.size()));
  description.facts["num_layers"] = map.num_layers;
  description.facts["num_slots"] = map.num_physical_experts;
  description.facts["num_experts_at_least"] = num_experts;
  for (int layer = 0; layer < map.num_layers; ++layer) {
    std::vector<int64_t> copies(num_experts);
    for (int slot = 0; slot < map.num_physical_experts; ++slot) {
      ++copies[map.physical_to_logical[static_cast<size_t>(layer) * map.num_physical_experts +
                                       slot]];
    }
    description.layers.push_back(
        {{"layer", layer},
         {"experts_with_copies",
          std::count_if(copies.begin(), copies.end(), [](int64_t n) { return n > 1; })},
         {"most_copies", *std::max_element(copies.begin(), copies.end())},
         {"experts_missing", std::count(copies.begin(), copies.end(), 0)}});
  }
  std::string sizes;
  for (int ranks = 2; ranks <= std::min(map.num_physical_experts, 64); ++ranks) {
    if (map.num_physical_experts % ranks == 0) sizes += fmt::format(" {}", ranks);
  }
  description.usable_for = {
      fmt::format("--init-expert-location {} --ep-num-redundant-experts {}, with an EP size of{}",
                  path, map.num_physical_experts - num_experts, sizes.empty() ? " 1" : sizes)};
  return description;
}

Description describe(const ExpertTrace& trace, const std::string& path) {
  Description description{.kind = "trace"};
  description.facts = {{"model", trace.model},
                       {"tokens", trace.num_tokens()},
                       {"num_layers", trace.num_layers},
                       {"num_experts", trace.num_logical_experts},
                       {"top_k", trace.top_k}};
  const std::vector<int64_t> total = total_load(count_experts(trace, trace.num_tokens()));
  description.layers = describe_skew(total, trace.num_layers, trace.num_logical_experts);
  description.usable_for = {fmt::format("plimsoll replay --trace {}", path),
                            fmt::format("plimsoll plan --load {}", path)};
  return description;
}

std::string_view attention_name(int compress_ratio) {
  if (compress_ratio == 0) return "sliding window";
  return compress_ratio == 4 ? "compressed sparse" : "heavily compressed";
}

Description describe(const Checkpoint& checkpoint, const std::string& path) {
  const ModelConfig& config = checkpoint.config();
  const CheckpointSummary summary = summarize(checkpoint);
  Description description{.kind = "checkpoint"};
  description.facts = {{"model_type", config.model_type},
                       {"parameters", summary.num_parameters},
                       {"num_layers", config.num_hidden_layers},
                       {"hidden_size", config.hidden_size},
                       {"vocab_size", config.vocab_size},
                       {"num_experts", config.n_routed_experts},
                       {"experts_per_token", config.num_experts_per_tok},
                       {"expert_width", config.moe_intermediate_size},
                       {"max_positions", config.max_position_embeddings}};
  for (const auto& [dtype, total] : summary.by_dtype) {
    description.facts[dtype] =
        fmt::format("{} tensors, {} bytes", total.num_tensors, total.num_bytes);
  }
  description.facts["unused_tensors"] = summary.unused.size();
  for (int layer = 0; layer < config.num_hidden_layers; ++layer) {
    description.layers.push_back({{"layer", layer},
                                  {"attention", attention_name(config.compress_ratios[layer])},
                                  {"compress_ratio", config.compress_ratios[layer]},
                                  {"routing", config.is_hash_layer(layer) ? "hash" : "top-k"}});
  }
  if (summary.num_problems > 0) {
    description.usable_for = {
        fmt::format("nothing: {} tensors are missing or unusable, the first: {}",
                    summary.num_problems, summary.problems.front())};
  } else if (fs::exists(fs::path(path) / "tokenizer.json")) {
    description.usable_for = {fmt::format("--model {}", path)};
  } else {
    description.usable_for = {fmt::format("plimsoll eval --model {}: no tokenizer.json", path)};
  }
  return description;
}

bool is_trace(const fs::path& path) {
  std::error_code error;
  const bool beside_ids =
      path.extension() == ".json" && fs::exists(fs::path(path).replace_extension(".u8"), error);
  return path.extension() == ".u8" || beside_ids;
}

Result<Description> inspect(const std::string& path) {
  std::error_code error;
  if (!fs::exists(path, error)) return io_error(path + ": no such file");
  if (fs::is_directory(path, error)) {
    const auto checkpoint = Checkpoint::open(path);
    if (!checkpoint) return checkpoint.error();
    return describe(*checkpoint, path);
  }
  if (is_trace(path)) {
    const auto trace = load_trace(path);
    if (!trace) return trace.error();
    return describe(*trace, path);
  }
  constexpr std::array kKnown = {".pt", ".json", ".npy", ".yaml", ".yml"};
  const std::string extension = fs::path(path).extension();
  if (std::find(kKnown.begin(), kKnown.end(), extension) == kKnown.end()) {
    return invalid_argument(path +
                            ": expected a recorder file or a placement (.pt, .json, .npy, .yaml), "
                            "a .u8 trace, or a checkpoint folder");
  }
  if (extension != ".npy") {  // numbers without a name are taken for counts
    const auto map = load_expert_map(path);
    if (map) return describe(*map, path);
    if (extension == ".yaml" || extension == ".yml") return map.error();  // placements only
  }
  const auto counts = load_expert_counts(path);
  if (!counts) return counts.error();
  for (const std::string& note : counts->notes) talk("note: " + note);
  return describe(*counts, path);
}

}  // namespace

Result<int> run_inspect(const Settings& settings) {
  const auto description = inspect(settings.input.file);
  if (!description) return description.error();
  print(settings.json ? as_json(*description, settings.input.file) : as_text(*description));
  return kExitDone;
}

}  // namespace plimsoll
