// Where experts start out (`--init-expert-location`), and the counts and placements that say so.
//
// Keys and their order are SGLang's (sglang/srt/eplb/expert_location.py): physical_to_logical_map
// makes the file a placement; else logical_count makes it recorded load from which a placement is
// planned.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "plimsoll/placement.h"
#include "plimsoll/recording.h"
#include "plimsoll/result.h"

namespace plimsoll {

// A placement as files hold it: they say neither how many ranks nor how many logical experts.
struct ExpertMap {
  int first_layer = 0;  // of the model, where a file says that its first rows are of a later one
  int num_layers = 0;
  int num_physical_experts = 0;
  std::vector<int32_t> physical_to_logical;  // [num_layers, num_physical_experts]
};

struct LoadedCounts {
  LoadHistory history;
  std::optional<RecordingInfo> info;  // of a file that Plimsoll recorded
  std::vector<std::string> notes;     // what the caller should tell the user: counts rounded, ...
};

struct TrivialLocation {};
using ExpertLocation = std::variant<TrivialLocation, ExpertMap, LoadedCounts>;

// `value` is "trivial", the path of a .pt or .json file, the path of a placement in .yaml or .npy
// (see load_expert_map), or else JSON itself. Counts are 2-D
// [layers, experts] or 3-D [steps, layers, experts], whole or fractional (rounded, with a note),
// finite and not negative. Recordings of the modes per_pass and per_token, which SGLang does not
// take here, are counts too. Fails, listing the keys found, on anything else.
Result<ExpertLocation> load_expert_location(const std::string& value);

// For files that must hold counts (`plan --load`): as above, and .npy [layers, experts] or [steps,
// layers, experts], JSON with vLLM's logical_expert_load (by itself or in the steps of
// load_history), and .u8 traces (see trace.h), cut into steps of 512 tokens. Several recordings
// are those of several ranks, added up (per_pass, per_token), or follow each other (stat); the
// steps of several other files follow each other.
Result<LoadedCounts> load_expert_counts(const std::string& path);
Result<LoadedCounts> load_expert_counts(const std::vector<std::string>& paths);

// For files that must hold a placement: .pt or .json as above, .npy [layers, slots], and
// TensorRT-LLM's .yaml of initial_global_assignments.
Result<ExpertMap> load_expert_map(const std::string& path);

// Fail, with reason and fix, where what was loaded does not fit the model, or nothing was counted.
Status check_fits(const LoadedCounts& counts, int num_layers, int num_logical_experts);
Result<Placement> make_placement(const ExpertMap& map,
                                 int num_layers,
                                 int num_logical_experts,
                                 int num_ranks);

// In the format that the path ends in: .json or .pt, as SGLang reads them; .yaml, as TensorRT-LLM
// does, whose layers count from first_layer; .npy, int32 [layers, slots].
Status save_placement(const Placement& placement, const std::string& path, int first_layer = 0);

}  // namespace plimsoll
