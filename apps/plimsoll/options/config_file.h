// The --config file: a JSON object whose keys are option names, with or without dashes in front.
#pragma once

#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "options/options.h"

namespace plimsoll {

// Assigns every option of `command` that the file sets and `given` (names of rows) does not hold.
// Returns the file's keys that are options of other subcommands only: one file may serve them all.
Result<std::vector<std::string>> apply_config_file(const std::string& path,
                                                   unsigned command,
                                                   const std::set<std::string_view>& given,
                                                   Settings& settings);

}  // namespace plimsoll
