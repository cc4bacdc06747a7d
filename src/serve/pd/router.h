// The front of servers that prefill and decode apart: speaks OpenAI's API, has each request
// answered by a prefill and a decode server, and goes on with others when one fails.
#pragma once

#include <atomic>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "serve/http/http_server.h"
#include "serve/pd/server_pool.h"

namespace plimsoll {

struct RouterOptions {
  std::string host = "127.0.0.1";
  int port = 30000;
  std::vector<std::string> prefill_urls;
  std::vector<std::string> decode_urls;
  std::string key;  // the deployment's, which signs what decode servers are told; empty: none
  HealthChecks health;
  std::function<void(const std::string&)> log;  // a line for the operator; may be empty
  HttpLimits http;
};

class Router {
 public:
  explicit Router(const RouterOptions& options);
  ~Router();

  // Fails on a URL that is none or names an unknown host, and where it cannot listen. The servers
  // need not run yet.
  Status start();
  int port() const { return http_.port(); }
  // Refuses new requests from now on, and returns when the last one has ended.
  void drain();

 private:
  struct Metrics;

  void handle(HttpRequest request, std::shared_ptr<HttpReply> reply);
  void route(HttpRequest request, bool needs_prefill, std::shared_ptr<HttpReply> reply);
  void health(HttpReply& reply) const;
  std::string metrics_text();

  const RouterOptions options_;
  boost::asio::io_context io_{1};
  boost::asio::executor_work_guard<boost::asio::io_context::executor_type> work_;
  ServerPool pool_;  // on the thread, like all that is asked of the router
  std::unique_ptr<Metrics> metrics_;
  std::atomic<int> num_live_ = 0;
  std::atomic<bool> draining_ = false;
  HttpServer http_;
  std::thread thread_;
};

}  // namespace plimsoll
