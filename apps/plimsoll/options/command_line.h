// From the words of a command line (and the --config file it may name) to what is to be done.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "options/commands.h"

namespace plimsoll {

enum class Intent { kRun, kHelp, kVersion };

struct Invocation {
  Intent intent = Intent::kRun;
  const Command* command = nullptr;  // null: help about the program as a whole
  Settings settings;
  std::vector<std::string> notes;  // worth telling the user, though nothing is wrong
};

// `words` without the program's name. The error of a wrong command line names the fix.
Result<Invocation> parse_command_line(std::span<const std::string> words);

// The command that `settings` came from, as a shell would read it back; options that have their
// default value are left out.
std::string command_line_of(const Command& command, const Settings& settings);

}  // namespace plimsoll
