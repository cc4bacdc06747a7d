// The files of one recording of the modes per_pass and per_token, one a rank. They are read pass by
// pass, so that no more than a pass of all ranks is in memory.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "plimsoll/recording.h"
#include "record/recording_reader.h"

namespace plimsoll {

struct RankFile {
  std::string path;
  PtFile file;
  Records records;
};
struct RankFiles {
  std::vector<RankFile> files;
  std::vector<std::string> notes;  // what is missing, where that was allowed
};

// Fails where the files are not of one recording (other shapes, another placement, dumped more than
// a minute apart), where a rank stands twice, and, unless options allow it, where a rank's file or
// a pass of a file is missing. Ranks run from 0 to the EP size, where the files say it, or else to
// the highest that is there.
Result<RankFiles> open_rank_files(const std::vector<std::string>& paths,
                                  const LoadOptions& options);
Result<RankFiles> check_rank_files(std::vector<RankFile> files, const LoadOptions& options);

// Every pass once, in ascending order of its id, with what each rank recorded of it.
using OnPass = std::function<Status(int64_t pass_id, std::span<const RecordedPass> parts)>;
Status each_pass(const RankFiles& ranks,
                 bool with_tokens,
                 const LoadOptions& options,
                 const OnPass& on_pass);

Result<LoadedCounts> count_passes(const RankFiles& ranks, const LoadOptions& options);

// When a recording was dumped, by its name: "..._recorder_1780000000.5.pt" or
// "..._1780000000.5_3.pt".
std::optional<double> time_in_name(const std::string& path);
// "2026-05-28 20:26:40 UTC"
std::string utc_text(double unix_time);

}  // namespace plimsoll
