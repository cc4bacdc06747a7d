// One request on its way through the router: to a pair of servers, to another pair where one of
// them fails before anything has come back, and the answer's bytes to the client as they come.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "serve/http/http_server.h"
#include "serve/pd/server_pool.h"

namespace plimsoll {

// How a request ended.
enum class RouteEnd { kAnswered, kFailed, kClientLeft };

struct RouteEvents {
  std::function<void()> on_retry;
  std::function<void(RouteEnd end)> on_end;  // once, the last that is heard
};

// On the pool's thread. Whoever computes prompts is picked too where `needs_prefill`; else the
// decode server answers alone. `pool` must outlive the request.
void route_request(ServerPool& pool,
                   const std::string& key,
                   HttpRequest request,
                   bool needs_prefill,
                   boost::asio::io_context& io,
                   std::shared_ptr<HttpReply> reply,
                   RouteEvents events);

}  // namespace plimsoll
