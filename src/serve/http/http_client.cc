#include "serve/http/http_client.h"

#include <array>
#include <boost/asio.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <charconv>
#include <limits>
#include <memory>

namespace plimsoll {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
using tcp = asio::ip::tcp;
using boost::system::error_code;

// One call on its way. Each operation keeps it alive; nothing else does.
class Exchange : public std::enable_shared_from_this<Exchange> {
 public:
  Exchange(asio::io_context& io, HttpUrl url, HttpCall call, HttpListener listener)
      : socket_(io),
        clock_(io),
        url_(std::move(url)),
        call_(std::move(call)),
        listener_(std::move(listener)) {
    parser_.body_limit(std::numeric_limits<uint64_t>::max());
  }

  void start(const std::vector<tcp::endpoint>& endpoints) {
    expect_more();
    watch_clock();
    asio::async_connect(socket_, endpoints,
                        [self = shared_from_this()](error_code error, const tcp::endpoint&) {
                          if (error)
                            return self->fail(error, "cannot connect to " + self->url_.text());
                          self->send();
                        });
  }

  // What is on its way ends with an error, and so does what is tried later.
  void break_off() {
    error_code ignored;
    socket_.close(ignored);
  }

 private:
  static constexpr size_t kBufferBytes = 64 * 1024;
  static constexpr size_t kReadBytes = 16 * 1024;

  // From now on. The clock is not set anew for every piece that comes, but looks when it runs out.
  void expect_more() { due_ = std::chrono::steady_clock::now() + call_.timeout; }

  void watch_clock() {
    clock_.expires_at(due_);
    clock_.async_wait([self = shared_from_this()](error_code stopped) {
      if (stopped || self->ended_) return;
      if (self->due_ > std::chrono::steady_clock::now()) return self->watch_clock();
      self->timed_out_ = true;
      self->break_off();
    });
  }

  void send() {
    error_code ignored;
    socket_.set_option(tcp::no_delay(true), ignored);
    request_.method_string(call_.method);
    request_.target(url_.prefix + call_.path);
    request_.version(11);
    const bool is_address = url_.host.find(':') != std::string::npos;  // IPv6
    const std::string host = is_address ? "[" + url_.host + "]" : url_.host;
    request_.set(http::field::host, host + ":" + std::to_string(url_.port));
    request_.set(http::field::accept, "application/json, text/event-stream");
    request_.keep_alive(false);
    if (!call_.bearer_token.empty()) {
      request_.set(http::field::authorization, "Bearer " + call_.bearer_token);
    }
    for (const auto& [name, value] : call_.headers) request_.set(name, value);
    if (!call_.body.empty()) request_.set(http::field::content_type, "application/json");
    request_.body() = std::move(call_.body);
    request_.prepare_payload();
    expect_more();
    http::async_write(socket_, request_, [self = shared_from_this()](error_code error, size_t) {
      // A server may refuse a request before it has read all of it: its answer says why.
      const bool hung_up =
          error == asio::error::broken_pipe || error == asio::error::connection_reset;
      if (error && !hung_up) return self->fail(error, "the request could not be sent");
      self->read_head();
    });
  }

  void read_head() {
    expect_more();
    http::async_read_header(
        socket_, buffer_, parser_, [self = shared_from_this()](error_code error, size_t) {
          if (error) return self->fail(error, "the server did not answer");
          const auto& head = self->parser_.get();
          const auto type = head[http::field::content_type];
          self->listener_.on_head(static_cast<int>(head.result_int()), {type.data(), type.size()});
          self->parser_.eager(true);
          self->take_body();
        });
  }

  // Beast's own loop costs more than all else where an answer comes in many small pieces.
  void read_body() {
    expect_more();
    socket_.async_read_some(buffer_.prepare(kReadBytes),
                            [self = shared_from_this()](error_code error, size_t num_bytes) {
                              self->buffer_.commit(num_bytes);
                              if (error == asio::error::eof) {
                                error = {};
                                self->parser_.put_eof(error);
                              }
                              if (error) return self->fail(error, "the answer broke off");
                              self->take_body();
                            });
  }

  void take_body() {
    error_code error;
    while (buffer_.size() > 0 && !parser_.is_done() && error != http::error::need_more) {
      parser_.get().body().data = chunk_.data();
      parser_.get().body().size = chunk_.size();
      buffer_.consume(parser_.put(buffer_.data(), error));
      const size_t num_bytes = chunk_.size() - parser_.get().body().size;
      if (num_bytes > 0) listener_.on_bytes({chunk_.data(), num_bytes});
      const bool goes_on =
          !error || error == http::error::need_more || error == http::error::need_buffer;
      if (!goes_on) return fail(error, "the answer broke off");
    }
    if (parser_.is_done()) return end(ok_status());
    read_body();
  }

  void fail(error_code error, const std::string& what) {
    std::string why = error.message();
    if (timed_out_) {
      why =
          "nothing came for " +
          std::to_string(std::chrono::duration_cast<std::chrono::seconds>(call_.timeout).count()) +
          " s";
    } else if (error == http::error::end_of_stream || error == http::error::partial_message) {
      why = "the server closed the connection";
    } else if (error.category() == make_error_code(http::error::bad_version).category()) {
      why = "no valid HTTP (" + why + ")";
    }
    end(unavailable(what + ": " + why));
  }

  void end(Status status) {
    ended_ = true;
    clock_.cancel();
    break_off();
    listener_.on_end(std::move(status));
  }

  asio::basic_stream_socket<tcp, asio::io_context::executor_type> socket_;
  asio::steady_timer clock_;
  std::chrono::steady_clock::time_point due_;
  bool timed_out_ = false;
  bool ended_ = false;
  HttpUrl url_;
  HttpCall call_;
  HttpListener listener_;
  http::request<http::string_body> request_;
  http::response_parser<http::buffer_body> parser_;
  beast::flat_buffer buffer_{kBufferBytes};
  std::array<char, kReadBytes> chunk_;
};

}  // namespace

std::string HttpUrl::text() const {
  const bool is_address = host.find(':') != std::string::npos;  // IPv6
  return "http://" + (is_address ? "[" + host + "]" : host) + ":" + std::to_string(port) + prefix;
}

Result<HttpUrl> parse_http_url(std::string_view url) {
  const Error bad = invalid_argument("'" + std::string(url) +
                                     "' is no URL of a server; expected http://HOST:PORT");
  constexpr std::string_view kScheme = "http://";
  if (url.starts_with("https://")) {
    return unsupported("'" + std::string(url) +
                       "': TLS is not spoken here; give the http:// address of the server itself, "
                       "or of a proxy in front of it");
  }
  if (!url.starts_with(kScheme)) return bad;
  url.remove_prefix(kScheme.size());
  HttpUrl parts;
  const size_t path_at = std::min(url.find('/'), url.size());
  parts.prefix = url.substr(path_at);
  while (parts.prefix.ends_with('/')) parts.prefix.pop_back();
  std::string_view host = url.substr(0, path_at);
  const size_t bracket = host.rfind(']');
  const size_t colon = host.find(':', bracket == host.npos ? 0 : bracket);
  if (colon != host.npos) {
    const std::string_view port = host.substr(colon + 1);
    const auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), parts.port);
    if (error != std::errc() || end != port.data() + port.size()) return bad;
    if (parts.port < 1 || parts.port > 65535) return bad;
    host = host.substr(0, colon);
  }
  if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
  const bool is_plain = url.find_first_of(" \t\r\n@?#\\") == url.npos;
  if (host.empty() || !is_plain) return bad;
  parts.host = host;
  return parts;
}

Result<HttpClient> HttpClient::create(asio::io_context& io, const HttpUrl& url) {
  error_code error;
  tcp::resolver resolver(io);
  const auto found = resolver.resolve(url.host, std::to_string(url.port), error);
  if (error) return unavailable("cannot find the host " + url.host + ": " + error.message());
  return HttpClient(io, url, Endpoints(found.begin(), found.end()));
}

std::function<void()> HttpClient::start(HttpCall call, HttpListener listener) const {
  const auto exchange =
      std::make_shared<Exchange>(*io_, url_, std::move(call), std::move(listener));
  exchange->start(endpoints_);
  return [weak = std::weak_ptr(exchange)] {
    if (const auto alive = weak.lock()) alive->break_off();
  };
}

Result<HttpAnswer> http_ask(const HttpUrl& url, HttpCall call) {
  constexpr size_t kMaxBodyBytes = 16 * 1024 * 1024;
  asio::io_context io{1};
  const auto client = HttpClient::create(io, url);
  if (!client) return client.error();
  HttpAnswer answer;
  Status status = unavailable("the server did not answer");
  client->start(std::move(call), {.on_head =
                                      [&](int code, std::string_view type) {
                                        answer.status = code;
                                        answer.content_type = type;
                                      },
                                  .on_bytes =
                                      [&](std::string_view bytes) {
                                        answer.body += bytes;
                                        if (answer.body.size() > kMaxBodyBytes) io.stop();
                                      },
                                  .on_end = [&](Status ended) { status = std::move(ended); }});
  io.run();
  if (answer.body.size() > kMaxBodyBytes) {
    return unavailable("the answer of " + url.text() + " is larger than 16 MiB");
  }
  if (!status) return status.error();
  return answer;
}

}  // namespace plimsoll
