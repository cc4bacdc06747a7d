// A small HTTP/1.1 client: any number of calls at once on the thread that runs the io_context,
// each on a connection of its own, answers handed on as their bytes arrive.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <chrono>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "plimsoll/result.h"

namespace plimsoll {

struct HttpUrl {
  std::string host;
  int port = 80;
  std::string prefix;  // of every path: "" or "/some/path"

  std::string text() const;
};

// "http://host[:port][/prefix]"; the error says what was expected.
Result<HttpUrl> parse_http_url(std::string_view url);

struct HttpCall {
  std::string method = "GET";
  std::string path;
  std::string body;                            // JSON, if there is one
  std::string bearer_token;                    // empty: no Authorization is sent
  std::map<std::string, std::string> headers;  // more of them
  std::chrono::milliseconds timeout{300'000};  // without a byte from the server
};

// What hears of an answer: its head, its body's bytes in pieces, and once its end, which is an
// error where the answer broke off or never came.
struct HttpListener {
  std::function<void(int status, std::string_view content_type)> on_head;
  std::function<void(std::string_view bytes)> on_bytes;
  std::function<void(Status status)> on_end;
};

class HttpClient {
 public:
  // Looks the host up; `io` must outlive every call.
  static Result<HttpClient> create(boost::asio::io_context& io, const HttpUrl& url);

  // The function returned breaks the call off: its listener hears an error, unless it has heard the
  // end before.
  std::function<void()> start(HttpCall call, HttpListener listener) const;

  const HttpUrl& url() const { return url_; }

 private:
  using Endpoints = std::vector<boost::asio::ip::tcp::endpoint>;
  HttpClient(boost::asio::io_context& io, HttpUrl url, Endpoints endpoints)
      : io_(&io), url_(std::move(url)), endpoints_(std::move(endpoints)) {}

  boost::asio::io_context* io_;
  HttpUrl url_;
  Endpoints endpoints_;
};

struct HttpAnswer {
  int status = 0;
  std::string content_type;
  std::string body;
};

// One call from beginning to end; the answer's body may have 16 MiB at most.
Result<HttpAnswer> http_ask(const HttpUrl& url, HttpCall call);

}  // namespace plimsoll
