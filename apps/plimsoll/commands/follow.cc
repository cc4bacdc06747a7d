// What the processes of a job do that do not talk to the user: hold ranks until process 0 is done.
#include <csignal>

#include "options/commands.h"
#include "requests/run_requests.h"

namespace plimsoll {

Result<int> run_follower(const Settings& settings) {
  // The launcher passes signals on to all processes; process 0 decides what comes of them.
  for (int number : {SIGTERM, SIGINT}) std::signal(number, SIG_IGN);
  auto engine = Engine::create(settings.engine);
  if (!engine) return engine.error();
  if (Status followed = (*engine)->follow(); !followed) return followed.error();
  return kExitDone;
}

}  // namespace plimsoll
