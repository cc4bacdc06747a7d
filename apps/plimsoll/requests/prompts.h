// Prompts from text files. A file holds one prompt or several, separated by lines that hold a
// single %, as in a fortune file; a folder stands for its *.txt files in the order of their names.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "plimsoll/result.h"

namespace plimsoll {

// The prompts of one file's text, without the line end before a separator or the file's end.
std::vector<std::string> split_prompts(std::string_view text);

// Every prompt of the named files and folders; fails if one cannot be read or none holds a prompt.
Result<std::vector<std::string>> read_prompts(const std::vector<std::string>& paths);

// `count` prompts, starting over where there are fewer; 0: each of them once.
std::vector<std::string> repeated(const std::vector<std::string>& prompts, int count);

}  // namespace plimsoll
