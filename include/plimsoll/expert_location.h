// Where experts start out (`--init-expert-location`), and the counts and placements that say so.
//
// Keys and their order are SGLang's (sglang/srt/eplb/expert_location.py): physical_to_logical_map
// makes the file a placement; else logical_count makes it recorded load from which a placement is
// planned.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "plimsoll/placement.h"
#include "plimsoll/recording.h"
#include "plimsoll/result.h"

namespace plimsoll {

// A placement as files hold it.
struct ExpertMap {
  std::string format;              // "SGLang", "vLLM", "vLLM-Ascend", "TensorRT-LLM", "NumPy"
  std::vector<int32_t> layer_ids;  // of the model, a row each; empty where the file numbers none
  bool for_all_layers = false;     // the one row is that of every layer (vLLM)
  int num_layers = 0;              // rows
  int num_physical_experts = 0;
  int num_ranks = 0;                         // 0: the file does not say
  std::vector<int32_t> physical_to_logical;  // [num_layers, num_physical_experts]
};

struct LoadedCounts {
  LoadHistory history;
  int num_steps = 0;   // that were recorded: more than the history's where only the total
                       // was asked for
  std::string format;  // "SGLang's recorder, mode stat", "vLLM", "NumPy", ...
  std::optional<RecordingInfo> info;  // of a file that Plimsoll recorded
  std::vector<std::string> notes;     // what the caller should tell the user: counts rounded, ...
};

struct TrivialLocation {};
using ExpertLocation = std::variant<TrivialLocation, ExpertMap, LoadedCounts>;

// `value` is "trivial"; a path; a pattern of paths (*, ?, []) or several paths, one a line, as
// load_expert_counts takes them; or else JSON itself. Placements are files as load_expert_map takes
// them, counts as load_expert_counts does. Fails, listing the keys found, on anything else.
Result<ExpertLocation> load_expert_location(const std::string& value,
                                            const LoadOptions& options = {});

// Recorded load, 2-D [layers, experts] or 3-D [steps, layers, experts], whole or fractional
// (rounded, with a note), finite and not negative. A file is
//   .pt    SGLang's and Plimsoll's recordings of all modes, or a tensor, by itself or as
//          logical_count or logical_expert_load
//   .json  logical_count, or vLLM's logical_expert_load, by itself or in the steps of load_history
//   .npy   counts, or a trace [tokens, layers, k]
//   .u8    a trace (trace.h), cut into steps of 512 tokens
// What a file without keys is, is seen from its numbers. A path may be a pattern, which must match
// one recording: a file, or those of its ranks. Several paths of per_pass and per_token recordings
// are the ranks of one, added up: they fail where ranks, or passes of a rank, are missing, where a
// rank stands twice, or where they are of different recordings. Of other paths the steps follow
// each other.
Result<LoadedCounts> load_expert_counts(const std::string& path, const LoadOptions& options = {});
Result<LoadedCounts> load_expert_counts(const std::vector<std::string>& paths,
                                        const LoadOptions& options = {});

// A placement:
//   .json  SGLang's physical_to_logical_map; a bare list for each layer, or one for all, as vLLM's
//          initial expert maps; or the layer_list of vLLM-Ascend
//   .pt    physical_to_logical_map, or a tensor [layers, slots]
//   .npy   [layers, slots]
//   .yaml  TensorRT-LLM's initial_global_assignments
Result<ExpertMap> load_expert_map(const std::string& path);

// The paths that a pattern (*, ?, []) matches, in ascending order; a path that exists, or is no
// pattern, is itself. Fails where a pattern matches none.
Result<std::vector<std::string>> matching_paths(const std::string& pattern);

// Fail, with reason and fix, where what was loaded does not fit the model, or nothing was counted.
Status check_fits(const LoadedCounts& counts, int num_layers, int num_logical_experts);
// Rows are those of the layers, where there are as many; else by their layer ids, and what the file
// leaves out is placed as trivial_placement does.
Result<Placement> make_placement(const ExpertMap& map,
                                 int num_layers,
                                 int num_logical_experts,
                                 int num_ranks);

struct PlacementFile {
  // sglang (.json or .pt, every layer of the model in its place), vllm (.json, MoE layers only),
  // vllm-ascend (.json, MoE layers only), tensorrt-llm (.yaml, MoE layers by their ids) or npy
  // (int32 [layers, slots]); empty: what the path ends in says, .json being SGLang's.
  std::string format;
  std::vector<int32_t> layer_ids;  // of the rows, in the model; empty: 0, 1, ...
  std::vector<int32_t> moe_rows;   // rows that are of MoE layers; empty: all
};
std::span<const std::string_view> placement_formats();

// Fails where the format cannot hold the placement: vLLM-Ascend takes no two copies of an expert on
// one rank.
Status save_placement(const Placement& placement,
                      const std::string& path,
                      const PlacementFile& file = {});

}  // namespace plimsoll
