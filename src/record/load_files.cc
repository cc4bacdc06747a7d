// The files of plan, replay and inspect: more formats than --init-expert-location takes.
#include <algorithm>
#include <filesystem>
#include <string>

#include "plimsoll/expert_location.h"
#include "plimsoll/trace.h"
#include "record/counts.h"
#include "record/file_io.h"
#include "record/json_text.h"
#include "record/npy.h"
#include "record/trace_parts.h"
#include "record/trtllm_yaml.h"

namespace plimsoll {
namespace {

namespace fs = std::filesystem;

Error at(const std::string& path, const Error& error) {
  return {error.code, path + ": " + error.message};
}

bool is_trace(const std::string& path) {
  const fs::path file(path);
  std::error_code error;
  return file.extension() == ".u8" || (file.extension() == ".json" &&
                                       fs::exists(fs::path(path).replace_extension(".u8"), error));
}

Result<LoadedCounts> load_trace_counts(const std::string& path) {
  const Result<ExpertTrace> trace = load_trace(path);
  if (!trace.ok()) return trace.error();
  Result<LoadHistory> history = counts_of_trace(*trace);
  if (!history.ok()) return at(path, history.error());
  return LoadedCounts{
      std::move(*history),
      {},
      {"the trace was cut into steps of " + std::to_string(kStepTokens) + " tokens"}};
}

Result<NumberArray> load_npy(const std::string& path) {
  const auto bytes = read_file(path);
  if (!bytes.ok()) return bytes.error();
  return parse_npy(*bytes);
}

Result<ExpertMap> load_yaml(const std::string& path) {
  const auto bytes = read_file(path);
  if (!bytes.ok()) return bytes.error();
  return parse_trtllm_yaml({reinterpret_cast<const char*>(bytes->data()), bytes->size()});
}

Result<ExpertLocation> load_location(const std::string& path) {
  const auto bytes = read_file(path);
  if (!bytes.ok()) return bytes.error();
  return parse_expert_location(*bytes, path);
}

Result<LoadedCounts> parse_counts(const std::string& path) {
  if (path.ends_with(".npy")) {
    const Result<NumberArray> numbers = load_npy(path);
    return numbers.ok() ? counts_of(*numbers) : numbers.error();
  }
  Result<ExpertLocation> location = load_location(path);
  if (!location.ok()) return location.error();
  auto* counts = std::get_if<LoadedCounts>(&*location);
  if (counts) return std::move(*counts);
  return invalid_argument("holds a placement; expected recorded counts (logical_count or records)");
}

Result<ExpertMap> parse_map(const std::string& path) {
  if (path.ends_with(".yaml") || path.ends_with(".yml")) return load_yaml(path);
  if (path.ends_with(".npy")) {
    const Result<NumberArray> numbers = load_npy(path);
    return numbers.ok() ? map_of(*numbers) : numbers.error();
  }
  Result<ExpertLocation> location = load_location(path);
  if (!location.ok()) return location.error();
  auto* map = std::get_if<ExpertMap>(&*location);
  if (map) return std::move(*map);
  return invalid_argument(
      "holds recorded counts; expected a placement (physical_to_logical_map): make one with "
      "plimsoll plan");
}

}  // namespace

Result<LoadedCounts> load_expert_counts(const std::string& path) {
  if (is_trace(path)) return load_trace_counts(path);
  Result<LoadedCounts> counts = parse_counts(path);
  if (!counts.ok()) return at(path, counts.error());
  return counts;
}

Result<LoadedCounts> load_expert_counts(const std::vector<std::string>& paths) {
  if (paths.size() == 1) return load_expert_counts(paths.front());
  std::vector<Recording> recordings;
  for (const std::string& path : paths) {
    Result<Recording> recording = read_recording(path);
    if (!recording.ok()) return recording.error();
    recordings.push_back(std::move(*recording));
  }
  Result<LoadHistory> history = load_history(recordings);
  if (!history.ok()) return history.error();
  return LoadedCounts{std::move(*history), std::move(recordings.front().info), {}};
}

Result<ExpertMap> load_expert_map(const std::string& path) {
  Result<ExpertMap> map = parse_map(path);
  if (!map.ok()) return at(path, map.error());
  return map;
}

}  // namespace plimsoll
