// The files of plan, replay and inspect: more formats than --init-expert-location takes.
#include <algorithm>
#include <filesystem>
#include <string>

#include "plimsoll/expert_location.h"
#include "plimsoll/trace.h"
#include "record/counts.h"
#include "record/formats/file_io.h"
#include "record/formats/json_text.h"
#include "record/formats/npy.h"
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

bool is_yaml(const std::string& path) {
  return path.ends_with(".yaml") || path.ends_with(".yml");
}

Result<LoadedCounts> parse_counts(const std::string& path) {
  if (is_yaml(path)) return invalid_argument("is a placement; expected recorded counts");
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
  if (is_yaml(path)) return load_yaml(path);
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

// The files of the ranks of a recorder, or of several recordings.
Result<LoadedCounts> join_recordings(const std::vector<std::string>& paths) {
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

// Files that know of no ranks: the steps of each follow those of the one before.
Result<LoadedCounts> join_steps(const std::vector<std::string>& paths) {
  LoadedCounts all;
  for (const std::string& path : paths) {
    if (path.ends_with(".pt")) {
      return invalid_argument(path +
                              " is a recording, and the others are not: give files of one "
                              "kind");
    }
    Result<LoadedCounts> counts = load_expert_counts(path);
    if (!counts.ok()) return counts.error();
    LoadHistory& history = all.history;
    const LoadHistory& more = counts->history;
    if (history.num_layers == 0) {
      all = std::move(*counts);
      continue;
    }
    if (more.num_layers != history.num_layers ||
        more.num_logical_experts != history.num_logical_experts) {
      return invalid_argument(path + " has " + std::to_string(more.num_layers) + " layers of " +
                              std::to_string(more.num_logical_experts) + " experts, but " +
                              paths.front() + " has " + std::to_string(history.num_layers) +
                              " of " + std::to_string(history.num_logical_experts));
    }
    history.num_steps += more.num_steps;
    history.counts.insert(history.counts.end(), more.counts.begin(), more.counts.end());
    for (std::string& note : counts->notes) {
      if (std::ranges::find(all.notes, note) == all.notes.end()) all.notes.push_back(note);
    }
  }
  return all;
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
  const bool are_recordings =
      std::ranges::all_of(paths, [](const std::string& path) { return path.ends_with(".pt"); });
  return are_recordings ? join_recordings(paths) : join_steps(paths);
}

Result<ExpertMap> load_expert_map(const std::string& path) {
  Result<ExpertMap> map = parse_map(path);
  if (!map.ok()) return at(path, map.error());
  return map;
}

}  // namespace plimsoll
