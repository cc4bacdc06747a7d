#include "plimsoll/recording.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <limits>
#include <map>
#include <set>

#include "record/counts.h"
#include "record/formats/file_io.h"
#include "record/formats/pt_writer.h"
#include "record/recorder.h"
#include "record/recording_reader.h"

namespace plimsoll {
namespace {

Result<Recording> stat_recording(const PtFile& file) {
  const PtTensor* tensor = file.root().find("logical_count")->as_tensor();
  if (!tensor) return corrupt_file("logical_count is no tensor");
  const Result<LoadedCounts> counts = read_counts(file, *tensor);
  if (!counts.ok()) return Error{counts.error().code, "logical_count " + counts.error().message};
  Result<std::optional<RecordingInfo>> info = read_info(file);
  if (!info.ok()) return info.error();
  Result<Recording> recording = make_recording(counts->history);
  if (!recording.ok()) return recording;
  recording->average_utilization_rate =
      file.root().find_float("average_utilization_rate_over_window");
  recording->info = std::move(*info);
  return recording;
}

Result<Recording> rank_recording(const PtFile& file) {
  Result<Records> records = read_records_header(file);
  if (!records.ok()) return records.error();
  std::vector<RecordedPass> passes;
  for (size_t i = 0; i < records->pass_ids.size(); ++i) {
    Result<RecordedPass> pass = read_record(file, *records, i, /*with_tokens=*/true);
    if (!pass.ok()) return pass.error();
    passes.push_back(std::move(*pass));
  }
  Recording recording = std::move(records->about);
  recording.passes = std::move(passes);
  return recording;
}

void write_info(const Recording& recording, PtWriter& pt) {
  const RecordingInfo& info = *recording.info;
  const int64_t shape[] = {info.placement.num_layers, info.placement.num_physical_experts};
  const std::vector<int64_t> map(info.placement.physical_to_logical.begin(),
                                 info.placement.physical_to_logical.end());
  const auto text = [&](const char* key, const std::string& value) {
    pt.key(key);
    pt.string(value);
  };
  const auto integer = [&](const char* key, int64_t value) {
    pt.key(key);
    pt.integer(value);
  };
  pt.key("plimsoll");
  pt.begin_dict();
  text("version", info.version);
  text("model_type", info.model_type);
  integer("num_layers", recording.num_layers);
  integer("num_experts", recording.num_logical_experts);
  integer("top_k", info.top_k);
  integer("ep_size", info.placement.num_ranks);
  text("eplb_algorithm", info.eplb_algorithm);
  pt.key("physical_to_logical_map");
  pt.tensor(map, shape);
  integer("num_tokens", info.num_tokens);
  pt.key("start_time");
  pt.real(info.start_time);
  pt.key("end_time");
  pt.real(info.end_time);
  pt.end_dict();
}

void write_stat(const Recording& recording, PtWriter& pt) {
  std::vector<int32_t> counts;
  for (const RecordedPass& pass : recording.passes) {
    counts.insert(counts.end(), pass.counts.begin(), pass.counts.end());
  }
  const int64_t shape[] = {std::ssize(recording.passes), recording.num_layers,
                           recording.num_logical_experts};
  pt.key("rank");
  pt.integer(recording.rank);
  pt.key("logical_count");
  pt.tensor(counts, shape);
  pt.key("average_utilization_rate_over_window");
  if (recording.average_utilization_rate) {
    pt.real(*recording.average_utilization_rate);
  } else {
    pt.none();
  }
}

// SGLang gives every token room for this many experts.
constexpr int kSglangTopK = 8;

void write_token_keys(const Recording& recording, const RecordedPass& pass, PtWriter& pt) {
  pt.key("input_ids");
  pt.integers(pass.input_ids);
  pt.key("positions");
  pt.integers(pass.positions);
  pt.key("extend_seq_lens");
  if (pass.extend_seq_lens.empty()) {
    pt.none();
  } else {
    pt.integers(pass.extend_seq_lens);
  }
  pt.key("forward_mode");
  pt.integer(static_cast<int64_t>(pass.forward_mode));

  const int width = std::max(recording.top_k, kSglangTopK);
  const int64_t shape[] = {recording.num_layers, pass.num_tokens, width};
  std::vector<int32_t> padded(recording.num_layers * pass.num_tokens * width, -1);
  for (int64_t row = 0; row < recording.num_layers * pass.num_tokens; ++row) {
    std::copy_n(pass.topk_ids.begin() + row * recording.top_k, recording.top_k,
                padded.begin() + row * width);
  }
  pt.key("topk_ids_of_layer");
  pt.tensor(padded, shape);
  pt.key("misc_objects");
  pt.begin_list();
  pt.end_list();
}

void write_records(const Recording& recording, PtWriter& pt) {
  const int64_t shape[] = {recording.num_layers, recording.num_logical_experts};
  pt.key("records");
  pt.begin_list();
  for (const RecordedPass& pass : recording.passes) {
    pt.begin_dict();
    pt.key("forward_pass_id");
    pt.integer(pass.forward_pass_id);
    pt.key("rank");
    pt.integer(recording.rank);
    pt.key("gatherer_key");
    pt.string("primary");
    pt.key("global_physical_count");
    pt.tensor(pass.counts, shape);
    if (recording.mode == RecorderMode::kPerToken) write_token_keys(recording, pass, pt);
    pt.end_dict();
  }
  pt.end_list();

  std::vector<int64_t> identity(shape[0] * shape[1]);
  for (size_t i = 0; i < identity.size(); ++i) identity[i] = static_cast<int64_t>(i) % shape[1];
  pt.key("last_physical_to_logical_map");
  pt.tensor(identity, shape);
}

// Fails on no recordings at all, on recordings that cannot be of one run, and where a rank stands
// twice.
Status check_same_run(std::span<const Recording> recordings) {
  if (recordings.empty()) return invalid_argument("no recording was given");
  std::set<int> ranks;
  for (const Recording& r : recordings) {
    const Recording& first = recordings.front();
    if (r.num_layers != first.num_layers || r.num_logical_experts != first.num_logical_experts ||
        (r.mode == RecorderMode::kStat) != (first.mode == RecorderMode::kStat)) {
      return invalid_argument(
          "the recordings differ in layers, experts or mode, so they are not of one run");
    }
    if (r.mode != RecorderMode::kStat && !ranks.insert(r.rank).second) {
      return invalid_argument("rank " + std::to_string(r.rank) +
                              " stands twice among the recordings; give one file of each rank");
    }
  }
  return ok_status();
}

}  // namespace

std::string recording_file_name(const Recording& recording, double unix_time) {
  char time[32];
  std::snprintf(time, sizeof(time), "%.6f", unix_time);
  std::string name = "expert_distribution_recorder_" + std::string(time);
  while (name.back() == '0' && name[name.size() - 2] != '.') name.pop_back();
  if (recording.mode != RecorderMode::kStat) name += "_" + std::to_string(recording.rank);
  return name + ".pt";
}

Result<Recording> read_recording(const std::string& path) {
  const Result<PtFile> file = open_pt(path);
  if (!file.ok()) return Error{file.error().code, path + ": " + file.error().message};
  Result<Recording> recording = parse_recording(*file);
  if (!recording.ok()) {
    return Error{recording.error().code, path + ": " + recording.error().message};
  }
  return recording;
}

Result<Recording> parse_recording(const PtFile& file) {
  if (file.root().find("logical_count")) return stat_recording(file);
  if (file.root().find("records")) return rank_recording(file);
  return invalid_argument("it is no recording; expected the key logical_count or records, found " +
                          (file.root().is_dict() ? file.root().keys() : "no dict"));
}

Status write_recording(const Recording& recording, const std::string& path) {
  PtWriter pt;
  pt.begin_dict();
  if (recording.mode == RecorderMode::kStat) {
    write_stat(recording, pt);
  } else {
    write_records(recording, pt);
  }
  if (recording.info) write_info(recording, pt);
  pt.end_dict();
  const auto bytes = pt.finish();
  if (!bytes.ok()) return bytes.error();
  return write_file(path, *bytes);
}

Result<Recording> make_recording(const LoadHistory& history) {
  const size_t pass_size = static_cast<size_t>(history.num_layers) * history.num_logical_experts;
  if (history.num_layers < 1 || history.num_logical_experts < 1 || history.num_steps < 0 ||
      history.counts.size() != pass_size * history.num_steps) {
    return invalid_argument("the load's counts are not steps x layers x experts");
  }
  Recording recording;
  recording.num_layers = history.num_layers;
  recording.num_logical_experts = history.num_logical_experts;
  for (int step = 0; step < history.num_steps; ++step) {
    const auto counts = std::span(history.counts).subspan(step * pass_size, pass_size);
    if (std::ranges::max(counts) > std::numeric_limits<int32_t>::max()) {
      return unsupported("the counts of step " + std::to_string(step) +
                         " exceed the 32 bits of a recording");
    }
    RecordedPass pass;
    pass.forward_pass_id = step;
    pass.num_tokens = -1;
    pass.counts.assign(counts.begin(), counts.end());
    recording.passes.push_back(std::move(pass));
  }
  return recording;
}

Result<LoadHistory> load_history(std::span<const Recording> recordings) {
  if (Status same = check_same_run(recordings); !same.ok()) return same.error();
  std::map<int64_t, std::vector<const RecordedPass*>> passes;
  int64_t next_id = 0;  // recordings of all ranks together follow each other
  for (const Recording& recording : recordings) {
    for (const RecordedPass& pass : recording.passes) {
      const bool stat = recording.mode == RecorderMode::kStat;
      passes[stat ? next_id++ : pass.forward_pass_id].push_back(&pass);
    }
  }
  LoadHistory history{static_cast<int>(passes.size()),
                      recordings.front().num_layers,
                      recordings.front().num_logical_experts,
                      {}};
  const size_t pass_size = static_cast<size_t>(history.num_layers) * history.num_logical_experts;
  history.counts.assign(passes.size() * pass_size, 0);
  int64_t* step = history.counts.data();
  for (const auto& [id, parts] : passes) {
    for (const RecordedPass* part : parts) {
      for (size_t i = 0; i < pass_size; ++i) step[i] += part->counts[i];
    }
    step += pass_size;
  }
  return history;
}

Result<std::vector<std::string>> save_recordings(std::span<const Recording> recordings,
                                                 const std::string& folder,
                                                 double unix_time) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) return io_error("cannot make the folder " + folder + ": " + error.message());
  std::vector<std::string> paths;
  for (const Recording& recording : recordings) {
    paths.push_back(
        (std::filesystem::path(folder) / recording_file_name(recording, unix_time)).string());
    const Status written = write_recording(recording, paths.back());
    if (!written.ok()) return written.error();
  }
  return paths;
}

}  // namespace plimsoll
