// Files of recorded load and of placements, whatever their format.
#include <glob.h>

#include <algorithm>
#include <filesystem>
#include <string>

#include "plimsoll/expert_location.h"
#include "plimsoll/trace.h"
#include "record/counts.h"
#include "record/formats/file_io.h"
#include "record/formats/npy.h"
#include "record/rank_files.h"
#include "record/trace_parts.h"
#include "record/trtllm_yaml.h"

namespace plimsoll {
namespace {

namespace fs = std::filesystem;

Error at(const std::string& path, const Error& error) {
  return {error.code, path + ": " + error.message};
}

bool is_trace_file(const std::string& path) {
  const fs::path file(path);
  std::error_code error;
  return file.extension() == ".u8" || (file.extension() == ".json" &&
                                       fs::exists(fs::path(path).replace_extension(".u8"), error));
}

bool has_known_ending(const std::string& path) {
  constexpr const char* kEndings[] = {".pt", ".json", ".npy", ".u8", ".yaml", ".yml"};
  return std::ranges::any_of(kEndings, [&](const char* ending) { return path.ends_with(ending); });
}

Result<ExpertLocation> load_trace_file(const std::string& path) {
  const Result<ExpertTrace> trace = load_trace(path);
  if (!trace.ok()) return trace.error();
  Result<LoadedCounts> counts = counts_of_trace_file(*trace);
  if (!counts.ok()) return at(path, counts.error());
  return ExpertLocation(std::move(*counts));
}

Result<ExpertLocation> parse_file(const std::string& path, const LoadOptions& options) {
  if (path.ends_with(".pt")) {
    Result<PtFile> file = open_pt(path);
    return file.ok() ? location_of(std::move(*file), path, options) : file.error();
  }
  const auto bytes = read_file(path);
  if (!bytes.ok()) return bytes.error();
  if (path.ends_with(".npy")) {
    const Result<NumberArray> numbers = parse_npy(*bytes);
    return numbers.ok() ? location_of_numbers(*numbers, options.only_total) : numbers.error();
  }
  const std::string_view text(reinterpret_cast<const char*>(bytes->data()), bytes->size());
  if (path.ends_with(".json")) return parse_location_json(text, options.only_total);
  Result<ExpertMap> map = parse_trtllm_yaml(text);
  if (!map.ok()) return map.error();
  return ExpertLocation(std::move(*map));
}

Result<ExpertLocation> load_file(const std::string& path, const LoadOptions& options) {
  if (is_trace_file(path)) return load_trace_file(path);
  if (!has_known_ending(path)) {
    return invalid_argument("cannot tell the format of " + path +
                            "; expected a recording or placement (.pt, .json, .npy, .yaml) or a "
                            "trace (.u8)");
  }
  Result<ExpertLocation> location = parse_file(path, options);
  // What cannot be opened names its path already.
  if (!location.ok() && location.error().code != ErrorCode::kIo) {
    return at(path, location.error());
  }
  return location;
}

Result<LoadedCounts> load_one(const std::string& path, const LoadOptions& options) {
  Result<ExpertLocation> location = load_file(path, options);
  if (!location.ok()) return location.error();
  if (auto* counts = std::get_if<LoadedCounts>(&*location)) return std::move(*counts);
  return invalid_argument(path + ": holds a placement; expected recorded counts");
}

void add_notes(std::vector<std::string> notes, LoadedCounts& counts) {
  for (std::string& note : notes) {
    if (std::ranges::find(counts.notes, note) == counts.notes.end()) {
      counts.notes.push_back(std::move(note));
    }
  }
}

// The steps of each file follow those of the one before.
Result<LoadedCounts> join_steps(const std::vector<std::string>& paths, const LoadOptions& options) {
  LoadedCounts all;
  for (const std::string& path : paths) {
    Result<LoadedCounts> counts = load_one(path, options);
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
    all.num_steps += counts->num_steps;
    history.num_steps += more.num_steps;
    history.counts.insert(history.counts.end(), more.counts.begin(), more.counts.end());
    add_notes(std::move(counts->notes), all);
  }
  return all;
}

// How many of the files are of the modes per_pass and per_token, of which each is a rank's.
Result<size_t> num_rank_files(const std::vector<std::string>& paths) {
  size_t num = 0;
  for (const std::string& path : paths) {
    if (!path.ends_with(".pt")) continue;
    const Result<PtFile> file = open_pt(path);
    if (!file.ok()) return at(path, file.error());
    num += file->root().find("records").has_value();
  }
  return num;
}

bool is_pattern(const std::string& path) {
  std::error_code error;
  return path.find_first_of("*?[") != path.npos && !fs::exists(path, error);
}

Error several_recordings(const std::string& pattern, const std::vector<std::string>& paths) {
  std::string found;
  for (const std::string& path : paths) {
    const auto time = time_in_name(path);
    found += (found.empty() ? "" : ", ") + path + (time ? " (" + utc_text(*time) + ")" : "");
  }
  return invalid_argument(pattern + " matches " + std::to_string(paths.size()) +
                          " recordings: " + found + "; give the newest, " + paths.back() +
                          ", or, to take all of them, each by its name");
}

}  // namespace

Result<std::vector<std::string>> matching_paths(const std::string& pattern) {
  if (!is_pattern(pattern)) return std::vector<std::string>{pattern};
  glob_t found{};
  const int code = glob(pattern.c_str(), GLOB_TILDE, nullptr, &found);
  std::vector<std::string> paths(found.gl_pathv, found.gl_pathv + (code == 0 ? found.gl_pathc : 0));
  globfree(&found);
  if (paths.empty()) return io_error("no file matches " + pattern);
  std::ranges::stable_sort(paths, {},
                           [](const std::string& path) { return time_in_name(path).value_or(0); });
  return paths;
}

Result<LoadedCounts> load_expert_counts(const std::string& path, const LoadOptions& options) {
  return load_expert_counts(std::vector<std::string>{path}, options);
}

Result<LoadedCounts> load_expert_counts(const std::vector<std::string>& patterns,
                                        const LoadOptions& options) {
  std::vector<std::string> paths, notes;
  for (const std::string& pattern : patterns) {
    const auto matches = matching_paths(pattern);
    if (!matches.ok()) return matches.error();
    const auto num_ranks = num_rank_files(*matches);
    if (!num_ranks.ok()) return num_ranks.error();
    if (matches->size() > 1 && *num_ranks < matches->size()) {
      return several_recordings(pattern, *matches);
    }
    if (is_pattern(pattern)) {
      notes.push_back(pattern + " is " + matches->front() +
                      (matches->size() > 1 ? " and the files of the other ranks" : ""));
    }
    paths.insert(paths.end(), matches->begin(), matches->end());
  }
  if (paths.empty()) return invalid_argument("no recording was given");
  const auto num_ranks = num_rank_files(paths);
  if (!num_ranks.ok()) return num_ranks.error();
  if (*num_ranks > 0 && *num_ranks < paths.size()) {
    return invalid_argument(
        "some of the files are a rank's (per_pass, per_token) and some are of "
        "all ranks; give files of one kind");
  }
  Result<LoadedCounts> counts = Error{};
  if (*num_ranks > 0) {
    const Result<RankFiles> ranks = open_rank_files(paths, options);
    if (!ranks.ok()) return ranks.error();
    counts = count_passes(*ranks, options);
  } else {
    counts = join_steps(paths, options);
  }
  if (counts.ok()) add_notes(std::move(notes), *counts);
  return counts;
}

Result<ExpertLocation> load_expert_location(const std::string& value, const LoadOptions& options) {
  if (value == "trivial") return ExpertLocation(TrivialLocation());
  std::vector<std::string> paths;
  for (size_t begin = 0; begin <= value.size();) {
    const size_t end = std::min(value.find('\n', begin), value.size());
    paths.push_back(value.substr(begin, end - begin));
    begin = end + 1;
  }
  if (std::ranges::all_of(paths, has_known_ending)) {
    const auto matches = matching_paths(paths.front());
    if (!matches.ok()) return matches.error();
    if (paths.size() == 1 && matches->size() == 1) {
      Result<ExpertLocation> location = load_file(matches->front(), options);
      auto* counts = location.ok() ? std::get_if<LoadedCounts>(&*location) : nullptr;
      if (counts && is_pattern(value)) add_notes({value + " is " + matches->front()}, *counts);
      return location;
    }
    Result<LoadedCounts> counts = load_expert_counts(paths, options);
    if (!counts.ok()) return counts.error();
    return ExpertLocation(std::move(*counts));
  }
  Result<ExpertLocation> location = parse_location_json(value, options.only_total);
  if (location.ok()) return location;
  return Error{location.error().code,
               "--init-expert-location is neither trivial nor a path that ends in .pt, .json, "
               ".yaml, .npy or .u8, and read as JSON " +
                   location.error().message};
}

Result<ExpertMap> load_expert_map(const std::string& path) {
  Result<ExpertLocation> location = load_file(path, {.only_total = true});
  if (!location.ok()) return location.error();
  if (auto* map = std::get_if<ExpertMap>(&*location)) return std::move(*map);
  return invalid_argument(path +
                          ": holds recorded counts; expected a placement: make one with plimsoll "
                          "plan");
}

}  // namespace plimsoll
