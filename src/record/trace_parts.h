// Traces from what files hold.
#pragma once

#include <cstddef>
#include <span>
#include <string_view>

#include "plimsoll/expert_location.h"
#include "plimsoll/trace.h"
#include "record/formats/number_array.h"

namespace plimsoll {

// The two files of a .u8 trace.
Result<ExpertTrace> parse_u8_trace(std::string_view header, std::span<const std::byte> ids);
// Integers [tokens, layers, k].
Result<ExpertTrace> trace_of(const NumberArray& numbers);

// Tokens of a step, where a trace is planned for. Short steps tell which experts are busy at the
// same time, and plans from them hold up better on the text that follows than plans from long ones.
inline constexpr int64_t kStepTokens = 512;

// Counts by steps of kStepTokens, for planning. Fails where layers times experts are so many that
// the counts would take more than kMaxCountBytesPerId for each id of the trace, and 64 MiB besides:
// a small file could claim a table of any size.
inline constexpr size_t kMaxCountBytesPerId = 256;
Result<LoadHistory> counts_of_trace(const ExpertTrace& trace);
// The same with a note that says so.
Result<LoadedCounts> counts_of_trace_file(const ExpertTrace& trace);

}  // namespace plimsoll
