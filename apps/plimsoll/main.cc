// plimsoll: parse the command line, run the subcommand, print what went wrong.
#include <fmt/format.h>

#include <csignal>
#include <cstdio>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "comm/mpi_launch.h"
#include "options/command_line.h"
#include "options/help.h"
#include "shared/terminal.h"

using namespace plimsoll;

namespace {

// A request that cannot be met as it was made is wrong usage; anything else just failed.
int report(const Error& error, const std::string& who = "") {
  talk("plimsoll" + who + ": " + error.message);
  return error.code == ErrorCode::kInvalidArgument ? kExitUsage : kExitFailed;
}

// A job of several processes has a rank in each, unless --ep-size says more.
void join_job(ProcessMesh& mesh, Settings& settings) {
  settings.engine.mesh = &mesh;
  if (settings.engine.ep_size == 1) settings.engine.ep_size = mesh.num_processes();
}

// In process 0 of a job the command runs; the others hold ranks for it.
Result<int> run_in_job(const Command& command, const Settings& settings, ProcessMesh& mesh) {
  const Result<int> status = mesh.process() == 0 ? command.run(settings) : run_follower(settings);
  if (!status) mesh.set_goodbye(status.error().message);
  return status;
}

int run(const Invocation& invocation) {
  const Command& command = *invocation.command;
  Settings settings = invocation.settings;
  if (!(command.id & kServing) && launched_processes() > 1) {
    return report(invalid_argument(std::string(command.name) +
                                   " runs in one process; start it without mpirun"));
  }
  const auto mesh = join_launched(settings.engine.rank_timeout_seconds);
  if (!mesh) return report(mesh.error());
  if (*mesh) join_job(**mesh, settings);
  const int process = *mesh ? (*mesh)->process() : 0;
  if (process == 0) {
    for (const std::string& note : invocation.notes) talk("note: " + note);
    talk(command_line_of(command, settings));
  }
  const Result<int> status = *mesh ? run_in_job(command, settings, **mesh) : command.run(settings);
  if (status) return *status;
  return report(status.error(), process > 0 ? " (process " + std::to_string(process) + ")" : "");
}

int run_words(const std::vector<std::string>& words) {
  if (words.empty()) {
    talk(program_help());
    return kExitUsage;
  }
  const Result<Invocation> invocation = parse_command_line(words);
  if (!invocation) return report(invocation.error());
  switch (invocation->intent) {
    case Intent::kHelp:
      print(invocation->command ? command_help(*invocation->command) : program_help());
      return kExitDone;
    case Intent::kVersion:
      print("plimsoll " PLIMSOLL_VERSION "\n");
      return kExitDone;
    case Intent::kRun:
      break;
  }
  return run(*invocation);
}

// Whatever asks for more memory than there is fails like any other command.
int run_safely(const std::vector<std::string>& words) {
  try {
    return run_words(words);
  } catch (const std::bad_alloc&) {
    return report(io_error("there is not enough memory for what was asked for"));
  } catch (const std::length_error&) {
    return report(io_error("what was asked for is larger than memory can hold"));
  }
}

}  // namespace

int main(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_IGN);  // whoever stops reading what we say ends nothing
  const int status = run_safely(std::vector<std::string>(argv + 1, argv + argc));
  if (std::fflush(stdout) != 0 || std::ferror(stdout)) {
    return report(io_error("the results could not be written to stdout"));
  }
  return status;
}
