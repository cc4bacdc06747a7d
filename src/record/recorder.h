// Counts, while the ranks step, how many tokens chose each logical expert of each layer; whatever
// the placement, the dispatch mode or the routing, for it is fed with what the gate chose.
//
// Every rank writes to its own RankRecorder, without locks; between steps one thread calls the
// rest. While nothing is being recorded every call returns at once.
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "plimsoll/recording.h"

namespace plimsoll {

struct RecorderOptions {
  RecorderMode mode = RecorderMode::kStat;
  int64_t buffer_size = 1000;  // the last passes that are kept; -1: all
  int num_ranks = 1;
  int num_layers = 0;
  int num_logical_experts = 0;
  int top_k = 0;
};

// Fails on a buffer of no passes, listing what is allowed.
Status validate(const RecorderOptions& options);

// "stat", "per_pass" or "per_token"; anything else fails, listing these.
Result<RecorderMode> parse_recorder_mode(const std::string& name);

// A rank's tokens in one pass, in the order of the rows that the gate sees.
struct PassTokens {
  std::span<const int32_t> input_ids;        // [num_tokens]
  std::span<const int32_t> positions;        // [num_tokens]; read by kPerToken only
  std::span<const int32_t> extend_seq_lens;  // tokens of each sequence; empty where all decode
};

class RankRecorder {
 public:
  explicit RankRecorder(const RecorderOptions& options) : options_(options) {}

  void begin_pass(const PassTokens& tokens);
  // topk_ids: [num_tokens, top_k], logical; -1: none.
  void record_layer(int layer_idx, std::span<const int32_t> topk_ids);

  // For a rank in another process: there Recorder::start and stop are not called, and its pass is
  // carried here before Recorder::end_pass.
  void set_recording(bool recording) { recording_ = recording; }
  RecordedPass& pass() { return pass_; }

 private:
  friend class Recorder;
  RecorderOptions options_;
  bool recording_ = false;
  RecordedPass pass_;
};

class Recorder {
 public:
  // The options must be valid.
  explicit Recorder(const RecorderOptions& options);

  RankRecorder& rank(int rank_idx) { return ranks_[rank_idx]; }
  const RecorderOptions& options() const { return options_; }
  bool recording() const { return recording_; }
  int64_t num_passes() const { return static_cast<int64_t>(passes_.front().size()); }

  // Forgets what was recorded before.
  void start(double unix_time);
  void stop(double unix_time);

  // After every rank has run its last layer. rank_load: routed tokens of each rank, [num_layers,
  // num_ranks]; empty where nobody measured it. Passes without any token are not kept.
  void end_pass(ForwardMode mode, std::span<const int64_t> rank_load = {});

  // Instead of end_pass, of a pass that failed.
  void drop_pass();

  // The counts so far, all ranks together, oldest pass first.
  LoadHistory history() const;

  // One recording (kStat) or one a rank. `info` needs model_type, eplb_algorithm and placement; the
  // recorder fills in the rest. unix_time ends a recording that still runs.
  std::vector<Recording> recordings(RecordingInfo info, double unix_time) const;

 private:
  void keep(int buffer_idx, RecordedPass& pass);

  RecorderOptions options_;
  std::vector<RankRecorder> ranks_;
  bool recording_ = false;
  double start_time_ = 0;
  double end_time_ = 0;
  int64_t next_pass_id_ = 0;
  std::vector<std::deque<RecordedPass>> passes_;  // [1] for kStat, else [num_ranks]
  std::deque<double> utilization_rates_;          // of the passes kept; NaN: not measured
};

// Writes each recording to `folder` (made where missing) under its recording_file_name, and returns
// the paths.
Result<std::vector<std::string>> save_recordings(std::span<const Recording> recordings,
                                                 const std::string& folder,
                                                 double unix_time);

}  // namespace plimsoll
