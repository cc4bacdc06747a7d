// The prefill and decode servers of a router: which of them are ready, and which is the least
// loaded.
//
// Used on the thread that runs the io_context. Every server is asked for its health again and
// again: one that cannot be reached, or answers anything but 200 in the role it was named for, is
// out at once; one that says nothing is out after a few checks, and what it was computing is broken
// off. A server that answers again is used again.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <functional>
#include <list>
#include <map>
#include <string>
#include <vector>

#include "serve/http/http_client.h"

namespace plimsoll {

enum class PdRole { kPrefill, kDecode };
const char* name_of(PdRole role);  // "prefill", "decode"

struct HealthChecks {
  std::chrono::milliseconds interval{1000};
  std::chrono::milliseconds timeout{2000};
  int max_silent = 3;  // in a row
};

struct PooledServer {
  PdRole role;
  HttpClient client;
  bool ready = false;
  std::string why_not = "it has not answered yet";
  std::string bootstrap;    // of a prefill server: HOST:PORT, where decode servers find it
  int num_requests = 0;     // that it is computing for the router
  int64_t last_picked = 0;  // in picks
  int num_silent_checks = 0;
  std::map<const void*, std::function<void()>> calls;  // by caller: breaks the call off

  std::string text() const { return std::string(name_of(role)) + " server " + client.url().text(); }
};

class ServerPool {
 public:
  using Log = std::function<void(const std::string& line)>;
  ServerPool(boost::asio::io_context& io, const HealthChecks& checks, Log log)
      : io_(io), checks_(checks), log_(std::move(log)) {}

  // Before the io_context runs. Fails where the host cannot be found.
  Status add(PdRole role, const HttpUrl& url);

  // The ready server with the fewest requests that is not among `excluded`, the longest unused of
  // several; null where there is none.
  PooledServer* pick(PdRole role, const std::vector<const PooledServer*>& excluded);

  // Asks for its health now: a request has failed there.
  void doubt(PooledServer& server);

  bool has_ready(PdRole role) const;
  // Of servers that are not ready: "URL: why; URL: why".
  std::string reasons(PdRole role) const;
  void for_each(const std::function<void(const PooledServer&)>& action) const;

 private:
  struct Member {
    PooledServer server;
    boost::asio::steady_timer timer;
    bool checking = false;
  };

  void check(Member& member);
  void judge(Member& member, const Status& ended, bool silent, int status, const std::string& body);
  void set_ready(Member& member, const std::string& why_not);  // empty: it is ready
  void check_later(Member& member);

  boost::asio::io_context& io_;
  const HealthChecks checks_;
  const Log log_;
  std::list<Member> servers_;
  int64_t num_picks_ = 0;
};

}  // namespace plimsoll
