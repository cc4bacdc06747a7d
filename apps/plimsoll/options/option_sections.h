// The sections of the options table: the rows of each, in the order in which --help shows them.
#pragma once

#include <vector>

#include "options/options.h"

namespace plimsoll {

std::vector<Option> input_options();
std::vector<Option> sampling_options();
std::vector<Option> parallel_options();
std::vector<Option> load_options();
std::vector<Option> replay_options();
std::vector<Option> placement_options();
std::vector<Option> recorder_options();
std::vector<Option> server_options();
std::vector<Option> apart_options();
std::vector<Option> output_options();

}  // namespace plimsoll
