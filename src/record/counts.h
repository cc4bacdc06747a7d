// Numbers from a file, understood as recorded load or as a placement.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "plimsoll/expert_location.h"
#include "plimsoll/result.h"
#include "record/formats/number_array.h"
#include "record/formats/pt_reader.h"

namespace plimsoll {

struct CountsShape {
  int num_steps = 0;
  int num_layers = 0;
  int num_logical_experts = 0;
};
// Of [layers, experts] or [steps, layers, experts]; steps may be 0.
Result<CountsShape> counts_shape_of(const std::vector<int64_t>& shape);

// Recorded load, step by step, or only its total. Fails on negative counts, and above 2^53 in sum.
// Steps without any count at the end are dropped: slots of a ring buffer that were never filled.
class CountsBuilder {
 public:
  CountsBuilder(const CountsShape& shape, bool only_total);
  Status add(std::span<const int64_t> step);  // [layers, experts]
  void note_rounding(bool rounded) { rounded_ |= rounded; }
  LoadedCounts finish();

 private:
  bool only_total_;
  bool rounded_ = false;
  size_t step_size_ = 0;
  int num_steps_ = 0;
  int used_steps_ = 0;
  int64_t total_ = 0;
  LoadedCounts loaded_;
};

Result<LoadedCounts> counts_of(const NumberArray& numbers, bool only_total = false);

// What numbers without a name are. A placement [layers, slots] names in every layer all experts
// from 0 to the last, and none beyond the slots; a trace [tokens, layers, k] names k different
// experts for every token. Recorded load does neither, but for counts that a person made up.
bool is_placement(const NumberArray& numbers);
bool is_trace(const NumberArray& numbers);

// Of shape [layers, physical experts]; ids from 0 to the number of slots.
Result<ExpertMap> map_of(const NumberArray& numbers);

// The content of a file, whatever it turns out to be. `path` is for messages.
Result<ExpertLocation> location_of(PtFile file,
                                   const std::string& path,
                                   const LoadOptions& options);
Result<ExpertLocation> location_of_numbers(const NumberArray& numbers, bool only_total);
Result<ExpertLocation> parse_location_json(std::string_view text, bool only_total = false);

}  // namespace plimsoll
