#include "record/rank_files.h"

#include <algorithm>
#include <charconv>
#include <ctime>
#include <filesystem>
#include <map>
#include <set>

#include "record/counts.h"

namespace plimsoll {
namespace {

// Ranks write their files at the same request, each by its own clock.
constexpr double kSameDumpSeconds = 60;

template <typename Numbers>
std::string list_text(const Numbers& numbers) {
  constexpr size_t kMaxShown = 8;
  std::string text;
  size_t i = 0;
  for (const auto number : numbers) {
    if (i == kMaxShown) return text + ", ... (" + std::to_string(std::size(numbers)) + " in all)";
    text += (i++ ? ", " : "") + std::to_string(number);
  }
  return text;
}

std::optional<double> time_of(const RankFile& rank) {
  const auto named = time_in_name(rank.path);
  if (named || !rank.records.about.info) return named;
  return rank.records.about.info->end_time;
}

Status check_times(const std::vector<RankFile>& files) {
  std::map<double, std::vector<int>> ranks_at;  // by the time of the first of a dump
  std::vector<const RankFile*> sorted;
  for (const RankFile& file : files) {
    if (time_of(file)) sorted.push_back(&file);
  }
  std::ranges::sort(sorted, {}, [](const RankFile* file) { return *time_of(*file); });
  double previous = 0;
  for (const RankFile* file : sorted) {
    const double time = *time_of(*file);
    if (ranks_at.empty() || time - previous > kSameDumpSeconds) ranks_at[time];
    ranks_at.rbegin()->second.push_back(file->records.about.rank);
    previous = time;
  }
  if (ranks_at.size() < 2) return ok_status();
  std::string found;
  for (const auto& [time, ranks] : ranks_at) {
    found += (found.empty() ? "" : "; ") + utc_text(time) + ", rank " + list_text(ranks);
  }
  return invalid_argument("these files are of " + std::to_string(ranks_at.size()) +
                          " recordings (" + found + "); give those of one");
}

Status check_alike(const std::vector<RankFile>& files) {
  const Records& first = files.front().records;
  std::map<int, std::string> path_of;
  for (const RankFile& file : files) {
    const auto& [about, map, pass_ids] = file.records;
    const std::string both = files.front().path + " and " + file.path;
    if (about.num_layers != first.about.num_layers ||
        about.num_logical_experts != first.about.num_logical_experts ||
        (about.mode != first.about.mode && !pass_ids.empty() && !first.pass_ids.empty())) {
      return invalid_argument(
          both + " differ in layers, experts or mode, so they are not of one recording");
    }
    if (map.physical_to_logical != first.map.physical_to_logical) {
      return invalid_argument(both +
                              " were written under different placements, so they are not of one "
                              "recording");
    }
    const auto [known, is_new] = path_of.emplace(about.rank, file.path);
    if (!is_new) {
      return invalid_argument("rank " + std::to_string(about.rank) + " stands twice (" +
                              known->second + " and " + file.path +
                              "); give one file of each rank");
    }
  }
  return ok_status();
}

std::string missing_ranks(const std::vector<RankFile>& files) {
  std::set<int> there;
  int num_ranks = 0;
  for (const RankFile& file : files) {
    const Recording& about = file.records.about;
    there.insert(about.rank);
    num_ranks = std::max(num_ranks, about.rank + 1);
    if (about.info) num_ranks = std::max(num_ranks, about.info->placement.num_ranks);
  }
  std::vector<int> missing;
  for (int r = 0; r < num_ranks; ++r) {
    if (!there.contains(r)) missing.push_back(r);
  }
  if (missing.empty()) return "";
  return "the file of rank " + list_text(missing) + " is missing (found rank " + list_text(there) +
         " of " + std::to_string(num_ranks) + ")";
}

std::string missing_passes(const std::vector<RankFile>& files) {
  std::set<int64_t> all;
  for (const RankFile& file : files) {
    all.insert(file.records.pass_ids.begin(), file.records.pass_ids.end());
  }
  for (const RankFile& file : files) {
    const std::set<int64_t> there(file.records.pass_ids.begin(), file.records.pass_ids.end());
    std::vector<int64_t> missing;
    std::ranges::set_difference(all, there, std::back_inserter(missing));
    if (missing.empty()) continue;
    return file.path + " lacks the forward pass " + list_text(missing) +
           ", which other ranks recorded";
  }
  return "";
}

}  // namespace

Result<RankFiles> check_rank_files(std::vector<RankFile> files, const LoadOptions& options) {
  if (files.empty()) return invalid_argument("no recording was given");
  if (Status times = check_times(files); !times.ok()) return times.error();
  if (Status alike = check_alike(files); !alike.ok()) return alike.error();
  RankFiles ranks{std::move(files), {}};
  for (const std::string& missing : {missing_ranks(ranks.files), missing_passes(ranks.files)}) {
    if (missing.empty()) continue;
    if (!options.allow_missing_ranks) {
      return invalid_argument(missing +
                              "; add it, or take a part of the load for the whole with "
                              "--allow-missing-ranks");
    }
    ranks.notes.push_back(missing + ": the load is a part of the whole");
  }
  return ranks;
}

Result<RankFiles> open_rank_files(const std::vector<std::string>& paths,
                                  const LoadOptions& options) {
  std::vector<RankFile> files;
  for (const std::string& path : paths) {
    Result<PtFile> file = open_pt(path);
    if (!file.ok()) return Error{file.error().code, path + ": " + file.error().message};
    Result<Records> records = read_records_header(*file);
    if (!records.ok()) return Error{records.error().code, path + ": " + records.error().message};
    files.push_back({path, std::move(*file), std::move(*records)});
  }
  return check_rank_files(std::move(files), options);
}

Status each_pass(const RankFiles& ranks,
                 bool with_tokens,
                 const LoadOptions& options,
                 const OnPass& on_pass) {
  std::map<int64_t, std::vector<std::pair<const RankFile*, size_t>>> passes;
  for (const RankFile& rank : ranks.files) {
    for (size_t i = 0; i < rank.records.pass_ids.size(); ++i) {
      passes[rank.records.pass_ids[i]].push_back({&rank, i});
    }
  }
  int64_t num_done = 0;
  std::vector<RecordedPass> parts;
  for (const auto& [id, places] : passes) {
    parts.clear();
    for (const auto& [rank, idx] : places) {
      Result<RecordedPass> part = read_record(rank->file, rank->records, idx, with_tokens);
      if (!part.ok()) return Error{part.error().code, rank->path + ": " + part.error().message};
      parts.push_back(std::move(*part));
    }
    if (Status done = on_pass(id, parts); !done.ok()) return done;
    if (options.progress) options.progress(++num_done, std::ssize(passes));
  }
  return ok_status();
}

Result<LoadedCounts> count_passes(const RankFiles& ranks, const LoadOptions& options) {
  const Recording& about = ranks.files.front().records.about;
  CountsBuilder builder({static_cast<int>(ranks.files.front().records.pass_ids.size()),
                         about.num_layers, about.num_logical_experts},
                        options.only_total);
  std::vector<int64_t> step;
  const auto add = [&](int64_t, std::span<const RecordedPass> parts) {
    step.assign(static_cast<size_t>(about.num_layers) * about.num_logical_experts, 0);
    for (const RecordedPass& part : parts) {
      for (size_t i = 0; i < step.size(); ++i) step[i] += part.counts[i];
    }
    return builder.add(step);
  };
  if (Status read = each_pass(ranks, false, options, add); !read.ok()) return read.error();
  LoadedCounts counts = builder.finish();
  counts.info = about.info;
  counts.format = about.mode == RecorderMode::kPerToken ? "per_token" : "per_pass";
  counts.notes.insert(counts.notes.end(), ranks.notes.begin(), ranks.notes.end());
  return counts;
}

std::optional<double> time_in_name(const std::string& path) {
  constexpr std::string_view kStart = "expert_distribution_recorder_";
  const std::string name = std::filesystem::path(path).filename().string();
  if (!name.starts_with(kStart)) return std::nullopt;
  double time = 0;
  const auto [end, error] =
      std::from_chars(name.data() + kStart.size(), name.data() + name.size(), time);
  constexpr double kYear3000 = 32503680000;
  return error == std::errc() && time >= 0 && time < kYear3000 ? std::optional(time) : std::nullopt;
}

std::string utc_text(double unix_time) {
  const auto seconds = static_cast<time_t>(unix_time);
  std::tm utc{};
  gmtime_r(&seconds, &utc);
  char text[32];
  std::strftime(text, sizeof(text), "%Y-%m-%d %H:%M:%S UTC", &utc);
  return text;
}

}  // namespace plimsoll
