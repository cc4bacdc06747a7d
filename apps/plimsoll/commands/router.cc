// plimsoll router: the front of servers that prefill and decode apart.
#include "serve/pd/router.h"

#include "comm/deployment_key.h"
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
                        .log = [](const std::string& line) { log_line(line); }};
  const std::string& key_file = settings.serve.disaggregation.key_file;
  if (!key_file.empty()) {
    Result<std::string> key = read_deployment_key(key_file);
    if (!key.ok()) return key.error();
    options.key = *key;
  }
  // A request on its way takes another connection, to its server.
  options.http.max_body_memory_bytes = static_cast<size_t>(settings.serve.max_body_memory_mib)
                                       << 20;
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
