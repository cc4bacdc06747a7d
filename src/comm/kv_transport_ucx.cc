// The transport over UCX: active messages, one worker, one thread that does everything with it.
#ifdef PLIMSOLL_UCX
#include <arpa/inet.h>
#include <netdb.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <ucp/api/ucp.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <optional>
#include <thread>
#include <unordered_map>
#include <utility>

#include "comm/kv_transport.h"

namespace plimsoll {
namespace {

using Clock = std::chrono::steady_clock;
constexpr unsigned kMessageId = 1;  // UCX's number for all messages of ours
constexpr int64_t kGoodbye = 1;     // the id of a last heartbeat

struct Header {
  uint32_t kind = 0;
  uint32_t reserved = 0;
  int64_t id = 0;
};

// A numeric address or a host's name, and a port.
Result<sockaddr_storage> resolve(const std::string& address, int port) {
  const addrinfo hints{.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
  addrinfo* found = nullptr;
  const int failed = getaddrinfo(address.c_str(), std::to_string(port).c_str(), &hints, &found);
  if (failed != 0) {
    return unavailable("no address found for " + address + ": " + gai_strerror(failed));
  }
  sockaddr_storage result = {};
  std::memcpy(&result, found->ai_addr, found->ai_addrlen);
  freeaddrinfo(found);
  return result;
}

ucs_sock_addr_t view(const sockaddr_storage& address) {
  return {.addr = reinterpret_cast<const sockaddr*>(&address),
          .addrlen = static_cast<socklen_t>(address.ss_family == AF_INET6 ? sizeof(sockaddr_in6)
                                                                          : sizeof(sockaddr_in))};
}

Error failed(const std::string& what, ucs_status_t status) {
  return unavailable(what + ": " + ucs_status_string(status));
}

class UcxTransport final : public KvTransport {
 public:
  UcxTransport(const KvOptions& options, KvHandlers handlers)
      : options_(options), handlers_(std::move(handlers)) {}
  ~UcxTransport() override;

  Status start();

  Result<int> listen(const std::string& address, int port) override;
  KvPeer connect(const std::string& address, int port) override;
  void send(KvPeer peer, KvMessage message) override;
  void close(KvPeer peer) override;
  void post(std::function<void()> action) override;

 private:
  struct Connection {
    UcxTransport* transport = nullptr;
    KvPeer peer = 0;
    ucp_ep_h endpoint = nullptr;
    Clock::time_point last_heard;
    // UCX 1.13 may abort where large messages wait for a connection that is still choosing its
    // lanes, so they are held until a heartbeat has made its way in both directions.
    bool flushed = false;
    bool heard = false;
    std::vector<KvMessage> held;
    bool closed = false;  // no longer in connections_
    Clock::time_point closed_at;

    bool ready() const { return flushed && heard; }
  };
  struct Outgoing {
    Header header;
    std::vector<std::byte> payload;
  };

  void serve();
  void run_actions();
  void wait_for_events();
  void beat();
  void reap();
  void open(KvPeer peer, ucp_ep_params_t params);
  void send_now(Connection& connection, Header header, std::vector<std::byte> payload);
  void release_held(Connection& connection);
  void release_later(KvPeer peer);
  void drop(KvPeer peer, const Error* why);
  Connection* find(ucp_ep_h endpoint);

  static void on_connection(ucp_conn_request_h request, void* self);
  static void on_endpoint_error(void* connection, ucp_ep_h endpoint, ucs_status_t status);
  static void on_sent(void* request, ucs_status_t status, void* outgoing);
  static void on_flushed(void* request, ucs_status_t status, void* connection);
  static ucs_status_t on_active_message(void* self,
                                        const void* header,
                                        size_t header_length,
                                        void* data,
                                        size_t length,
                                        const ucp_am_recv_param_t* param);

  const KvOptions options_;
  const KvHandlers handlers_;
  ucp_context_h context_ = nullptr;
  ucp_worker_h worker_ = nullptr;
  ucp_listener_h listener_ = nullptr;
  int worker_fd_ = -1;
  int wake_fd_ = -1;
  std::atomic<KvPeer> next_peer_ = 1;

  std::mutex mutex_;
  std::vector<std::function<void()>> actions_;
  bool stopping_ = false;

  // Of the transport's thread.
  std::unordered_map<KvPeer, std::unique_ptr<Connection>> connections_;
  std::vector<std::pair<KvPeer, Error>> broken_;      // noticed within a callback of UCX
  std::vector<std::unique_ptr<Connection>> retired_;  // UCX may still call back with them
  std::vector<ucs_status_ptr_t> closing_;
  Clock::time_point next_beat_;
  std::thread thread_;
};

Status UcxTransport::start() {
  ucp_params_t params = {};
  params.field_mask = UCP_PARAM_FIELD_FEATURES;
  params.features = UCP_FEATURE_AM | UCP_FEATURE_WAKEUP;
  // A server that comes back on the same port would otherwise have to wait for the kernel to forget
  // the connections of the one that died. A setting of the user's own stands.
  setenv("UCX_TCP_CM_REUSEADDR", "y", /*overwrite=*/0);
  ucp_config_t* config = nullptr;
  if (const ucs_status_t status = ucp_config_read(nullptr, nullptr, &config); status != UCS_OK) {
    return failed("UCX's settings cannot be read", status);
  }
  const ucs_status_t initialised = ucp_init(&params, config, &context_);
  ucp_config_release(config);
  if (initialised != UCS_OK) return failed("UCX does not start", initialised);

  ucp_worker_params_t worker_params = {};
  worker_params.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE;
  worker_params.thread_mode = UCS_THREAD_MODE_SERIALIZED;
  ucs_status_t status = ucp_worker_create(context_, &worker_params, &worker_);
  if (status != UCS_OK) return failed("UCX finds no transport", status);
  status = ucp_worker_get_efd(worker_, &worker_fd_);
  if (status != UCS_OK) return failed("UCX's worker cannot be waited for", status);

  ucp_am_handler_param_t handler = {};
  handler.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_CB |
                       UCP_AM_HANDLER_PARAM_FIELD_ARG | UCP_AM_HANDLER_PARAM_FIELD_FLAGS;
  handler.id = kMessageId;
  handler.flags = UCP_AM_FLAG_WHOLE_MSG;
  handler.cb = on_active_message;
  handler.arg = this;
  status = ucp_worker_set_am_recv_handler(worker_, &handler);
  if (status != UCS_OK) return failed("UCX takes no message handler", status);

  wake_fd_ = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  if (wake_fd_ < 0) return io_error("no eventfd can be had");
  next_beat_ = Clock::now() + options_.heartbeat;
  thread_ = std::thread([this] { serve(); });
  return ok_status();
}

UcxTransport::~UcxTransport() {
  if (thread_.joinable()) {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    eventfd_write(wake_fd_, 1);
    thread_.join();
  }
  if (wake_fd_ >= 0) ::close(wake_fd_);
  if (worker_) ucp_worker_destroy(worker_);
  if (context_) ucp_cleanup(context_);
}

void UcxTransport::post(std::function<void()> action) {
  {
    const std::lock_guard lock(mutex_);
    actions_.push_back(std::move(action));
  }
  eventfd_write(wake_fd_, 1);
}

Result<int> UcxTransport::listen(const std::string& address, int port) {
  const Result<sockaddr_storage> local = resolve(address, port);
  if (!local.ok()) return local.error();
  ucp_listener_params_t params = {};
  params.field_mask = UCP_LISTENER_PARAM_FIELD_SOCK_ADDR | UCP_LISTENER_PARAM_FIELD_CONN_HANDLER;
  params.sockaddr = view(*local);
  params.conn_handler = {.cb = on_connection, .arg = this};
  // The worker belongs to the thread.
  std::mutex mutex;
  std::condition_variable changed;
  std::optional<ucs_status_t> status;
  ucp_listener_attr_t attributes = {};
  attributes.field_mask = UCP_LISTENER_ATTR_FIELD_SOCKADDR;
  post([&] {
    ucs_status_t created = ucp_listener_create(worker_, &params, &listener_);
    if (created == UCS_OK) created = ucp_listener_query(listener_, &attributes);
    const std::lock_guard lock(mutex);
    status = created;
    changed.notify_all();
  });
  std::unique_lock lock(mutex);
  changed.wait(lock, [&] { return status.has_value(); });
  if (*status != UCS_OK) {
    return io_error("cannot listen for sequence states on " + address + ":" + std::to_string(port) +
                    ": " + ucs_status_string(*status));
  }
  const auto* bound = &attributes.sockaddr;
  return ntohs(bound->ss_family == AF_INET6
                   ? reinterpret_cast<const sockaddr_in6*>(bound)->sin6_port
                   : reinterpret_cast<const sockaddr_in*>(bound)->sin_port);
}

KvPeer UcxTransport::connect(const std::string& address, int port) {
  const KvPeer peer = next_peer_.fetch_add(1);
  const Result<sockaddr_storage> remote = resolve(address, port);
  post([this, peer, remote] {
    if (!remote.ok()) return handlers_.on_closed(peer, remote.error());
    ucp_ep_params_t params = {};
    params.field_mask = UCP_EP_PARAM_FIELD_FLAGS | UCP_EP_PARAM_FIELD_SOCK_ADDR;
    params.flags = UCP_EP_PARAMS_FLAGS_CLIENT_SERVER;
    params.sockaddr = view(*remote);
    open(peer, params);
  });
  return peer;
}

void UcxTransport::send(KvPeer peer, KvMessage message) {
  post([this, peer, message = std::move(message)]() mutable {
    const auto found = connections_.find(peer);
    if (found == connections_.end()) return;
    found->second->held.push_back(std::move(message));
    release_held(*found->second);
  });
}

void UcxTransport::close(KvPeer peer) {
  post([this, peer] { drop(peer, nullptr); });
}

void UcxTransport::open(KvPeer peer, ucp_ep_params_t params) {
  auto connection = std::make_unique<Connection>(
      Connection{.transport = this, .peer = peer, .last_heard = Clock::now()});
  params.field_mask |= UCP_EP_PARAM_FIELD_ERR_HANDLER | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE;
  params.err_mode =
      options_.shared_memory ? UCP_ERR_HANDLING_MODE_NONE : UCP_ERR_HANDLING_MODE_PEER;
  params.err_handler = {.cb = on_endpoint_error, .arg = connection.get()};
  const ucs_status_t status = ucp_ep_create(worker_, &params, &connection->endpoint);
  if (status != UCS_OK) {
    return handlers_.on_closed(peer, failed("no connection to the peer", status));
  }
  Connection& opened = *connections_.emplace(peer, std::move(connection)).first->second;
  send_now(opened, {.kind = kKvHeartbeat}, {});
  ucp_request_param_t param = {};
  param.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA;
  param.cb.send = on_flushed;
  param.user_data = &opened;
  const ucs_status_ptr_t flush = ucp_ep_flush_nbx(opened.endpoint, &param);
  if (!UCS_PTR_IS_PTR(flush)) opened.flushed = true;
}

void UcxTransport::on_flushed(void* request, ucs_status_t status, void* connection) {
  ucp_request_free(request);
  auto* flushed = static_cast<Connection*>(connection);
  if (status != UCS_OK || flushed->closed) return;
  flushed->flushed = true;
  flushed->transport->release_later(flushed->peer);
}

// Not from within UCX's progress.
void UcxTransport::release_later(KvPeer peer) {
  post([this, peer] {
    const auto found = connections_.find(peer);
    if (found != connections_.end()) release_held(*found->second);
  });
}

void UcxTransport::release_held(Connection& connection) {
  if (!connection.ready()) return;
  for (KvMessage& message : std::exchange(connection.held, {})) {
    send_now(connection, {.kind = message.kind, .id = message.id}, std::move(message.payload));
  }
}

void UcxTransport::on_connection(ucp_conn_request_h request, void* self) {
  auto* transport = static_cast<UcxTransport*>(self);
  const KvPeer peer = transport->next_peer_.fetch_add(1);
  ucp_ep_params_t params = {};
  params.field_mask = UCP_EP_PARAM_FIELD_CONN_REQUEST;
  params.conn_request = request;
  transport->open(peer, params);
}

// UCX forbids closing an endpoint in here.
void UcxTransport::on_endpoint_error(void* connection, ucp_ep_h, ucs_status_t status) {
  auto* broken = static_cast<Connection*>(connection);
  if (broken->closed) return;
  broken->transport->broken_.emplace_back(broken->peer,
                                          failed("the connection to the peer broke", status));
}

void UcxTransport::send_now(Connection& connection, Header header, std::vector<std::byte> payload) {
  auto* outgoing = new Outgoing{header, std::move(payload)};
  ucp_request_param_t param = {};
  param.op_attr_mask =
      UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_FLAGS;
  // UCX 1.13 may abort in a rendezvous begun while the connection is still choosing its lanes.
  param.flags = UCP_AM_SEND_FLAG_REPLY | UCP_AM_SEND_FLAG_EAGER;
  param.cb.send = on_sent;
  param.user_data = outgoing;
  const ucs_status_ptr_t request =
      ucp_am_send_nbx(connection.endpoint, kMessageId, &outgoing->header, sizeof outgoing->header,
                      outgoing->payload.data(), outgoing->payload.size(), &param);
  if (!UCS_PTR_IS_PTR(request)) delete outgoing;
  if (UCS_PTR_IS_ERR(request)) {
    broken_.emplace_back(connection.peer,
                         failed("a message could not be sent", UCS_PTR_STATUS(request)));
  }
}

// A failed endpoint is reported by its error handler.
void UcxTransport::on_sent(void* request, ucs_status_t, void* outgoing) {
  delete static_cast<Outgoing*>(outgoing);
  ucp_request_free(request);
}

UcxTransport::Connection* UcxTransport::find(ucp_ep_h endpoint) {
  for (const auto& [peer, connection] : connections_) {
    if (connection->endpoint == endpoint) return connection.get();
  }
  return nullptr;
}

ucs_status_t UcxTransport::on_active_message(void* self,
                                             const void* header,
                                             size_t header_length,
                                             void* data,
                                             size_t length,
                                             const ucp_am_recv_param_t* param) {
  auto* transport = static_cast<UcxTransport*>(self);
  Connection* connection = transport->find(param->reply_ep);
  if (connection == nullptr || header_length != sizeof(Header)) return UCS_OK;
  connection->last_heard = Clock::now();
  if (!connection->heard) {
    connection->heard = true;
    transport->release_later(connection->peer);
  }
  Header fields;
  std::memcpy(&fields, header, sizeof fields);
  if (fields.kind == kKvHeartbeat) {
    if (fields.id == kGoodbye) {
      transport->broken_.emplace_back(connection->peer, unavailable("the peer has closed"));
    }
    return UCS_OK;
  }
  if (length > transport->options_.max_message_bytes) {
    transport->broken_.emplace_back(connection->peer,
                                    unavailable("the peer sent a message that is too large"));
    return UCS_OK;
  }
  KvMessage message{.kind = fields.kind, .id = fields.id};
  const auto* bytes = static_cast<const std::byte*>(data);
  message.payload.assign(bytes, bytes + length);
  transport->handlers_.on_message(connection->peer, std::move(message));
  return UCS_OK;
}

void UcxTransport::drop(KvPeer peer, const Error* why) {
  const auto found = connections_.find(peer);
  if (found == connections_.end()) return;
  std::unique_ptr<Connection> connection = std::move(found->second);
  connections_.erase(found);
  connection->closed = true;
  connection->closed_at = Clock::now();
  ucp_request_param_t param = {};
  if (options_.shared_memory) {
    send_now(*connection, {.kind = kKvHeartbeat, .id = kGoodbye}, {});
  } else {
    param.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS;
    param.flags = UCP_EP_CLOSE_FLAG_FORCE;
  }
  const ucs_status_ptr_t request = ucp_ep_close_nbx(connection->endpoint, &param);
  if (UCS_PTR_IS_PTR(request)) closing_.push_back(request);
  retired_.push_back(std::move(connection));
  if (why) handlers_.on_closed(peer, *why);
}

void UcxTransport::serve() {
  while (true) {
    {
      const std::lock_guard lock(mutex_);
      if (stopping_) break;
    }
    run_actions();
    while (ucp_worker_progress(worker_) != 0) {
    }
    const auto broken = std::move(broken_);
    broken_.clear();
    for (const auto& [peer, why] : broken) drop(peer, &why);
    reap();
    if (Clock::now() >= next_beat_) beat();
    wait_for_events();
  }
  while (!connections_.empty()) drop(connections_.begin()->first, nullptr);
  if (listener_) ucp_listener_destroy(listener_);
  for (int i = 0; i < 1000 && !closing_.empty(); ++i) {
    ucp_worker_progress(worker_);
    reap();
  }
}

// Forgets endpoints that have finished closing.
void UcxTransport::reap() {
  std::erase_if(closing_, [](ucs_status_ptr_t request) {
    if (ucp_request_check_status(request) == UCS_INPROGRESS) return false;
    ucp_request_free(request);
    return true;
  });
}

void UcxTransport::run_actions() {
  std::vector<std::function<void()>> actions;
  {
    const std::lock_guard lock(mutex_);
    std::swap(actions, actions_);
  }
  for (const auto& action : actions) action();
}

// Until UCX or another thread has something, or the next heartbeat is due.
void UcxTransport::wait_for_events() {
  if (!broken_.empty() || ucp_worker_arm(worker_) != UCS_OK) return;  // there is more to progress
  const auto left =
      std::chrono::duration_cast<std::chrono::milliseconds>(next_beat_ - Clock::now()).count();
  pollfd waits[] = {{.fd = worker_fd_, .events = POLLIN, .revents = 0},
                    {.fd = wake_fd_, .events = POLLIN, .revents = 0}};
  poll(waits, 2, static_cast<int>(std::max<int64_t>(left + 1, 1)));
  eventfd_t ignored;
  eventfd_read(wake_fd_, &ignored);
}

void UcxTransport::beat() {
  next_beat_ = Clock::now() + options_.heartbeat;
  for (const auto& [peer, connection] : connections_) {
    if (Clock::now() - connection->last_heard < options_.max_silence) {
      send_now(*connection, {.kind = kKvHeartbeat}, {});
    } else {
      broken_.emplace_back(peer, unavailable("the peer has given no sign of life for " +
                                             std::to_string(options_.max_silence.count()) + " ms"));
    }
  }
  std::erase_if(retired_, [](const auto& connection) {
    return Clock::now() - connection->closed_at > std::chrono::minutes(1);
  });
  handlers_.on_tick();
}

}  // namespace

Result<std::unique_ptr<KvTransport>> KvTransport::create(const KvOptions& options,
                                                         KvHandlers handlers) {
  auto transport = std::make_unique<UcxTransport>(options, std::move(handlers));
  if (Status status = transport->start(); !status.ok()) return status.error();
  return std::unique_ptr<KvTransport>(std::move(transport));
}

}  // namespace plimsoll
#endif
