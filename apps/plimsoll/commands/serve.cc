// plimsoll serve: the model behind an OpenAI-compatible HTTP server.
#include <filesystem>

#include "comm/deployment_key.h"
#include "options/command_line.h"
#include "options/commands.h"
#include "record/formats/json_text.h"
#include "requests/run_requests.h"
#include "serve/server.h"
#include "shared/end_signals.h"
#include "shared/open_files.h"
#include "shared/terminal.h"

namespace plimsoll {
namespace {

std::string model_name(const Settings& settings) {
  if (!settings.serve.served_model_name.empty()) return settings.serve.served_model_name;
  const std::filesystem::path path(settings.engine.model_dir);
  return (path.has_filename() ? path : path.parent_path()).filename().string();
}

ServerOptions server_options(const Settings& settings) {
  ServerOptions options{.host = settings.serve.host,
                        .port = settings.serve.port,
                        .api_key = settings.serve.api_key,
                        .admin_api_key = settings.serve.admin_api_key,
                        .served_model_name = model_name(settings),
                        .recorder_dir = settings.recorder_dir,
                        .max_queued_requests = settings.serve.max_queued_requests,
                        .expert_metrics_per_layer = settings.serve.expert_metrics_per_layer,
                        .log = [](const std::string& line) { log_line(line); },
                        .disaggregation = settings.serve.disaggregation,
                        .model_dir = settings.engine.model_dir};
  options.disaggregation.mode = settings.engine.disaggregation_mode;
  options.http.max_body_memory_bytes = static_cast<size_t>(settings.serve.max_body_memory_mib)
                                       << 20;
  options.http.max_connections = allow_connections(options.http.max_connections, 1);
  Json info = Json::object();
  for (const Option* option : options_of(kServe)) {
    if (!option->is_secret) info[std::string(option->name)] = values_of(*option, settings);
  }
  options.server_info = json_text(info);
  return options;
}

}  // namespace

Result<int> run_serve(const Settings& settings) {
  const EndSignals signals;
  ServerOptions options = server_options(settings);
  if (const std::string& file = options.disaggregation.key_file; !file.empty()) {
    Result<std::string> key = read_deployment_key(file);
    if (!key.ok()) return key.error();
    options.disaggregation.key = *key;
  }
  Server server(options);
  if (Status status = server.start(); !status.ok()) return status.error();
  talk("listening on http://" + settings.serve.host + ":" + std::to_string(server.port()) +
       ", loading " + settings.engine.model_dir);
  auto tokenizer = Tokenizer::load(settings.engine.model_dir + "/tokenizer.json");
  if (!tokenizer.ok()) return tokenizer.error();
  auto engine = create_engine(settings.engine);
  if (!engine) return engine.error();
  server.serve(std::move(*engine), std::move(*tokenizer));
  talk("ready");
  while (!signals.wait() && server.engine_health().ok()) {
  }
  // Said at once: a launcher whose other processes have ended gives this one a second.
  const bool works = server.engine_health().ok();
  talk(works ? "finishing what runs; another signal ends at once"
             : "plimsoll: the engine has failed: " + server.engine_health().error().message);
  signals.release();
  server.drain();  // who still waits for an answer hears of a failure as well
  if (!works) return kExitFailed;
  const Status health = server.engine_health();
  if (!health.ok()) return unavailable("the engine has failed: " + health.error().message);
  return kExitDone;
}

}  // namespace plimsoll
