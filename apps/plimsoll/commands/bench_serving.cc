// plimsoll bench-serving: latency, throughput and goodput of an OpenAI server under load.
#include <fmt/format.h>

#include <cmath>
#include <fstream>

#include "options/commands.h"
#include "record/formats/json_text.h"
#include "requests/prompts.h"
#include "requests/serving_report.h"
#include "shared/terminal.h"

namespace plimsoll {
namespace {

Result<HttpUrl> server_of(const Settings& settings) {
  auto url = parse_http_url(settings.load.base_url);
  if (!url) return Error{url.error().code, "--base-url " + url.error().message};
  // OpenAI's clients take the address with /v1, the paths here begin with it.
  if (url->prefix.ends_with("/v1")) url->prefix.resize(url->prefix.size() - 3);
  return url;
}

// The name to ask for; also finds out, before any load, whether the server is there and ready.
Result<std::string> model_name(const HttpUrl& server, const Settings& settings) {
  const auto answer =
      http_ask(server, {.path = "/v1/models", .bearer_token = settings.serve.api_key});
  if (!answer) {
    return Error{answer.error().code,
                 answer.error().message + "; is the server running, and is this its address?"};
  }
  const std::string& given = settings.serve.served_model_name;
  if (answer->status == 404 && !given.empty()) return given;
  if (answer->status != 200) {
    return unavailable(fmt::format("{}/v1/models answers HTTP {}: {}", server.text(),
                                   answer->status, error_message_of(answer->body)));
  }
  if (!given.empty()) return given;
  const auto json = nlohmann::json::parse(answer->body, nullptr, false);
  const nlohmann::json::json_pointer first("/data/0/id");
  if (json.is_object() && json.contains(first) && json[first].is_string()) {
    return json[first].get<std::string>();
  }
  return unavailable(
      fmt::format("{}/v1/models names no model; name it with --served-model-name", server.text()));
}

std::string request_body(const std::string& model,
                         const std::string& prompt,
                         size_t i,
                         const Settings& settings) {
  const SamplingSettings& sampling = settings.sampling;
  Json body = {{"model", model}};
  if (settings.load.endpoint == "/v1/chat/completions") {
    body["messages"] = Json::array({{{"role", "user"}, {"content", prompt}}});
  } else {
    body["prompt"] = prompt;
  }
  body["max_tokens"] = sampling.max_tokens;
  body["temperature"] = sampling.temperature;
  body["top_p"] = sampling.top_p;
  body["seed"] = sampling.seed + static_cast<int64_t>(i);
  if (settings.load.ignore_eos) body["ignore_eos"] = true;
  body["stream"] = true;
  body["stream_options"] = {{"include_usage", true}};
  return json_text(body);
}

Result<ServingLoad> load_of(const Settings& settings) {
  const auto prompts = read_prompts(settings.input.dataset);
  if (!prompts) return prompts.error();
  const auto server = server_of(settings);
  if (!server) return server.error();
  const auto model = model_name(*server, settings);
  if (!model) return model.error();
  ServingLoad load{.server = *server,
                   .path = settings.load.endpoint,
                   .api_key = settings.serve.api_key,
                   .requests_per_s = settings.load.request_rate,
                   .max_concurrency = settings.load.max_concurrency,
                   .seed = static_cast<uint64_t>(settings.sampling.seed)};
  const std::vector<std::string> taken = repeated(*prompts, settings.input.num_prompts);
  for (size_t i = 0; i < taken.size(); ++i) {
    load.bodies.push_back(request_body(*model, taken[i], i, settings));
  }
  return load;
}

Json as_json(const ServingReport& report, const Settings& settings) {
  Json json = {{"base_url", settings.load.base_url},
               {"endpoint", settings.load.endpoint},
               {"max_concurrency", settings.load.max_concurrency},
               {"max_tokens", settings.sampling.max_tokens},
               {"seed", settings.sampling.seed}};
  const bool at_once = std::isinf(settings.load.request_rate);
  json["request_rate"] = at_once ? Json("inf") : Json(settings.load.request_rate);
  json.update(to_json(report));
  return json;
}

}  // namespace

Result<int> run_bench_serving(const Settings& settings) {
  std::vector<Objective> objectives;
  for (const std::string& text : settings.load.goodput) {
    const auto objective = parse_objective(text);
    if (!objective) return objective.error();
    objectives.push_back(*objective);
  }
  const auto load = load_of(settings);
  if (!load) return load.error();
  Progress progress("requests");
  const auto num_requests = static_cast<int64_t>(load->bodies.size());
  const auto run =
      run_load(*load, [&](int64_t num_ended) { progress.show(num_ended, num_requests); });
  if (!run) return run.error();
  progress.wipe();

  const ServingReport report = summarize(*run, objectives);
  const std::string json = as_json(report, settings).dump(2) + "\n";
  print(settings.json ? json : as_text(report));
  if (!settings.load.result_file.empty()) {
    std::ofstream file(settings.load.result_file);
    if (!(file << json).flush()) {
      return io_error(settings.load.result_file + " could not be written");
    }
  }
  return report.num_failed == 0 ? kExitDone : kExitFailed;
}

}  // namespace plimsoll
