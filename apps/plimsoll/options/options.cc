#include "options/options.h"

#include <utility>

#include "options/option_sections.h"

namespace plimsoll {
namespace {

// In the order in which --help shows them.
std::vector<Option> every_section() {
  std::vector<Option> all;
  for (const auto section :
       {input_options, sampling_options, parallel_options, load_options, replay_options,
        placement_options, recorder_options, server_options, apart_options, output_options}) {
    for (Option& option : section()) all.push_back(std::move(option));
  }
  return all;
}

}  // namespace

const std::vector<Option>& all_options() {
  static const std::vector<Option> kOptions = every_section();
  return kOptions;
}

}  // namespace plimsoll
