#include "plimsoll/expert_location.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "plimsoll/layers.h"
#include "record/counts.h"
#include "record/formats/json_text.h"
#include "record/rank_files.h"
#include "record/trace_parts.h"
#include "record/vllm_maps.h"

namespace plimsoll {
namespace {

using nlohmann::json;

constexpr const char* kMapKey = "physical_to_logical_map";
constexpr const char* kVllmKey = "logical_expert_load";
constexpr const char* kCountKeys[] = {"logical_count", kVllmKey};

Error at(const std::string& place, const Error& error) {
  return {error.code, place + error.message};
}

Error no_such_keys(const std::string& found) {
  return invalid_argument(
      "expected the key physical_to_logical_map or layer_list (a placement), logical_count, "
      "logical_expert_load or records (a recording); found " +
      (found.empty() ? "none" : found));
}

Result<ExpertLocation> located(Result<ExpertMap> map, const std::string& place = "") {
  if (!map.ok()) return at(place, map.error());
  return ExpertLocation(std::move(*map));
}

Result<ExpertLocation> located(Result<LoadedCounts> counts, const std::string& place = "") {
  if (!counts.ok()) return at(place, counts.error());
  return ExpertLocation(std::move(*counts));
}

Result<ExpertMap> sglang_map(const Result<NumberArray>& numbers) {
  if (!numbers.ok()) return numbers.error();
  Result<ExpertMap> map = map_of(*numbers);
  if (map.ok()) map->format = "SGLang";
  return map;
}

// Of the modes per_pass and per_token: the ranks' files, of which this one must be all.
Result<LoadedCounts> counts_of_records(PtFile file,
                                       const std::string& path,
                                       const LoadOptions& options) {
  Result<Records> records = read_records_header(file);
  if (!records.ok()) return records.error();
  std::vector<RankFile> files;
  files.push_back({path, std::move(file), std::move(*records)});
  const Result<RankFiles> ranks = check_rank_files(std::move(files), options);
  if (!ranks.ok()) return ranks.error();
  return count_passes(*ranks, options);
}

// A tensor by itself says what it is by its numbers; a large one is read step by step.
Result<ExpertLocation> location_of_tensor(const PtFile& file,
                                          const PtTensor& tensor,
                                          const LoadOptions& options) {
  if (tensor.shape.size() == 2) {
    const Result<NumberArray> numbers = numbers_of(file, tensor);
    if (!numbers.ok()) return at("its tensor ", numbers.error());
    return location_of_numbers(*numbers, options.only_total);
  }
  Result<LoadedCounts> counts = read_counts(file, tensor, options);
  if (counts.ok()) counts->format = "a plain tensor";
  return located(std::move(counts), "its tensor ");
}

Result<LoadedCounts> counts_of_tensor(const PtFile& file,
                                      const PtTensor& tensor,
                                      const LoadOptions& options) {
  Result<LoadedCounts> counts = read_counts(file, tensor, options);
  if (!counts.ok()) return counts;
  Result<std::optional<RecordingInfo>> info = read_info(file);
  if (!info.ok()) return info.error();
  counts->info = std::move(*info);
  counts->format = "stat";
  return counts;
}

Result<LoadedCounts> counts_of_json(const json& lists, bool only_total) {
  const Result<NumberArray> numbers = numbers_of(lists);
  return numbers.ok() ? counts_of(*numbers, only_total) : numbers.error();
}

// [{"logical_expert_load": [[...]], ...}, ...] to the list of the loads.
json vllm_steps(json load_history) {
  json steps = json::array();
  for (json& step : load_history) {
    if (step.is_object()) steps.push_back(std::move(step[kVllmKey]));
  }
  return steps;
}

Result<ExpertLocation> location_of_object(json document, bool only_total) {
  if (const auto map = document.find(kMapKey); map != document.end()) {
    return located(sglang_map(numbers_of(*map)), std::string(kMapKey) + " ");
  }
  if (document.contains(kAscendKey)) return located(parse_ascend_map(document));
  for (const char* key : kCountKeys) {
    const auto lists = document.find(key);
    if (lists == document.end()) continue;
    Result<LoadedCounts> counts = counts_of_json(*lists, only_total);
    if (counts.ok()) counts->format = std::string("JSON, ") + key;
    return located(std::move(counts), std::string(key) + " ");
  }
  if (document.contains("load_history")) {
    auto counts = counts_of_json(vllm_steps(std::move(document["load_history"])), only_total);
    if (counts.ok()) counts->format = "vLLM, load_history";
    return located(std::move(counts), std::string(kVllmKey) + " ");
  }
  std::string keys;
  for (const auto& [key, value] : document.items()) {
    keys += (keys.empty() ? "" : ", ") + printable(key);
  }
  return no_such_keys(printable(keys));
}

std::string describe(int num_layers, int num_experts) {
  return std::to_string(num_layers) + " layers of " + std::to_string(num_experts) + " experts";
}

}  // namespace

Result<ExpertLocation> location_of_numbers(const NumberArray& numbers, bool only_total) {
  if (is_placement(numbers)) {
    Result<ExpertMap> map = map_of(numbers);
    if (map.ok()) map->format = "numbers";
    return located(std::move(map));
  }
  if (is_trace(numbers)) {
    const Result<ExpertTrace> trace = trace_of(numbers);
    return trace.ok() ? located(counts_of_trace_file(*trace)) : trace.error();
  }
  Result<LoadedCounts> counts = counts_of(numbers, only_total);
  if (counts.ok()) counts->format = "numbers";
  return located(std::move(counts));
}

Result<ExpertLocation> location_of(PtFile file,
                                   const std::string& path,
                                   const LoadOptions& options) {
  const PtValue root = file.root();
  if (const PtTensor* tensor = root.as_tensor()) return location_of_tensor(file, *tensor, options);
  if (!root.is_dict()) return no_such_keys("no dict");
  if (root.find(kMapKey)) {
    return located(sglang_map(numbers_at(file, root, kMapKey)), std::string(kMapKey) + " ");
  }
  for (const char* key : kCountKeys) {
    const auto value = root.find(key);
    if (!value) continue;
    if (!value->as_tensor()) return corrupt_file(std::string(key) + " is no tensor");
    return located(counts_of_tensor(file, *value->as_tensor(), options), std::string(key) + " ");
  }
  if (root.find("records")) return located(counts_of_records(std::move(file), path, options));
  return no_such_keys(root.keys());
}

Result<ExpertLocation> parse_location_json(std::string_view text, bool only_total) {
  Result<json> document = parse_json(text);
  if (!document.ok()) return at("it ", document.error());
  if (document->is_array()) return located(parse_vllm_map(*document), "it ");
  if (!document->is_object()) return no_such_keys("no JSON object");
  return location_of_object(std::move(*document), only_total);
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

namespace {

// The rows of the map that have an id below num_layers, in their places; the rest is trivial.
Result<Placement> placed_by_id(const ExpertMap& map, const Placement& as_rows, int num_layers) {
  Result<Placement> all = trivial_placement(num_layers, as_rows.num_logical_experts,
                                            as_rows.num_redundant_experts(), as_rows.num_ranks);
  if (!all.ok()) return all;
  return with_layers(std::move(*all), as_rows, map.layer_ids);
}

}  // namespace

Result<Placement> make_placement(const ExpertMap& map,
                                 int num_layers,
                                 int num_logical_experts,
                                 int num_ranks) {
  if (map.num_ranks > 0 && map.num_ranks != num_ranks) {
    return invalid_argument("the placement is for " + std::to_string(map.num_ranks) +
                            " devices, but the EP size is " + std::to_string(num_ranks) +
                            "; give --ep-size " + std::to_string(map.num_ranks) +
                            " or another placement");
  }
  Placement placement{map.num_layers, num_logical_experts, map.num_physical_experts, num_ranks,
                      map.physical_to_logical};
  if (Status valid = validate(placement); !valid.ok()) return valid.error();
  if (map.for_all_layers) return select_layers(placement, std::vector<int32_t>(num_layers, 0));
  if (map.num_layers == num_layers) return placement;
  if (!map.layer_ids.empty() && map.layer_ids.back() < num_layers) {
    return placed_by_id(map, placement, num_layers);
  }
  return invalid_argument("the placement has " + std::to_string(map.num_layers) +
                          " layers, but the model has " + std::to_string(num_layers) +
                          "; give one that was planned for this model");
}

}  // namespace plimsoll
