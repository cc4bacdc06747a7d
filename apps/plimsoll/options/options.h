// The options table: one row an option. Command-line flags, the JSON --config file, --help,
// docs/options.md and the command printed at start are all made from it.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "options/settings.h"
#include "plimsoll/result.h"

namespace plimsoll {

// The subcommands an option belongs to, as a bit set.
enum Commands : unsigned {
  kGenerate = 1,
  kEval = 2,
  kBench = 4,
  kDemo = 8,
  kPlan = 16,
  kInspect = 32,
  kServe = 64,
  kReplay = 128,
  kBenchServing = 256,
  kReport = 512,
  kRouter = 1024,
  kServing = kGenerate | kEval | kBench | kServe,
  kAll = 2047,
};

using Field = std::variant<bool*,
                           int*,
                           int64_t*,
                           double*,
                           std::string*,
                           std::vector<std::string>*>;  // may be given several times

// As Option::max: whatever the member's type can hold.
constexpr double kUnbounded = std::numeric_limits<double>::infinity();

struct Option {
  std::string_view name;   // as written after the two dashes
  std::string_view alias;  // an older spelling that still works, a single letter, or empty
  std::string_view section;
  std::string_view value_name;  // what --help calls the value; empty for a switch
  unsigned commands = 0;
  unsigned required_by = 0;
  Field (*field)(Settings&) = nullptr;
  double min = 0;  // numbers only
  double max = 0;
  std::vector<std::string_view> choices;  // the only values allowed, or empty
  std::string_view help;
  bool positional = false;
  bool is_secret = false;   // never printed
  bool takes_many = false;  // a list: several values may follow one flag

  bool is_switch() const { return value_name.empty(); }
  bool is_list() const;
};

const std::vector<Option>& all_options();
std::vector<const Option*> options_of(unsigned command);

// The row called `name` or having it as its alias, dashes and underscores alike; null if none.
const Option* find_option(std::string_view name);

// With its dashes: two before a word, one before a letter.
std::string as_flag(std::string_view name);

// Parses `text` into the option's member; a list grows by it.
Status assign(const Option& option, std::string_view text, Settings& settings);

// The option's values as one would write them on a command line; a list may have none or several.
std::vector<std::string> values_of(const Option& option, const Settings& settings);

}  // namespace plimsoll
