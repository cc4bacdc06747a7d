// A small HTTP/1.1 server: one thread, any number of connections, answers at once or as a stream.
//
// Built on Boost.Beast (docs/decisions/http-server.md says why). Every wait has a time limit and
// every buffer a size limit; a connection that breaks one is answered, where HTTP allows it, and
// closed.
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "plimsoll/result.h"

namespace plimsoll {

struct HttpLimits {
  size_t max_header_bytes = 16 * 1024;
  size_t max_body_bytes = 4 * 1024 * 1024;
  size_t max_unsent_bytes = 4 * 1024 * 1024;        // of one stream: a client that does not read
  size_t max_body_memory_bytes = 64 * 1024 * 1024;  // of all requests that have not been read
  int max_connections = 8192;                       // more make the one close that is idle longest
  int max_connections_per_address = 0;              // 0: three quarters of max_connections
  std::chrono::seconds request_timeout{30};         // from a request's first byte to its last
  std::chrono::seconds idle_timeout{120};           // between requests
  std::chrono::seconds write_timeout{60};           // without the client taking a byte
};

struct HttpRequest {
  std::string method;
  std::string path;                            // without the query
  std::map<std::string, std::string> query;    // percent-decoded
  std::map<std::string, std::string> headers;  // names in lower case
  std::string body;
  std::shared_ptr<void> body_memory;  // gives the body's share of the budget back

  std::string_view header(const std::string& name) const;
};

// The answer to one request. Calls may come from any thread; after the client has left they do
// nothing.
class HttpReply {
 public:
  virtual ~HttpReply() = default;

  // The whole answer.
  virtual void send(int status,
                    std::string content_type,
                    std::string body,
                    std::map<std::string, std::string> headers = {}) = 0;

  // Or a stream: begin, any number of chunks, end. A chunk goes to the client on the caller's
  // thread where the client keeps up.
  virtual void begin_stream(int status, std::string content_type) = 0;
  virtual void write(std::string chunk) = 0;
  virtual void end() = 0;

  // Called once, on the server's thread, if the client leaves before the answer is complete.
  virtual void on_client_left(std::function<void()> callback) = 0;
};

// Why a request is refused before its body is read.
struct HttpRefusal {
  int status = 0;
  std::string message;
};
// Called with a request that has a body to come, when its head is known.
using HttpGate = std::function<std::optional<HttpRefusal>(const HttpRequest& head)>;

using HttpHandler = std::function<void(HttpRequest request, std::shared_ptr<HttpReply> reply)>;

class HttpServer {
 public:
  // The handler is called on the server's thread; it must return soon and keep `reply` for later if
  // need be. What it throws is answered 500 and logged. Gate and log may be empty.
  HttpServer(const HttpLimits& limits,
             HttpHandler handler,
             HttpGate gate = {},
             std::function<void(const std::string&)> log = {});
  ~HttpServer();

  // Binds, and starts the thread. Port 0 takes any free one.
  Status start(const std::string& address, int port);
  int port() const;
  int num_connections() const;

  // Takes no new connections, lets clients have what has been sent to them, for at most the
  // write_timeout, and stops.
  void drain();
  // Closes everything and joins the thread.
  void stop();

  struct Impl;

 private:
  void stop_within(std::chrono::seconds limit);

  std::shared_ptr<Impl> impl_;
};

}  // namespace plimsoll
