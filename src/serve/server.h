// The HTTP face of the engine: OpenAI's API, SGLang's recorder and information endpoints, metrics,
// and a page that shows the balance live.
#pragma once

#include <atomic>
#include <boost/asio/thread_pool.hpp>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "model/tokenizer/tokenizer.h"
#include "serve/balance_log.h"
#include "serve/http/http_server.h"
#include "serve/loop/engine_loop.h"
#include "serve/loop/metrics.h"
#include "serve/openai/completion_job.h"
#include "serve/pd/prefill_client.h"
#include "serve/pd/prefill_service.h"

namespace plimsoll {

struct ServerOptions {
  std::string host = "127.0.0.1";
  int port = 30000;
  std::string api_key;        // empty: none is asked for
  std::string admin_api_key;  // of the endpoints that change the server; empty: the api_key
  std::string served_model_name;
  std::string recorder_dir;  // where dumps go
  int max_queued_requests = 512;
  bool expert_metrics_per_layer = false;
  std::function<void(const std::string&)> log;  // a line for the operator; may be empty
  std::string server_info;                      // JSON object: the options in force
  DisaggregationOptions disaggregation;
  std::string model_dir;  // for the hand-over's handshake
  HttpLimits http;
};

class Server {
 public:
  explicit Server(const ServerOptions& options);
  ~Server();

  // Listens at once, for states too where prefill and decode run apart; until serve() has been
  // called every answer but /health is 503.
  Status start();
  int port() const { return http_.port(); }

  // Takes requests for this engine from now on.
  void serve(std::unique_ptr<Engine> engine, Tokenizer tokenizer);
  // Finishes what runs, refuses what is new, then closes.
  void drain();
  // Why it serves no longer, or ok.
  Status engine_health() const;

 private:
  struct Route;
  struct Probe;
  const Route* find_route(const HttpRequest& request, HttpRefusal& refusal) const;
  Status start_role();
  void handle(HttpRequest request, std::shared_ptr<HttpReply> reply);
  void after_step(Engine& engine);
  bool authorized(const HttpRequest& request, bool admin) const;

  void health(const HttpRequest& request, const std::shared_ptr<HttpReply>& reply);
  void health_generate(const HttpRequest& request, const std::shared_ptr<HttpReply>& reply);
  void models(const HttpRequest& request, const std::shared_ptr<HttpReply>& reply);
  void server_info(const HttpRequest& request, const std::shared_ptr<HttpReply>& reply);
  void model_info(const HttpRequest& request, const std::shared_ptr<HttpReply>& reply);
  void version(const HttpRequest& request, const std::shared_ptr<HttpReply>& reply);
  void metrics(const HttpRequest& request, const std::shared_ptr<HttpReply>& reply);
  void flush_cache(const HttpRequest& request, const std::shared_ptr<HttpReply>& reply);
  void completions(const HttpRequest& request, const std::shared_ptr<HttpReply>& reply);
  void chat_completions(const HttpRequest& request, const std::shared_ptr<HttpReply>& reply);
  void complete(const HttpRequest& request, const std::shared_ptr<HttpReply>& reply, bool chat);
  void start_job(const std::string& text,
                 const std::string& prefill_server,
                 const std::shared_ptr<HttpReply>& reply,
                 bool chat);
  void start_record(const HttpRequest& request, const std::shared_ptr<HttpReply>& reply);
  void stop_record(const HttpRequest& request, const std::shared_ptr<HttpReply>& reply);
  void dump_record(const HttpRequest& request, const std::shared_ptr<HttpReply>& reply);
  void expert_balance(const HttpRequest& request, const std::shared_ptr<HttpReply>& reply);
  void rebalance(const HttpRequest& request, const std::shared_ptr<HttpReply>& reply);
  void page(const HttpRequest& request, const std::shared_ptr<HttpReply>& reply);

  ServerOptions options_;
  Metrics metrics_;
  BalanceLog balance_;
  std::optional<Tokenizer> tokenizer_;
  HelloMessage hello_;
  std::unique_ptr<EngineLoop> loop_;
  std::unique_ptr<PrefillClient> prefill_client_;    // of a decode server
  std::unique_ptr<PrefillService> prefill_service_;  // of a prefill server
  std::shared_ptr<Probe> probe_;                     // of /health_generate
  std::atomic<bool> ready_ = false;
  uint64_t default_seed_ = 0;
  std::deque<std::chrono::steady_clock::time_point> dumps_;  // the last ones; of the HTTP thread
  // What takes long, and neither steps nor other clients should wait for.
  boost::asio::thread_pool aside_{2};
  HttpServer http_;  // last: its thread uses all of the above
};

}  // namespace plimsoll
