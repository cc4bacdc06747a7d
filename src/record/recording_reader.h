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

// Of files with a tensor of counts, [layers, experts] or [passes, layers, experts].
Result<LoadedCounts> read_counts(const PtFile& file,
                                 const PtTensor& tensor,
                                 const LoadOptions& options = {});
// The key plimsoll; nothing in files of other programs.
Result<std::optional<RecordingInfo>> read_info(const PtFile& file);

// Of files with the key records: what is said of all of them.
struct Records {
  Recording about;                // without passes
  ExpertMap map;                  // by which counts and ids are made logical
  std::vector<int64_t> pass_ids;  // of each record
};
Result<Records> read_records_header(const PtFile& file);
Result<RecordedPass> read_record(const PtFile& file,
                                 const Records& records,
                                 size_t idx,
                                 bool with_tokens);

// Of files with the key logical_count or records, as read_recording promises.
Result<Recording> parse_recording(const PtFile& file);

}  // namespace plimsoll
