#include "serve/http/http_server.h"

#include <poll.h>

#include <algorithm>
#include <atomic>
#include <boost/asio.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <deque>
#include <optional>
#include <sstream>
#include <thread>
#include <unordered_set>

#include "serve/http/api_error.h"
#include "serve/http/http_head.h"
#include "serve/http/http_outlet.h"
#include "serve/http/url.h"

namespace plimsoll {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
using tcp = asio::ip::tcp;

class Connection;

// A body's share of the memory that all bodies may have.
class BodyShare {
 public:
  explicit BodyShare(std::shared_ptr<std::atomic<size_t>> total) : total_(std::move(total)) {}
  BodyShare(const BodyShare&) = delete;
  ~BodyShare() { *total_ -= num_bytes_; }

  // False where all together would have more than `max_bytes`.
  bool grow_to(size_t num_bytes, size_t max_bytes) {
    if (num_bytes <= num_bytes_) return true;
    const size_t more = num_bytes - num_bytes_;
    num_bytes_ = num_bytes;
    return total_->fetch_add(more) + more <= max_bytes;
  }

 private:
  const std::shared_ptr<std::atomic<size_t>> total_;
  size_t num_bytes_ = 0;
};

constexpr auto kNever = std::chrono::steady_clock::time_point::max();

struct HttpServer::Impl {
  Impl(const HttpLimits& limits,
       HttpHandler handler,
       HttpGate gate,
       std::function<void(const std::string&)> log)
      : limits(limits),
        handler(std::move(handler)),
        gate(std::move(gate)),
        log(std::move(log)),
        acceptor(io),
        retry(io),
        stopping(io) {}

  void run();
  void accept();
  void add(tcp::socket socket);
  void forget(const std::shared_ptr<Connection>& connection);
  bool close_idlest(const asio::ip::address* of = nullptr);
  void stop_once_sent(std::chrono::steady_clock::time_point deadline);

  HttpLimits limits;
  HttpHandler handler;
  HttpGate gate;
  std::function<void(const std::string&)> log;
  const std::shared_ptr<std::atomic<size_t>> num_body_bytes =
      std::make_shared<std::atomic<size_t>>(0);
  asio::io_context io{1};
  tcp::acceptor acceptor;
  int port = 0;
  asio::steady_timer retry;  // after accept has failed for want of file descriptors
  asio::steady_timer stopping;
  std::unordered_set<std::shared_ptr<Connection>> connections;
  std::map<asio::ip::address, int> num_of_address;
  std::atomic<int> num_connections = 0;
  std::thread thread;
};

// One client. All members are touched on the server's thread only, but the outlet.
class Connection : public std::enable_shared_from_this<Connection> {
 public:
  Connection(HttpServer::Impl& server, tcp::socket socket, const asio::ip::address& client)
      : client(client),
        server_(server),
        socket_(std::move(socket)),
        outlet_(std::make_shared<HttpOutlet>(socket_.native_handle())),
        deadline_(server.io),
        watch_(server.io),
        buffer_(kReadBufferBytes) {}

  const asio::ip::address client;

  void start() { read_request(/*first=*/true); }
  bool has_unsent() const { return !unsent_.empty(); }
  // Since when it has waited for its client's next request; the end of time while it does not.
  std::chrono::steady_clock::time_point idle_since() const { return idle_since_; }
  void close();

  // The answer to request number `request` of this connection; stale ones are ignored.
  void send_head(uint64_t request,
                 int status,
                 const std::string& type,
                 const std::string& body,
                 const std::map<std::string, std::string>& headers);
  void begin_stream(uint64_t request, int status, const std::string& type);
  void send_bytes(uint64_t request, std::string bytes);
  void end_stream(uint64_t request);
  void set_left_callback(uint64_t request, std::function<void()> callback);

 private:
  static constexpr size_t kReadBufferBytes = 64 * 1024;
  static constexpr std::chrono::seconds kLingerTime{2};
  static constexpr std::chrono::milliseconds kLookInterval{500};

  void expect_within(std::chrono::seconds limit);
  void stop_clock() { deadline_.expires_at(kNever); }
  void read_request(bool first);
  void on_header(beast::error_code error);
  void read_body();
  void on_body(beast::error_code error);
  void refuse(int status, const std::string& message);
  void dispatch();
  void watch_for_leaving();
  void look_for_leaving();
  bool seems_gone() const { return half_closed_ && left_ && !streaming_; }
  void linger();
  void drop_bytes();
  void queue(std::string bytes);
  void write_next();
  void wait_to_write();
  void on_all_sent();
  bool count_sent(size_t num_bytes);
  void finish_answer();

  HttpServer::Impl& server_;
  tcp::socket socket_;
  const std::shared_ptr<HttpOutlet> outlet_;
  asio::steady_timer deadline_;
  asio::steady_timer watch_;  // for a client that leaves behind bytes that nobody reads yet
  bool timed_out_ = false;
  std::chrono::steady_clock::time_point idle_since_ = kNever;
  beast::flat_buffer buffer_;
  std::optional<http::request_parser<http::string_body>> parser_;
  std::shared_ptr<BodyShare> body_memory_;
  uint64_t request_idx_ = 0;
  bool answering_ = false;  // between a request's dispatch and the last byte queued for it
  bool streaming_ = false;
  bool chunked_ = false;
  bool head_only_ = false;  // the request is HEAD
  bool keep_alive_ = false;
  bool half_closed_ = false;  // nothing more comes from the client
  bool refused_ = false;      // without having been read to its end
  bool closed_ = false;
  std::deque<std::string> unsent_;
  size_t num_unsent_bytes_ = 0;
  size_t num_sent_bytes_ = 0;  // of the first of unsent_
  bool writing_ = false;
  std::function<void()> left_;
};

namespace {

std::string as_chunk(const std::string& bytes) {
  char size[24];
  const int length = std::snprintf(size, sizeof size, "%zx\r\n", bytes.size());
  std::string chunk;
  chunk.reserve(static_cast<size_t>(length) + bytes.size() + 2);
  return chunk.append(size, static_cast<size_t>(length)).append(bytes).append("\r\n");
}

class Reply final : public HttpReply {
 public:
  Reply(asio::io_context& io,
        std::weak_ptr<Connection> connection,
        std::shared_ptr<HttpOutlet> outlet,
        uint64_t request,
        bool chunked)
      : io_(io),
        connection_(std::move(connection)),
        outlet_(std::move(outlet)),
        request_(request),
        chunked_(chunked) {}

  void send(int status,
            std::string content_type,
            std::string body,
            std::map<std::string, std::string> headers) override {
    post([=, request = request_](Connection& connection) {
      connection.send_head(request, status, content_type, body, headers);
    });
  }
  void begin_stream(int status, std::string content_type) override {
    post([=, request = request_](Connection& connection) {
      connection.begin_stream(request, status, content_type);
    });
  }
  void write(std::string piece) override {
    if (piece.empty()) return;
    std::string bytes = chunked_ ? as_chunk(piece) : std::move(piece);
    const size_t num_gone = outlet_->write(request_, bytes);
    if (num_gone == bytes.size()) return;
    bytes.erase(0, num_gone);
    post_announced([bytes = std::move(bytes), request = request_](Connection& connection) mutable {
      connection.send_bytes(request, std::move(bytes));
    });
  }
  void end() override {
    post([request = request_](Connection& connection) { connection.end_stream(request); });
  }
  void on_client_left(std::function<void()> callback) override {
    asio::post(io_, [connection = connection_, callback = std::move(callback), request = request_] {
      if (const auto alive = connection.lock()) return alive->set_left_callback(request, callback);
      callback();  // it has left already
    });
  }

 private:
  template <typename Action>
  void post(Action action) {
    outlet_->announce();
    post_announced(std::move(action));
  }
  template <typename Action>
  void post_announced(Action action) {
    asio::post(io_,
               [connection = connection_, outlet = outlet_, action = std::move(action)]() mutable {
                 if (const auto alive = connection.lock()) action(*alive);
                 outlet->done();
               });
  }

  asio::io_context& io_;
  std::weak_ptr<Connection> connection_;
  std::shared_ptr<HttpOutlet> outlet_;
  uint64_t request_;
  bool chunked_;
};

}  // namespace

void Connection::close() {
  if (closed_) return;
  closed_ = true;
  outlet_->open_to(HttpOutlet::kNobody);
  beast::error_code ignored;
  socket_.shutdown(tcp::socket::shutdown_both, ignored);
  socket_.close(ignored);
  stop_clock();
  watch_.cancel();
  body_memory_ = nullptr;
  parser_.reset();
  if (answering_ && left_) left_();
  answering_ = false;
  left_ = nullptr;
  server_.forget(shared_from_this());
}

// Breaks off what the socket is doing if it takes longer; the operation's handler sees timed_out_.
void Connection::expect_within(std::chrono::seconds limit) {
  timed_out_ = false;
  deadline_.expires_after(limit);
  deadline_.async_wait([self = shared_from_this()](beast::error_code error) {
    // A clock that was stopped or set anew just after it ran out has not run out.
    const bool stale = self->deadline_.expiry() > std::chrono::steady_clock::now();
    if (error || stale || self->closed_) return;
    self->timed_out_ = true;
    self->socket_.cancel(error);
  });
}

void Connection::read_request(bool first) {
  head_only_ = false;
  parser_.emplace();
  parser_->header_limit(static_cast<uint32_t>(server_.limits.max_header_bytes));
  parser_->body_limit(server_.limits.max_body_bytes);
  idle_since_ = std::chrono::steady_clock::now();
  const bool has_bytes = buffer_.size() > 0;
  expect_within(first || has_bytes ? server_.limits.request_timeout : server_.limits.idle_timeout);
  http::async_read_header(
      socket_, buffer_, *parser_,
      [self = shared_from_this()](beast::error_code error, size_t) { self->on_header(error); });
}

void Connection::on_header(beast::error_code error) {
  if (closed_) return;
  idle_since_ = kNever;
  if (error == http::error::header_limit || error == http::error::buffer_overflow) {
    return refuse(431, "the request's head is larger than this server takes");
  }
  if (error == http::error::body_limit) {
    return refuse(413, "the request's body is larger than this server takes");
  }
  if (timed_out_ && buffer_.size() == 0) return close();
  if (timed_out_) return refuse(408, "the request did not arrive in time");
  if (error == http::error::end_of_stream || error == asio::error::connection_reset) return close();
  if (error) return refuse(400, "the bytes received are no HTTP request");
  head_only_ = parser_->get().method() == http::verb::head;
  if (const auto fault = head_fault(parser_->get().base(), server_.limits.max_header_bytes)) {
    return refuse(fault->status, fault->message);
  }
  const auto length = parser_->content_length();
  if (length && *length > server_.limits.max_body_bytes) {
    return refuse(413, "the request's body is larger than this server takes");
  }
  if (parser_->is_done()) {
    stop_clock();
    return dispatch();
  }
  if (server_.gate) {
    if (const auto refusal = server_.gate(request_of(parser_->get()))) {
      return refuse(refusal->status, refusal->message);
    }
  }
  body_memory_ = std::make_shared<BodyShare>(server_.num_body_bytes);
  expect_within(server_.limits.request_timeout);
  if (beast::iequals(parser_->get()[http::field::expect], "100-continue")) {
    return queue("HTTP/1.1 100 Continue\r\n\r\n");  // the body is read once this is sent
  }
  read_body();
}

// By pieces, so that a body counts for what has arrived of it.
void Connection::read_body() {
  http::async_read_some(
      socket_, buffer_, *parser_,
      [self = shared_from_this()](beast::error_code error, size_t) { self->on_body(error); });
}

void Connection::on_body(beast::error_code error) {
  if (closed_) return;
  if (error == http::error::body_limit) {
    return refuse(413, "the request's body is larger than this server takes");
  }
  if (timed_out_) return refuse(408, "the request did not arrive in time");
  if (error) return refuse(400, "the request's body is cut off or malformed");
  const size_t num_bytes = parser_->get().body().size();
  if (!body_memory_->grow_to(num_bytes, server_.limits.max_body_memory_bytes)) {
    return refuse(503, "the bodies of all requests take more memory than this server has for them");
  }
  if (!parser_->is_done()) return read_body();
  stop_clock();
  dispatch();
}

// Answers a request that could not be read, and ends the connection.
void Connection::refuse(int status, const std::string& message) {
  keep_alive_ = false;
  answering_ = true;
  refused_ = true;
  std::map<std::string, std::string> headers;
  if (status == 503) headers["Retry-After"] = "1";
  if (status == 401) headers["WWW-Authenticate"] = "Bearer";
  send_head(++request_idx_, status, "application/json", api_error_body(status, message), headers);
  body_memory_ = nullptr;
  parser_.reset();
}

// Closing on bytes that were not read would make the kernel reset the connection, and the client
// lose the answer. What still comes is dropped for a while.
void Connection::linger() {
  beast::error_code ignored;
  socket_.shutdown(tcp::socket::shutdown_send, ignored);
  expect_within(kLingerTime);
  drop_bytes();
}

void Connection::drop_bytes() {
  buffer_.clear();
  socket_.async_read_some(buffer_.prepare(kReadBufferBytes),
                          [self = shared_from_this()](beast::error_code error, size_t) {
                            if (self->closed_) return;
                            if (error) return self->close();
                            self->drop_bytes();
                          });
}

void Connection::dispatch() {
  const auto& message = parser_->get();
  HttpRequest request = request_of(message);
  keep_alive_ = message.keep_alive();
  chunked_ = message.version() >= 11;
  request.body = std::move(parser_->get().body());
  request.body_memory = std::move(body_memory_);
  answering_ = true;
  streaming_ = false;
  half_closed_ = false;
  ++request_idx_;
  watch_for_leaving();
  const auto reply =
      std::make_shared<Reply>(server_.io, weak_from_this(), outlet_, request_idx_, chunked_);
  answer_or_500(*reply, server_.log, [&] { server_.handler(std::move(request), reply); });
}

// While an answer is being made nothing is read, so a client that hangs up shows as readability.
// One that only has no more to send looks the same. Who holds work back for it hears that it has
// left; where nobody does, and where a stream runs, the next writes tell.
void Connection::watch_for_leaving() {
  socket_.async_wait(tcp::socket::wait_read,
                     [self = shared_from_this(), request = request_idx_](beast::error_code error) {
                       if (error || request != self->request_idx_) return;
                       self->look_for_leaving();
                     });
}

void Connection::look_for_leaving() {
  if (closed_ || !answering_) return;
  // Bytes may wait before the end: those of the next request, which nobody reads yet.
  pollfd state = {.fd = socket_.native_handle(), .events = POLLIN | POLLRDHUP, .revents = 0};
  ::poll(&state, 1, 0);
  half_closed_ = (state.revents & POLLRDHUP) != 0;
  const bool reset = (state.revents & (POLLERR | POLLHUP)) != 0;
  if (reset || seems_gone()) return close();
  if (half_closed_) return;
  // The event may be that of bytes which have been read already.
  if ((state.revents & POLLIN) == 0) return watch_for_leaving();
  watch_.expires_after(kLookInterval);
  watch_.async_wait(
      [self = shared_from_this(), request = request_idx_](beast::error_code cancelled) {
        if (!cancelled && request == self->request_idx_) self->look_for_leaving();
      });
}

void Connection::set_left_callback(uint64_t request, std::function<void()> callback) {
  if (closed_ || request != request_idx_ || !answering_) {
    if (request == request_idx_ || closed_) callback();
    return;
  }
  left_ = std::move(callback);
  if (seems_gone()) close();
}

void Connection::send_head(uint64_t request,
                           int status,
                           const std::string& type,
                           const std::string& body,
                           const std::map<std::string, std::string>& headers) {
  if (closed_ || request != request_idx_ || !answering_) return;
  http::response<http::string_body> response(static_cast<http::status>(status), 11);
  response.set(http::field::content_type, type);
  for (const auto& [name, value] : headers) response.set(name, value);
  response.keep_alive(keep_alive_);
  response.body() = body;
  response.prepare_payload();
  std::ostringstream bytes;
  if (head_only_) {
    bytes << response.base();
  } else {
    bytes << response;
  }
  queue(bytes.str());
  finish_answer();
}

void Connection::begin_stream(uint64_t request, int status, const std::string& type) {
  if (closed_ || request != request_idx_ || !answering_ || streaming_) return;
  streaming_ = true;
  if (!chunked_) keep_alive_ = false;
  http::response<http::empty_body> head(static_cast<http::status>(status), 11);
  head.set(http::field::content_type, type);
  head.set(http::field::cache_control, "no-cache");
  head.keep_alive(keep_alive_);
  if (chunked_) head.chunked(true);
  std::ostringstream bytes;
  bytes << head.base();
  queue(bytes.str());
}

void Connection::send_bytes(uint64_t request, std::string bytes) {
  if (closed_ || request != request_idx_ || !streaming_ || head_only_) return;
  queue(std::move(bytes));
}

void Connection::end_stream(uint64_t request) {
  if (closed_ || request != request_idx_ || !streaming_) return;
  if (chunked_ && !head_only_) queue("0\r\n\r\n");
  finish_answer();
}

void Connection::finish_answer() {
  answering_ = false;
  streaming_ = false;
  left_ = nullptr;
  watch_.cancel();
  if (!writing_) write_next();
}

// A whole answer is as large as it is; a stream is limited, for nothing else slows its source down.
void Connection::queue(std::string bytes) {
  num_unsent_bytes_ += bytes.size();
  unsent_.push_back(std::move(bytes));
  if (streaming_ && num_unsent_bytes_ > server_.limits.max_unsent_bytes) return close();
  if (!writing_) write_next();
}

// Mostly the socket takes all at once. Where it does not, others have their turn before the rest.
void Connection::write_next() {
  while (!closed_ && !unsent_.empty()) {
    beast::error_code error;
    const size_t num_bytes =
        socket_.write_some(asio::buffer(unsent_.front()) + num_sent_bytes_, error);
    if (error && error != asio::error::would_block) return close();
    if (!count_sent(num_bytes)) return wait_to_write();
  }
  if (closed_) return;
  outlet_->open_to(streaming_ && !head_only_ ? request_idx_ : HttpOutlet::kNobody);
  on_all_sent();
}

void Connection::wait_to_write() {
  writing_ = true;
  outlet_->open_to(HttpOutlet::kNobody);
  expect_within(server_.limits.write_timeout);
  socket_.async_wait(tcp::socket::wait_write, [self = shared_from_this()](beast::error_code error) {
    self->writing_ = false;
    if (self->closed_) return;
    if (error) return self->close();
    self->stop_clock();
    self->write_next();
  });
}

void Connection::on_all_sent() {
  if (answering_) return;  // more is to come
  if (refused_) return linger();
  if (parser_ && !parser_->is_done()) return read_body();  // after 100 Continue
  if (!keep_alive_) return close();
  read_request(/*first=*/false);
}

// Returns whether the first of unsent_ is on its way to its end.
bool Connection::count_sent(size_t num_bytes) {
  num_unsent_bytes_ -= num_bytes;
  num_sent_bytes_ += num_bytes;
  if (num_sent_bytes_ < unsent_.front().size()) return false;
  unsent_.pop_front();
  num_sent_bytes_ = 0;
  return true;
}

// Makes room for a new client: closes the connection, of one address or of any, that has waited
// longest for its client's next request. False where all are busy.
bool HttpServer::Impl::close_idlest(const asio::ip::address* of) {
  const auto since = [of](const std::shared_ptr<Connection>& connection) {
    return of == nullptr || connection->client == *of ? connection->idle_since() : kNever;
  };
  const auto idlest = std::ranges::min_element(connections, {}, since);
  if (idlest == connections.end() || since(*idlest) == kNever) return false;
  const std::shared_ptr<Connection> closed = *idlest;
  closed->close();
  return true;
}

void HttpServer::Impl::accept() {
  acceptor.async_accept([this](beast::error_code error, tcp::socket socket) {
    if (error == asio::error::operation_aborted) return;
    if (error == asio::error::no_descriptors && close_idlest()) return accept();
    if (error) {
      retry.expires_after(std::chrono::milliseconds(100));
      return retry.async_wait([this](beast::error_code cancelled) {
        if (!cancelled) accept();
      });
    }
    add(std::move(socket));
    accept();
  });
}

void HttpServer::Impl::add(tcp::socket socket) {
  beast::error_code ignored;
  const asio::ip::address client = socket.remote_endpoint(ignored).address();
  const int max_of_address = limits.max_connections_per_address > 0
                                 ? limits.max_connections_per_address
                                 : limits.max_connections - limits.max_connections / 4;
  const auto of_address = num_of_address.find(client);
  const bool has_many = of_address != num_of_address.end() && of_address->second >= max_of_address;
  if (has_many && !close_idlest(&client)) return;
  if (static_cast<int>(connections.size()) >= limits.max_connections && !close_idlest()) return;
  socket.set_option(tcp::no_delay(true), ignored);
  socket.non_blocking(true, ignored);
  const auto connection = std::make_shared<Connection>(*this, std::move(socket), client);
  connections.insert(connection);
  ++num_of_address[client];
  num_connections = static_cast<int>(connections.size());
  connection->start();
}

void HttpServer::Impl::forget(const std::shared_ptr<Connection>& connection) {
  if (connections.erase(connection) == 0) return;
  num_connections = static_cast<int>(connections.size());
  const auto of_address = num_of_address.find(connection->client);
  if (--of_address->second == 0) num_of_address.erase(of_address);
}

// What a connection's code throws, such as for want of memory, ends neither the thread nor others.
void HttpServer::Impl::run() {
  while (true) {
    try {
      io.run();
      return;
    } catch (const std::exception& error) {
      if (log) log(std::string("a connection failed: ") + error.what());
    }
  }
}

HttpServer::HttpServer(const HttpLimits& limits,
                       HttpHandler handler,
                       HttpGate gate,
                       std::function<void(const std::string&)> log)
    : impl_(std::make_shared<Impl>(limits, std::move(handler), std::move(gate), std::move(log))) {}

HttpServer::~HttpServer() {
  stop();
}

Status HttpServer::start(const std::string& address, int port) {
  beast::error_code error;
  const auto ip = asio::ip::make_address(address, error);
  if (error) {
    return invalid_argument("cannot listen on " + address +
                            ": expected an IP address such as "
                            "127.0.0.1 or 0.0.0.0");
  }
  const tcp::endpoint endpoint(ip, static_cast<uint16_t>(port));
  tcp::acceptor& acceptor = impl_->acceptor;
  acceptor.open(endpoint.protocol(), error);
  if (!error) acceptor.set_option(asio::socket_base::reuse_address(true), error);
  if (!error) acceptor.bind(endpoint, error);
  if (!error) acceptor.listen(1024, error);
  if (!error) impl_->port = acceptor.local_endpoint(error).port();
  if (error) {
    return io_error("cannot listen on " + address + ":" + std::to_string(port) + ": " +
                    error.message());
  }
  impl_->accept();
  impl_->thread = std::thread([impl = impl_] { impl->run(); });
  return ok_status();
}

int HttpServer::port() const {
  return impl_->port;
}

int HttpServer::num_connections() const {
  return impl_->num_connections;
}

void HttpServer::Impl::stop_once_sent(std::chrono::steady_clock::time_point deadline) {
  const bool waits =
      std::ranges::any_of(connections, [](const auto& open) { return open->has_unsent(); });
  if (waits && std::chrono::steady_clock::now() < deadline) {
    stopping.expires_after(std::chrono::milliseconds(10));
    return stopping.async_wait([this, deadline](beast::error_code) { stop_once_sent(deadline); });
  }
  const auto open = connections;
  for (const auto& connection : open) connection->close();
  io.stop();
}

void HttpServer::drain() {
  stop_within(impl_->limits.write_timeout);
}

void HttpServer::stop() {
  stop_within(std::chrono::seconds(0));
}

void HttpServer::stop_within(std::chrono::seconds limit) {
  if (!impl_->thread.joinable()) return;
  asio::post(impl_->io, [impl = impl_, deadline = std::chrono::steady_clock::now() + limit] {
    beast::error_code ignored;
    impl->acceptor.close(ignored);
    impl->retry.cancel();
    impl->stop_once_sent(deadline);
  });
  impl_->thread.join();
}

std::string_view HttpRequest::header(const std::string& name) const {
  const auto found = headers.find(name);
  return found == headers.end() ? std::string_view() : std::string_view(found->second);
}

}  // namespace plimsoll
