// What the expert distribution recorder saw, and the .pt files it is kept in.
//
// The files are SGLang's (sglang/srt/eplb/expert_distribution.py), keys and shapes alike, so that
// either program reads the other's; torch.load(weights_only=True) opens ours. One key more,
// `plimsoll`, holds a RecordingInfo: what SGLang's files do not say.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "plimsoll/placement.h"
#include "plimsoll/result.h"

namespace plimsoll {

enum class RecorderMode {
  kStat,      // counts of all ranks together, one [layers, experts] per pass
  kPerPass,   // likewise, but a file for each rank
  kPerToken,  // and besides, which experts each token chose
};

// Numbered as in SGLang's files.
enum class ForwardMode { kExtend = 1, kDecode = 2, kMixed = 3, kIdle = 4 };

// One forward pass: of all ranks together in kStat, else of one rank.
struct RecordedPass {
  int64_t forward_pass_id = 0;
  int64_t num_tokens = 0;       // -1 where the file does not say
  std::vector<int32_t> counts;  // [num_layers, num_logical_experts]: tokens that chose the expert

  // kPerToken only
  ForwardMode forward_mode = ForwardMode::kExtend;
  std::vector<int32_t> input_ids;        // [num_tokens]
  std::vector<int32_t> positions;        // [num_tokens]
  std::vector<int32_t> extend_seq_lens;  // tokens of each sequence; empty where all decode
  std::vector<int32_t> topk_ids;         // [num_layers, num_tokens, top_k], logical; -1: none
};

// What Plimsoll adds to a file, so that a later run can tell whether the file fits.
struct RecordingInfo {
  std::string version;     // of Plimsoll
  std::string model_type;  // as in the model's config.json
  int top_k = 0;
  std::string eplb_algorithm;
  Placement placement;     // in force when the recording was written
  int64_t num_tokens = 0;  // of the recorded passes, all ranks together
  double start_time = 0;   // seconds since 1970, UTC
  double end_time = 0;
};

// The content of one file.
struct Recording {
  RecorderMode mode = RecorderMode::kStat;
  int rank = 0;  // of a kPerPass or kPerToken file
  int num_layers = 0;
  int num_logical_experts = 0;
  int top_k = 0;  // columns of topk_ids; kPerToken only
  std::vector<RecordedPass> passes;
  // Mean over passes and layers of (mean / max) routed tokens per rank, where it was measured.
  std::optional<double> average_utilization_rate;
  std::optional<RecordingInfo> info;  // none in a file of SGLang's
};

// How recordings are read.
struct LoadOptions {
  // Take what is there where the files of some ranks, or passes of some files, are missing.
  bool allow_missing_ranks = false;
  // Add up the steps instead of keeping them: as much memory as one step takes.
  bool only_total = false;
  // Told how many of how many passes were read.
  std::function<void(int64_t done, int64_t total)> progress;
};

// "expert_distribution_recorder_1780000000.123.pt", or "..._<rank>.pt" but for kStat.
std::string recording_file_name(const Recording& recording, double unix_time);

// Fails on a file that is no recording (the error lists the keys it has), on one whose shapes
// contradict each other, and on any Python object but tensors and plain values; nothing in a file
// is executed, and memory stays within a small multiple of the file's size.
//
// Physical ids are turned into logical ones by the file's last_physical_to_logical_map. Passes that
// SGLang's ring buffer never filled stand at the end, all zero, and are dropped.
Result<Recording> read_recording(const std::string& path);

// Records of kPerPass and kPerToken are written by logical id, under the identity as
// last_physical_to_logical_map: they stay true when the placement changes while recording.
Status write_recording(const Recording& recording, const std::string& path);

// Counts as a recording of the mode kStat, a step a pass. Fails on counts above 2^31 - 1.
Result<Recording> make_recording(const LoadHistory& history);

// Counts by pass. Files of several ranks are added up by forward_pass_id; passes are in that order.
// Fails where their layers or experts differ, or a rank stands twice.
Result<LoadHistory> load_history(std::span<const Recording> recordings);

}  // namespace plimsoll
