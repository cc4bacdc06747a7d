#include "serve/server.h"

#include <algorithm>
#include <boost/asio/post.hpp>
#include <boost/beast/core/string.hpp>
#include <nlohmann/json.hpp>
#include <random>

#include "model/checkpoint/checkpoint_fingerprint.h"
#include "record/formats/json_text.h"
#include "serve/balance_page.h"
#include "serve/http/api_error.h"
#include "serve/http/json_reply.h"
#include "serve/rebalance_json.h"
#include "serve/recorder_dump.h"

namespace plimsoll {
namespace {

using Json = nlohmann::ordered_json;
constexpr size_t kBalanceSteps = 1000;
// Bodies above this take long enough to read for other clients to notice.
constexpr size_t kLargeBodyBytes = 16 * 1024;
constexpr std::chrono::seconds kDumpWindow{10};
constexpr const char* kVersion = PLIMSOLL_VERSION;

// Equal in constant time, so that a key cannot be guessed byte by byte.
bool same_secret(std::string_view a, std::string_view b) {
  unsigned difference = a.size() ^ b.size();
  for (size_t i = 0; i < a.size(); ++i) {
    difference |= static_cast<unsigned char>(a[i]) ^
                  static_cast<unsigned char>(b.empty() ? 0 : b[i % b.size()]);
  }
  return difference == 0;
}

}  // namespace

// One line of the API.
struct Server::Route {
  const char* path;
  bool takes_get;
  bool takes_post;
  enum Access { kOpen, kKey, kAdmin } access;
  void (Server::*handler)(const HttpRequest&, const std::shared_ptr<HttpReply>&);
};

// Null where the request is refused, and why. Looks at the head alone.
const Server::Route* Server::find_route(const HttpRequest& request, HttpRefusal& refusal) const {
  static const Route kRoutes[] = {
      {"/health", true, false, Route::kOpen, &Server::health},
      {"/health_generate", true, false, Route::kOpen, &Server::health_generate},
      {"/version", true, false, Route::kOpen, &Server::version},
      {"/metrics", true, false, Route::kOpen, &Server::metrics},
      {"/", true, false, Route::kOpen, &Server::page},
      {"/v1/models", true, false, Route::kKey, &Server::models},
      {"/server_info", true, false, Route::kKey, &Server::server_info},
      {"/get_server_info", true, false, Route::kKey, &Server::server_info},
      {"/get_model_info", true, false, Route::kKey, &Server::model_info},
      {"/expert_balance", true, false, Route::kKey, &Server::expert_balance},
      {"/v1/completions", false, true, Route::kKey, &Server::completions},
      {"/v1/chat/completions", false, true, Route::kKey, &Server::chat_completions},
      {"/flush_cache", true, true, Route::kAdmin, &Server::flush_cache},
      {"/start_expert_distribution_record", true, true, Route::kAdmin, &Server::start_record},
      {"/stop_expert_distribution_record", true, true, Route::kAdmin, &Server::stop_record},
      {"/dump_expert_distribution_record", true, true, Route::kAdmin, &Server::dump_record},
      {"/rebalance_experts", false, true, Route::kAdmin, &Server::rebalance},
  };
  const auto route = std::ranges::find_if(
      kRoutes, [&](const Route& candidate) { return request.path == candidate.path; });
  const auto refuse = [&](int status, const std::string& message) -> const Route* {
    refusal = {status, message};
    return nullptr;
  };
  if (route == std::end(kRoutes)) return refuse(404, "there is nothing at this path");
  const bool get = request.method == "GET" || request.method == "HEAD";
  if (!((get && route->takes_get) || (request.method == "POST" && route->takes_post))) {
    return refuse(405, std::string("this path takes ") + (route->takes_get ? "GET" : "") +
                           (route->takes_get && route->takes_post ? " or " : "") +
                           (route->takes_post ? "POST" : ""));
  }
  if (route->access != Route::kOpen && !authorized(request, route->access == Route::kAdmin)) {
    return refuse(401, "expected the header Authorization: Bearer <api key>");
  }
  // A page of another site makes the browser of somebody who may reach this server ask it.
  if (route->access != Route::kOpen && request.header("sec-fetch-site") == "cross-site") {
    return refuse(403, "pages of other sites may not ask this server");
  }
  const bool needs_engine = route->handler != &Server::health &&
                            route->handler != &Server::version &&
                            route->handler != &Server::metrics;
  if (needs_engine && !ready_) return refuse(503, "the model is still loading");
  return &*route;
}

void Server::handle(HttpRequest request, std::shared_ptr<HttpReply> reply) {
  HttpRefusal refusal;
  const Route* route = find_route(request, refusal);
  if (route == nullptr) return send_error(*reply, refusal.status, refusal.message);
  (this->*route->handler)(request, reply);
}

bool Server::authorized(const HttpRequest& request, bool admin) const {
  const std::string& key =
      admin && !options_.admin_api_key.empty() ? options_.admin_api_key : options_.api_key;
  if (key.empty()) return true;
  constexpr std::string_view kScheme = "bearer ";  // in any case, RFC 9110, section 11.1
  const std::string_view given = request.header("authorization");
  if (!boost::beast::iequals(std::string(given.substr(0, kScheme.size())), "bearer ")) return false;
  return same_secret(given.substr(kScheme.size()), key);
}

Server::Server(const ServerOptions& options)
    : options_(options),
      metrics_(
          {.model_name = options.served_model_name, .per_layer = options.expert_metrics_per_layer}),
      balance_(kBalanceSteps),
      http_(
          options.http,
          [this](HttpRequest request, std::shared_ptr<HttpReply> reply) {
            handle(std::move(request), std::move(reply));
          },
          [this](const HttpRequest& head) -> std::optional<HttpRefusal> {
            HttpRefusal refusal;
            if (find_route(head, refusal) != nullptr) return std::nullopt;
            return refusal;
          },
          options.log) {
  probe_ = std::make_shared<Probe>();
  std::random_device entropy;
  default_seed_ = uint64_t{entropy()} << 32 | entropy();
}

Server::~Server() {
  http_.stop();
  aside_.join();
  if (loop_) loop_->stop();
}

Status Server::start() {
  if (Status status = start_role(); !status.ok()) return status;
  return http_.start(options_.host, options_.port);
}

Status Server::start_role() {
  const DisaggregationOptions& role = options_.disaggregation;
  if (!role.active()) return ok_status();
  const Result<uint64_t> model = checkpoint_fingerprint(options_.model_dir);
  if (!model.ok()) return model.error();
  hello_ = {.version = kVersion, .model = *model, .role = role.mode};
  if (role.mode == "decode") {
    auto client = PrefillClient::create(role, options_.host, metrics_);
    if (!client.ok()) return client.error();
    prefill_client_ = std::move(*client);
    return ok_status();
  }
  auto service = PrefillService::create(role, options_.host, metrics_);
  if (!service.ok()) return service.error();
  prefill_service_ = std::move(*service);
  return ok_status();
}

void Server::serve(std::unique_ptr<Engine> engine, Tokenizer tokenizer) {
  tokenizer_ = std::move(tokenizer);
  balance_.set_placement(*engine);
  loop_ = std::make_unique<EngineLoop>(std::move(engine), options_.max_queued_requests, metrics_,
                                       [this](Engine& stepped) { after_step(stepped); });
  const SchedulerLimits& limits = loop_->setup().limits;
  hello_.deepep_mode = limits.mode == DeepepMode::kNormal       ? "normal"
                       : limits.mode == DeepepMode::kLowLatency ? "low_latency"
                                                                : "auto";
  if (prefill_client_) {
    prefill_client_->attach(*loop_, hello_);
    loop_->set_prompt_source(prefill_client_.get());
  }
  if (prefill_service_) prefill_service_->attach(*loop_, hello_);
  ready_ = true;
}

void Server::after_step(Engine& engine) {
  balance_.add(engine);
  metrics_.set_elastic(engine.elastic());
  if (engine.rebalancer()) metrics_.set_rebalancing(engine.rebalancer()->stats());
  for (const std::string& line : engine.take_news()) {
    if (options_.log) options_.log(line);
  }
}

void Server::drain() {
  if (ready_) loop_->drain();
  aside_.join();
  http_.drain();
}

Status Server::engine_health() const {
  return ready_ ? loop_->health() : unavailable("the model is still loading");
}

void Server::health(const HttpRequest&, const std::shared_ptr<HttpReply>& reply) {
  const char* status = !ready_                 ? "loading"
                       : loop_->draining()     ? "shutting down"
                       : !loop_->health().ok() ? "failed"
                                               : "ok";
  Json answer = {{"status", status}};
  if (options_.disaggregation.active()) answer["role"] = options_.disaggregation.mode;
  if (prefill_service_) answer["bootstrap_port"] = prefill_service_->port();
  send_json(*reply, answer, std::string_view(status) == "ok" ? 200 : 503);
}

// Who waits for the one token that is being generated to see whether the engine works.
struct Server::Probe {
  std::mutex mutex;
  std::vector<std::shared_ptr<HttpReply>> waiting;
};

// Generates one token for real. Needs no key, so that one token at a time answers all who ask.
void Server::health_generate(const HttpRequest&, const std::shared_ptr<HttpReply>& reply) {
  {
    const std::lock_guard lock(probe_->mutex);
    probe_->waiting.push_back(reply);
    if (probe_->waiting.size() > 1) return;
  }
  const auto answer = [probe = probe_](const Status& status) {
    std::vector<std::shared_ptr<HttpReply>> asked;
    {
      const std::lock_guard lock(probe->mutex);
      std::swap(asked, probe->waiting);
    }
    for (const auto& each : asked) {
      if (!status.ok()) {
        send_error(*each, 503, status.error().message);
      } else {
        send_json(*each, {{"status", "ok"}});
      }
    }
  };
  std::vector<Request> requests(1);
  requests[0] = {
      .id = loop_->reserve_ids(1), .prompt = {loop_->config().bos_token_id}, .max_tokens = 1};
  const Status status = loop_->submit(std::move(requests), [answer](Result<RequestUpdate> update) {
    if (!update.ok()) return answer(update.error());
    if (update->finish != FinishReason::kNone) answer(ok_status());
  });
  if (!status.ok()) answer(status);
}

void Server::models(const HttpRequest&, const std::shared_ptr<HttpReply>& reply) {
  send_json(
      *reply,
      {{"object", "list"},
       {"data", Json::array({{{"id", options_.served_model_name},
                              {"object", "model"},
                              {"created", 0},
                              {"owned_by", "plimsoll"},
                              {"max_model_len", loop_->setup().limits.max_sequence_tokens}}})}});
}

void Server::server_info(const HttpRequest&, const std::shared_ptr<HttpReply>& reply) {
  Json info = Json::parse(options_.server_info, nullptr, false);
  if (!info.is_object()) info = Json::object();
  info["version"] = kVersion;
  info["placement"] = loop_->setup().placement_source;
  info["placement_in_force"] = to_json(balance_.placement());
  info["rebalancing"] = balance_.rebalancing();
  info["max_running_requests"] = loop_->setup().limits.max_running_requests;
  send_json(*reply, info);
}

void Server::model_info(const HttpRequest&, const std::shared_ptr<HttpReply>& reply) {
  const ModelConfig& config = loop_->config();
  send_json(*reply, {{"model_path", options_.served_model_name},
                     {"model_type", config.model_type},
                     {"is_generation", true},
                     {"num_layers", config.num_hidden_layers},
                     {"num_experts", config.n_routed_experts},
                     {"num_experts_per_tok", config.num_experts_per_tok}});
}

void Server::version(const HttpRequest&, const std::shared_ptr<HttpReply>& reply) {
  send_json(*reply, {{"version", kVersion}});
}

void Server::metrics(const HttpRequest&, const std::shared_ptr<HttpReply>& reply) {
  if (ready_) metrics_.set_living_ranks(loop_->num_living_ranks());
  reply->send(200, "text/plain; version=0.0.4; charset=utf-8", metrics_.text());
}

// There is no prefix cache yet, so there is nothing to flush; clients of SGLang expect the path.
void Server::flush_cache(const HttpRequest&, const std::shared_ptr<HttpReply>& reply) {
  send_json(*reply, {{"status", "ok"}, {"flushed_tokens", 0}});
}

void Server::completions(const HttpRequest& request, const std::shared_ptr<HttpReply>& reply) {
  complete(request, reply, /*chat=*/false);
}

void Server::chat_completions(const HttpRequest& request, const std::shared_ptr<HttpReply>& reply) {
  complete(request, reply, /*chat=*/true);
}

void Server::complete(const HttpRequest& request,
                      const std::shared_ptr<HttpReply>& reply,
                      bool chat) {
  std::string prefill_server(request.header(kPrefillHeader));
  if (options_.disaggregation.mode == "prefill") {
    return send_error(*reply, 400, "this is a prefill server; ask the router");
  }
  if (prefill_client_ && prefill_server.empty()) {
    return send_error(*reply, 400,
                      "this is a decode server; ask the router, which names a prefill "
                      "server for each request");
  }
  if (prefill_client_) {
    prefill_server = options_.disaggregation.allowed_prefill_server(prefill_server);
    if (prefill_server.empty()) {
      return send_error(*reply, 403,
                        "this decode server asks no prefill server at a stranger's word; ask the "
                        "router, which needs the same --disaggregation-key-file");
    }
  }
  if (request.body.size() <= kLargeBodyBytes) {
    return start_job(request.body, prefill_server, reply, chat);
  }
  boost::asio::post(aside_, [this, request, prefill_server, reply, chat] {
    answer_or_500(*reply, options_.log,
                  [&] { start_job(request.body, prefill_server, reply, chat); });
  });
}

void Server::start_job(const std::string& text,
                       const std::string& prefill_server,
                       const std::shared_ptr<HttpReply>& reply,
                       bool chat) {
  const Result<nlohmann::json> body = parse_json(text, limits::kJsonNodesOfRequest);
  if (!body.ok()) return send_error(*reply, 400, "the body " + body.error().message);
  Result<CompletionRequest> parsed = parse_completion(*body, chat, *tokenizer_, loop_->config(),
                                                      loop_->setup().limits.max_sequence_tokens);
  if (!parsed.ok()) return send_error(*reply, 400, parsed.error().message);
  CompletionJob::start({.loop = loop_.get(),
                        .tokenizer = &*tokenizer_,
                        .model_name = options_.served_model_name,
                        .default_seed = default_seed_,
                        .prefill_server = prefill_client_ ? prefill_server : ""},
                       std::move(*parsed), reply);
}

void Server::start_record(const HttpRequest&, const std::shared_ptr<HttpReply>& reply) {
  loop_->post([reply](Engine& engine) {
    if (Status status = engine.start_recording(); !status.ok()) {
      return send_error(*reply, 400, status.error().message);
    }
    send_json(*reply, {{"status", "recording"}});
  });
}

void Server::stop_record(const HttpRequest&, const std::shared_ptr<HttpReply>& reply) {
  loop_->post([reply](Engine& engine) {
    if (Status status = engine.stop_recording(); !status.ok()) {
      return send_error(*reply, 400, status.error().message);
    }
    send_json(*reply, {{"status", "stopped"}, {"num_passes", engine.recorder()->num_passes()}});
  });
}

void Server::dump_record(const HttpRequest& request, const std::shared_ptr<HttpReply>& reply) {
  const auto now = std::chrono::steady_clock::now();
  while (!dumps_.empty() && now - dumps_.front() > kDumpWindow) dumps_.pop_front();
  if (dumps_.size() >= limits::kDumpsPerWindow) {
    return send_error(*reply, 429, "dumps are written more often than a disk should bear");
  }
  dumps_.push_back(now);
  const bool download = request.query.contains("download") && request.query.at("download") == "1";
  loop_->post([this, reply, download](Engine& engine) {
    const Result<std::vector<std::string>> paths = engine.dump_recording(options_.recorder_dir);
    if (!paths.ok()) {
      const bool is_io = paths.error().code == ErrorCode::kIo;  // a full disk, for one
      return send_error(*reply, is_io ? 500 : 400, paths.error().message);
    }
    boost::asio::post(
        aside_, [reply, paths = *paths, answer = download ? send_dump_files : send_dump_summary] {
          answer(*reply, paths);
        });
  });
}

void Server::expert_balance(const HttpRequest& request, const std::shared_ptr<HttpReply>& reply) {
  size_t num_steps = 100;
  if (request.query.contains("steps")) {
    const std::string& text = request.query.at("steps");
    const bool is_number = !text.empty() && text.size() <= 4 &&
                           std::ranges::all_of(text, [](char c) { return c >= '0' && c <= '9'; });
    if (!is_number) return send_error(*reply, 400, "steps is no number from 0 to 9999");
    num_steps = std::stoul(text);
  }
  Json answer = balance_.to_json(num_steps);
  answer["ep_size"] = balance_.placement().num_ranks;
  answer["placement"] = loop_->setup().placement_source;
  answer["rebalancing"] = balance_.rebalancing();
  answer["waterfill"] = loop_->setup().moe.route.waterfill;
  answer["jit_expert_slots"] = loop_->setup().moe.route.jit.slots_per_rank;
  answer["requests_running"] = metrics_.num_running();
  answer["requests_waiting"] = metrics_.num_waiting();
  send_json(*reply, answer);
}

// Only starts it: how it ends stands in /expert_balance, the metrics and the log.
void Server::rebalance(const HttpRequest&, const std::shared_ptr<HttpReply>& reply) {
  loop_->post([reply](Engine& engine) {
    if (Status status = engine.start_rebalance(); !status.ok()) {
      return send_error(*reply, 400, status.error().message);
    }
    send_json(*reply, {{"status", "planning"}});
  });
}

void Server::page(const HttpRequest&, const std::shared_ptr<HttpReply>& reply) {
  reply->send(200, "text/html; charset=utf-8", std::string(kBalancePage));
}

}  // namespace plimsoll
