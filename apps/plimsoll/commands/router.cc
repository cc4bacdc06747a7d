// plimsoll router: the front of servers that prefill and decode apart.
#include "serve/pd/router.h"

#include "options/commands.h"
#include "shared/end_signals.h"
#include "shared/open_files.h"
#include "shared/terminal.h"

namespace plimsoll {

Result<int> run_router(const Settings& settings) {
  const EndSignals signals;
  RouterOptions options{.host = settings.serve.host,
                        .port = settings.serve.port,
                        .prefill_urls = settings.router.prefill,
                        .decode_urls = settings.router.decode,
                        .log = [](const std::string& line) { talk(line); }};
  // A request on its way takes another connection, to its server.
  options.http.max_connections = allow_connections(options.http.max_connections, 2);
  Router router(options);
  if (Status status = router.start(); !status.ok()) return status.error();
  talk("listening on http://" + settings.serve.host + ":" + std::to_string(router.port()));
  while (!signals.wait()) {
  }
  talk("finishing what runs; another signal ends at once");
  signals.release();
  router.drain();
  return kExitDone;
}

}  // namespace plimsoll
