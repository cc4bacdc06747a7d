// --help, and docs/options.md, from the tables of commands and options.
#pragma once

#include <string>

#include "options/commands.h"

namespace plimsoll {

std::string program_help();
std::string command_help(const Command& command);
std::string options_document();  // Markdown

}  // namespace plimsoll
