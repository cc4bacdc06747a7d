#include "serve/pd/router.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <algorithm>
#include <boost/asio/post.hpp>
#include <nlohmann/json.hpp>

#include "serve/http/json_reply.h"
#include "serve/openai/completion_job.h"
#include "serve/pd/routed_request.h"

namespace plimsoll {
namespace {

using Json = nlohmann::ordered_json;

const char* name_of(RouteEnd end) {
  return end == RouteEnd::kAnswered ? "answered"
         : end == RouteEnd::kFailed ? "failed"
                                    : "cancelled";
}

}  // namespace

struct Router::Metrics {
  prometheus::Registry registry;
  prometheus::Family<prometheus::Counter>& ended =
      prometheus::BuildCounter()
          .Name("plimsoll_router_requests_total")
          .Help("Requests ended: answered by a server, failed, or cancelled by the client.")
          .Register(registry);
  prometheus::Counter& retries =
      prometheus::BuildCounter()
          .Name("plimsoll_router_retries_total")
          .Help("Times that a server failed a request, which others may then have answered.")
          .Register(registry)
          .Add({});
  prometheus::Gauge& in_flight = prometheus::BuildGauge()
                                     .Name("plimsoll_router_requests_in_flight")
                                     .Help("Requests on their way.")
                                     .Register(registry)
                                     .Add({});
  prometheus::Family<prometheus::Gauge>& ready =
      prometheus::BuildGauge()
          .Name("plimsoll_router_server_ready")
          .Help("1 where the server passes its health checks.")
          .Register(registry);
  prometheus::Family<prometheus::Gauge>& load =
      prometheus::BuildGauge()
          .Name("plimsoll_router_server_requests")
          .Help("Requests that the server is computing for this router.")
          .Register(registry);
};

Router::Router(const RouterOptions& options)
    : options_(options),
      work_(io_.get_executor()),
      pool_(io_, options.health, options.log),
      metrics_(std::make_unique<Metrics>()),
      http_(options.http, [this](HttpRequest request, std::shared_ptr<HttpReply> reply) {
        boost::asio::post(io_, [this, request = std::move(request), reply]() mutable {
          handle(std::move(request), std::move(reply));
        });
      }) {}

Router::~Router() {
  http_.stop();
  io_.stop();
  if (thread_.joinable()) thread_.join();
}

Status Router::start() {
  for (const PdRole role : {PdRole::kPrefill, PdRole::kDecode}) {
    const auto& urls = role == PdRole::kPrefill ? options_.prefill_urls : options_.decode_urls;
    for (const std::string& text : urls) {
      const Result<HttpUrl> url = parse_http_url(text);
      const Status added = url.ok() ? pool_.add(role, *url) : Status(url.error());
      if (!added.ok()) {
        return Error{added.error().code,
                     std::string("--") + plimsoll::name_of(role) + " " + added.error().message};
      }
    }
  }
  thread_ = std::thread([this] { io_.run(); });
  return http_.start(options_.host, options_.port);
}

void Router::drain() {
  draining_ = true;
  while (num_live_ > 0) std::this_thread::sleep_for(std::chrono::milliseconds(20));
  http_.drain();
}

void Router::handle(HttpRequest request, std::shared_ptr<HttpReply> reply) {
  const std::string& path = request.path;
  const bool completes = path == "/v1/completions" || path == "/v1/chat/completions";
  const bool informs = path == "/v1/models" || path == "/get_model_info";
  if (path == "/health") return health(*reply);
  if (path == "/metrics") {
    return reply->send(200, "text/plain; version=0.0.4; charset=utf-8", metrics_text());
  }
  if (!completes && !informs) {
    return send_error(*reply, 404, "there is nothing at this path of a router; ask the server");
  }
  const char* method = completes ? "POST" : "GET";
  if (request.method != method) {
    return send_error(*reply, 405, std::string("this path takes ") + method);
  }
  if (draining_) return send_error(*reply, 503, "the router is shutting down");
  route(std::move(request), completes, std::move(reply));
}

void Router::route(HttpRequest request, bool needs_prefill, std::shared_ptr<HttpReply> reply) {
  metrics_->in_flight.Set(++num_live_);
  route_request(pool_, options_.key, std::move(request), needs_prefill, io_, std::move(reply),
                {.on_retry = [this] { metrics_->retries.Increment(); },
                 .on_end =
                     [this](RouteEnd end) {
                       metrics_->in_flight.Set(--num_live_);
                       metrics_->ended.Add({{"result", name_of(end)}}).Increment();
                     }});
}

void Router::health(HttpReply& reply) const {
  const bool ready = pool_.has_ready(PdRole::kPrefill) && pool_.has_ready(PdRole::kDecode);
  const char* status = draining_ ? "shutting down" : ready ? "ok" : "not ready";
  Json servers = Json::array();
  pool_.for_each([&](const PooledServer& server) {
    Json row = {{"url", server.client.url().text()},
                {"role", plimsoll::name_of(server.role)},
                {"ready", server.ready},
                {"requests", server.num_requests}};
    if (!server.ready) row["reason"] = server.why_not;
    servers.push_back(std::move(row));
  });
  const Json answer = {{"status", status}, {"role", "router"}, {"servers", servers}};
  send_json(reply, answer, ready && !draining_ ? 200 : 503);
}

std::string Router::metrics_text() {
  pool_.for_each([&](const PooledServer& server) {
    const prometheus::Labels labels = {{"role", plimsoll::name_of(server.role)},
                                       {"server", server.client.url().text()}};
    metrics_->ready.Add(labels).Set(server.ready);
    metrics_->load.Add(labels).Set(server.num_requests);
  });
  return prometheus::TextSerializer().Serialize(metrics_->registry.Collect());
}

}  // namespace plimsoll
