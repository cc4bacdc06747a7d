#include "plimsoll/expert_location.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "record/counts.h"
#include "record/formats/file_io.h"
#include "record/formats/json_text.h"
#include "record/recording_reader.h"

namespace plimsoll {
namespace {

using nlohmann::json;

constexpr const char* kMapKey = "physical_to_logical_map";
constexpr const char* kVllmKey = "logical_expert_load";

Error at(const std::string& place, const Error& error) {
  return {error.code, place + error.message};
}

Error no_such_keys(const std::string& found) {
  return invalid_argument(
      "expected the key physical_to_logical_map (a placement), logical_count or "
      "records (a recording); found " +
      (found.empty() ? "none" : found));
}

Result<ExpertLocation> located(Result<ExpertMap> map) {
  if (!map.ok()) return at(std::string(kMapKey) + " ", map.error());
  return ExpertLocation(std::move(*map));
}

Result<ExpertLocation> located(Result<LoadedCounts> counts) {
  if (!counts.ok()) return counts.error();
  return ExpertLocation(std::move(*counts));
}

Result<LoadedCounts> counts_of_records(const PtFile& file) {
  Result<Recording> recording = read_records(file);
  if (!recording.ok()) return recording.error();
  Result<LoadHistory> history = load_history({&*recording, 1});
  if (!history.ok()) return history.error();
  return LoadedCounts{std::move(*history), std::move(recording->info), {}};
}

Result<ExpertLocation> location_of(const PtFile& file) {
  const PtValue root = file.root();
  if (!root.is_dict()) return no_such_keys("no dict");
  if (root.find(kMapKey)) {
    const Result<NumberArray> numbers = numbers_at(file, root, kMapKey);
    if (!numbers.ok()) return numbers.error();
    return located(map_of(*numbers));
  }
  if (root.find("logical_count")) return located(read_stat(file));
  if (root.find("records")) return located(counts_of_records(file));
  return no_such_keys(root.keys());
}

Result<LoadedCounts> counts_of_json(const json& lists, const std::string& key) {
  const Result<NumberArray> numbers = numbers_of(lists);
  if (!numbers.ok()) return at(key + " ", numbers.error());
  Result<LoadedCounts> loaded = counts_of(*numbers);
  if (!loaded.ok()) return at(key + " ", loaded.error());
  return loaded;
}

// [{"logical_expert_load": [[...]], ...}, ...] to the list of the loads.
json vllm_steps(json load_history) {
  json steps = json::array();
  for (json& step : load_history) {
    if (step.is_object()) steps.push_back(std::move(step[kVllmKey]));
  }
  return steps;
}

Result<ExpertLocation> location_of(json document) {
  if (!document.is_object()) return no_such_keys("no JSON object");
  if (const auto map = document.find(kMapKey); map != document.end()) {
    const Result<NumberArray> numbers = numbers_of(*map);
    if (!numbers.ok()) return at(std::string(kMapKey) + " ", numbers.error());
    return located(map_of(*numbers));
  }
  for (const char* key : {"logical_count", kVllmKey}) {
    const auto counts = document.find(key);
    if (counts != document.end()) return located(counts_of_json(*counts, key));
  }
  if (document.contains("load_history")) {
    return located(counts_of_json(vllm_steps(std::move(document["load_history"])), kVllmKey));
  }
  std::string keys;
  for (const auto& [key, value] : document.items()) {
    keys += (keys.empty() ? "" : ", ") + printable(key);
  }
  return no_such_keys(printable(keys));
}

Result<ExpertLocation> load_file(const std::string& path) {
  const auto bytes = read_file(path);
  if (!bytes.ok()) return bytes.error();
  Result<ExpertLocation> location = parse_expert_location(*bytes, path);
  if (!location.ok()) return at(path + ": ", location.error());
  return location;
}

std::string describe(int num_layers, int num_experts) {
  return std::to_string(num_layers) + " layers of " + std::to_string(num_experts) + " experts";
}

}  // namespace

Result<ExpertLocation> parse_expert_location(std::span<const std::byte> bytes,
                                             const std::string& path) {
  if (path.ends_with(".pt")) {
    const Result<PtFile> file = parse_pt(bytes);
    if (!file.ok()) return file.error();
    return location_of(*file);
  }
  const auto* text = reinterpret_cast<const char*>(bytes.data());
  Result<json> document = parse_json({text, bytes.size()});
  if (!document.ok()) return at("it ", document.error());
  return location_of(std::move(*document));
}

Result<ExpertLocation> load_expert_location(const std::string& value) {
  if (value == "trivial") return ExpertLocation(TrivialLocation());
  if (value.ends_with(".pt") || value.ends_with(".json")) return load_file(value);
  for (const char* ending : {".yaml", ".yml", ".npy"}) {
    if (!value.ends_with(ending)) continue;
    Result<ExpertMap> map = load_expert_map(value);
    if (!map.ok()) return map.error();
    return ExpertLocation(std::move(*map));
  }
  Result<ExpertLocation> location =
      parse_expert_location(std::as_bytes(std::span(value)), "inline.json");
  if (!location.ok()) {
    return at(
        "--init-expert-location is neither trivial nor a path that ends in .pt, .json, .yaml or "
        ".npy, and "
        "read as JSON ",
        location.error());
  }
  return location;
}

Status check_fits(const LoadedCounts& counts, int num_layers, int num_logical_experts) {
  const LoadHistory& history = counts.history;
  if (history.num_layers != num_layers || history.num_logical_experts != num_logical_experts) {
    return invalid_argument("the recording has " +
                            describe(history.num_layers, history.num_logical_experts) +
                            ", but the model has " + describe(num_layers, num_logical_experts) +
                            "; give one that was recorded with this model");
  }
  if (std::ranges::all_of(history.counts, [](int64_t count) { return count == 0; })) {
    return invalid_argument(
        "the recording counts no token at all, so there is nothing to plan from; record again "
        "while requests are served, and dump before stopping the server");
  }
  return ok_status();
}

Result<Placement> make_placement(const ExpertMap& map,
                                 int num_layers,
                                 int num_logical_experts,
                                 int num_ranks) {
  if (map.num_layers != num_layers) {
    return invalid_argument("the placement has " + std::to_string(map.num_layers) +
                            " layers, but the model has " + std::to_string(num_layers) +
                            "; give one that was planned for this model");
  }
  Placement placement{num_layers, num_logical_experts, map.num_physical_experts, num_ranks,
                      map.physical_to_logical};
  if (Status valid = validate(placement); !valid.ok()) return valid.error();
  return placement;
}

}  // namespace plimsoll
