#include "record/recorder.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace plimsoll {
namespace {

// Mean over layers of mean / max tokens per rank. The small addend makes a layer nobody used count
// as level, as it does in SGLang.
double utilization_rate(std::span<const int64_t> rank_load, int num_layers) {
  if (rank_load.empty()) return std::numeric_limits<double>::quiet_NaN();
  constexpr double kSmall = 1e-5;
  const size_t num_ranks = rank_load.size() / num_layers;
  double sum = 0;
  for (int l = 0; l < num_layers; ++l) {
    const auto layer = rank_load.subspan(l * num_ranks, num_ranks);
    int64_t total = 0;
    for (const int64_t load : layer) total += load;
    const double mean = static_cast<double>(total) / static_cast<double>(num_ranks);
    sum += (mean + kSmall) / (static_cast<double>(*std::ranges::max_element(layer)) + kSmall);
  }
  return sum / num_layers;
}

std::optional<double> mean_of_measured(const std::deque<double>& rates) {
  double sum = 0;
  int count = 0;
  for (const double rate : rates) {
    if (std::isnan(rate)) continue;
    sum += rate;
    ++count;
  }
  return count > 0 ? std::optional(sum / count) : std::nullopt;
}

// Ready for the next pass, memory kept.
void clear(RecordedPass& pass) {
  pass.num_tokens = 0;
  pass.counts.clear();
  pass.input_ids.clear();
  pass.positions.clear();
  pass.extend_seq_lens.clear();
  pass.topk_ids.clear();
}

}  // namespace

Status validate(const RecorderOptions& options) {
  if (options.buffer_size > 0 || options.buffer_size == -1) return ok_status();
  return invalid_argument("a recorder cannot keep " + std::to_string(options.buffer_size) +
                          " passes; give --expert-distribution-recorder-buffer-size at least 1, or "
                          "-1 to keep all");
}

Result<RecorderMode> parse_recorder_mode(const std::string& name) {
  if (name == "stat") return RecorderMode::kStat;
  if (name == "per_pass") return RecorderMode::kPerPass;
  if (name == "per_token") return RecorderMode::kPerToken;
  return invalid_argument("there is no recorder mode '" + name +
                          "'; choose stat, per_pass or per_token");
}

void RankRecorder::begin_pass(const PassTokens& tokens) {
  if (!recording_) return;
  pass_.num_tokens = static_cast<int64_t>(tokens.input_ids.size());
  pass_.counts.assign(static_cast<size_t>(options_.num_layers) * options_.num_logical_experts, 0);
  if (options_.mode != RecorderMode::kPerToken) return;
  pass_.input_ids.assign(tokens.input_ids.begin(), tokens.input_ids.end());
  pass_.positions.assign(tokens.positions.begin(), tokens.positions.end());
  pass_.extend_seq_lens.assign(tokens.extend_seq_lens.begin(), tokens.extend_seq_lens.end());
  pass_.topk_ids.assign(options_.num_layers * tokens.input_ids.size() * options_.top_k, -1);
}

void RankRecorder::record_layer(int layer_idx, std::span<const int32_t> topk_ids) {
  if (!recording_ || pass_.counts.empty()) return;
  int32_t* counts =
      pass_.counts.data() + static_cast<size_t>(layer_idx) * options_.num_logical_experts;
  for (const int32_t expert : topk_ids) {
    if (expert >= 0) ++counts[expert];
  }
  if (options_.mode != RecorderMode::kPerToken) return;
  std::ranges::copy(topk_ids,
                    pass_.topk_ids.begin() + layer_idx * pass_.num_tokens * options_.top_k);
}

Recorder::Recorder(const RecorderOptions& options)
    : options_(options),
      ranks_(options.num_ranks, RankRecorder(options)),
      passes_(options.mode == RecorderMode::kStat ? 1 : options.num_ranks) {}

void Recorder::start(double unix_time) {
  for (auto& passes : passes_) passes.clear();
  utilization_rates_.clear();
  next_pass_id_ = 0;
  start_time_ = end_time_ = unix_time;
  recording_ = true;
  for (RankRecorder& rank : ranks_) rank.recording_ = true;
}

void Recorder::stop(double unix_time) {
  if (recording_) end_time_ = unix_time;
  recording_ = false;
  for (RankRecorder& rank : ranks_) rank.recording_ = false;
}

void Recorder::end_pass(ForwardMode mode, std::span<const int64_t> rank_load) {
  if (!recording_) return;
  int64_t num_tokens = 0;
  for (const RankRecorder& rank : ranks_) num_tokens += rank.pass_.num_tokens;
  if (num_tokens == 0) return;

  const size_t pass_size = static_cast<size_t>(options_.num_layers) * options_.num_logical_experts;
  for (RankRecorder& rank : ranks_) rank.pass_.counts.resize(pass_size);
  if (options_.mode == RecorderMode::kStat) {
    RecordedPass& sum = ranks_.front().pass_;
    for (size_t r = 1; r < ranks_.size(); ++r) {
      for (size_t i = 0; i < pass_size; ++i) sum.counts[i] += ranks_[r].pass_.counts[i];
    }
    sum.num_tokens = num_tokens;
  }
  for (size_t i = 0; i < passes_.size(); ++i) {
    ranks_[i].pass_.forward_pass_id = next_pass_id_;
    ranks_[i].pass_.forward_mode = mode;
    keep(static_cast<int>(i), ranks_[i].pass_);
  }
  drop_pass();
  ++next_pass_id_;
  utilization_rates_.push_back(utilization_rate(rank_load, options_.num_layers));
  if (utilization_rates_.size() > passes_.front().size()) utilization_rates_.pop_front();
}

void Recorder::drop_pass() {
  for (RankRecorder& rank : ranks_) clear(rank.pass_);
}

// A full buffer gives its oldest pass's memory to the next pass of the rank.
void Recorder::keep(int buffer_idx, RecordedPass& pass) {
  std::deque<RecordedPass>& passes = passes_[buffer_idx];
  RecordedPass reused;
  if (options_.buffer_size > 0 && std::ssize(passes) == options_.buffer_size) {
    reused = std::move(passes.front());
    passes.pop_front();
  }
  passes.push_back(std::move(pass));
  pass = std::move(reused);
}

LoadHistory Recorder::history() const {
  LoadHistory history{
      static_cast<int>(num_passes()), options_.num_layers, options_.num_logical_experts, {}};
  const size_t pass_size = static_cast<size_t>(options_.num_layers) * options_.num_logical_experts;
  history.counts.resize(pass_size * passes_.front().size());
  for (const auto& passes : passes_) {
    for (size_t p = 0; p < passes.size(); ++p) {
      const std::vector<int32_t>& counts = passes[p].counts;
      for (size_t i = 0; i < counts.size(); ++i) history.counts[p * pass_size + i] += counts[i];
    }
  }
  return history;
}

std::vector<Recording> Recorder::recordings(RecordingInfo info, double unix_time) const {
  info.version = PLIMSOLL_VERSION;
  info.top_k = options_.top_k;
  info.start_time = start_time_;
  info.end_time = recording_ ? unix_time : end_time_;
  info.num_tokens = 0;
  for (const auto& passes : passes_) {
    for (const RecordedPass& pass : passes) info.num_tokens += pass.num_tokens;
  }
  std::vector<Recording> recordings;
  for (size_t r = 0; r < passes_.size(); ++r) {
    Recording recording;
    recording.mode = options_.mode;
    recording.rank = static_cast<int>(r);
    recording.num_layers = options_.num_layers;
    recording.num_logical_experts = options_.num_logical_experts;
    if (options_.mode == RecorderMode::kPerToken) recording.top_k = options_.top_k;
    recording.passes.assign(passes_[r].begin(), passes_[r].end());
    recording.average_utilization_rate = mean_of_measured(utilization_rates_);
    recording.info = info;
    recordings.push_back(std::move(recording));
  }
  return recordings;
}

}  // namespace plimsoll
