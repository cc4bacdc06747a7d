// The subcommands: what each is called, says about itself and runs.
#pragma once

#include <span>
#include <string_view>
#include <vector>

#include "options/options.h"

namespace plimsoll {

// Exit statuses, as scripts see them.
enum ExitStatus : int { kExitDone = 0, kExitFailed = 1, kExitUsage = 2 };

struct Command {
  Commands id;
  std::string_view name;
  std::string_view summary;
  std::vector<std::string_view> examples;  // complete command lines
  Result<int> (*run)(const Settings&);     // an ExitStatus; an error is printed by the caller
};

std::span<const Command> all_commands();
const Command* find_command(std::string_view name);  // null if there is none

Result<int> run_generate(const Settings& settings);
Result<int> run_eval(const Settings& settings);
Result<int> run_bench(const Settings& settings);
Result<int> run_bench_serving(const Settings& settings);
Result<int> run_follower(const Settings& settings);  // of a serving command, in processes but 0
Result<int> run_demo(const Settings& settings);
Result<int> run_serve(const Settings& settings);
Result<int> run_router(const Settings& settings);
Result<int> run_plan(const Settings& settings);
Result<int> run_report(const Settings& settings);
Result<int> run_inspect(const Settings& settings);
Result<int> run_replay(const Settings& settings);

}  // namespace plimsoll
