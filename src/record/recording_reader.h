// What the .pt files of a recorder or a planner hold, taken from their values.
#pragma once

#include <optional>
#include <span>
#include <string>

#include "plimsoll/expert_location.h"
#include "plimsoll/recording.h"
#include "record/formats/number_array.h"
#include "record/formats/pt_reader.h"

namespace plimsoll {

// A tensor under `key` of a dict; the error names the key.
Result<NumberArray> numbers_at(const PtFile& file, const PtValue& dict, const std::string& key);

// Of files with the key logical_count. All passes are kept, empty ones too.
Result<LoadedCounts> read_stat(const PtFile& file);
// Of files with the key records.
Result<Recording> read_records(const PtFile& file);
// The key plimsoll; nothing in files of other programs.
Result<std::optional<RecordingInfo>> read_info(const PtFile& file);

// Either of the two, as read_recording promises.
Result<Recording> parse_recording(const PtFile& file);

// Fails on no recordings at all, on recordings that cannot be of one run, and where a rank stands
// twice.
Status check_same_run(std::span<const Recording> recordings);

}  // namespace plimsoll
