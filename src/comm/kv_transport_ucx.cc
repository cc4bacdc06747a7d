// The transport over UCX: active messages, one worker, one thread that does everything with it.
#ifdef PLIMSOLL_UCX
#include <ifaddrs.h>
#include <netdb.h>
#include <netinet/in.h>
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

#include "comm/kv_door.h"
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
  uint64_t token = 0;  // whose connection: what the receiver gave the sender
};

// The network interface that has the address; empty where all have it, or none.
std::string interface_of(const std::string& address) {
  const addrinfo hints{.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
  addrinfo* found = nullptr;
  ifaddrs* all = nullptr;
  std::string name;
  if (getaddrinfo(address.c_str(), nullptr, &hints, &found) != 0) return name;
  const auto text = [](const sockaddr* from) -> std::string {
    char bytes[NI_MAXHOST] = {};
    const socklen_t size = from->sa_family == AF_INET6 ? sizeof(sockaddr_in6) : sizeof(sockaddr_in);
    getnameinfo(from, size, bytes, sizeof bytes, nullptr, 0, NI_NUMERICHOST);
    return bytes;
  };
  if (getifaddrs(&all) == 0) {
    for (const ifaddrs* i = all; i != nullptr; i = i->ifa_next) {
      if (i->ifa_addr == nullptr || i->ifa_addr->sa_family != found->ai_addr->sa_family) continue;
      if (text(i->ifa_addr) == text(found->ai_addr)) name = i->ifa_name;
    }
    freeifaddrs(all);
  }
  freeaddrinfo(found);
  return name;
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
    uint64_t our_token = 0;       // comes with every message from the peer
    uint64_t their_token = 0;     // goes with every message to it
    ucp_ep_h endpoint = nullptr;  // null until both have met
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
  Connection& expect(KvPeer peer, uint64_t token);
  void open(const KvMeeting& meeting);
  void send_now(Connection& connection, Header header, std::vector<std::byte> payload);
  void release_held(Connection& connection);
  void release_later(KvPeer peer);
  void drop(KvPeer peer, const Error* why);
  Connection* find(uint64_t token);

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
  std::unique_ptr<KvDoor> door_;
  int worker_fd_ = -1;
  int wake_fd_ = -1;
  std::atomic<KvPeer> next_peer_ = 1;

  std::mutex mutex_;
  std::vector<std::function<void()>> actions_;
  bool stopping_ = false;

  // Of the transport's thread.
  std::unordered_map<KvPeer, std::unique_ptr<Connection>> connections_;
  std::unordered_map<uint64_t, Connection*> by_token_;
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
  ucp_config_t* config = nullptr;
  if (const ucs_status_t status = ucp_config_read(nullptr, nullptr, &config); status != UCS_OK) {
    return failed("UCX's settings cannot be read", status);
  }
  // UCX's transports listen too; without this, on every interface. The user's own choice stands.
  const std::string interface = interface_of(options_.address);
  if (!interface.empty() && std::getenv("UCX_NET_DEVICES") == nullptr) {
    ucp_config_modify(config, "NET_DEVICES", interface.c_str());
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
  ucp_address_t* address = nullptr;
  size_t length = 0;
  status = ucp_worker_get_address(worker_, &address, &length);
  if (status != UCS_OK) return failed("UCX's worker has no address", status);
  const auto* bytes = reinterpret_cast<const std::byte*>(address);
  std::vector<std::byte> own(bytes, bytes + length);
  ucp_worker_release_address(worker_, address);
  door_ = std::make_unique<KvDoor>(
      options_.shared_memory ? "PLMSM001" : "PLMKV001", options_.key, std::move(own),
      KvDoorHandlers{
          .new_peer =
              [this](uint64_t token) {
                const KvPeer peer = next_peer_.fetch_add(1);
                post([this, peer, token] { expect(peer, token); });
                return peer;
              },
          .on_met =
              [this](KvMeeting meeting) {
                post([this, meeting = std::move(meeting)] { open(meeting); });
              },
          .on_gone = [this](KvPeer peer,
                            const Error& why) { post([this, peer, why] { drop(peer, &why); }); }});
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
  door_.reset();
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
  if (options_.key.empty() && !options_.takes_strangers && !is_loopback(address)) {
    return invalid_argument("servers that hand sequence states over on " + address +
                            " need a key by which they know each other: --disaggregation-key-file "
                            "FILE, the same for all of them and the router");
  }
  return door_->listen(address, port);
}

KvPeer UcxTransport::connect(const std::string& address, int port) {
  const KvPeer peer = next_peer_.fetch_add(1);
  const Result<uint64_t> token = make_token();
  if (!token.ok()) {
    post([this, peer, why = token.error()] { handlers_.on_closed(peer, why); });
    return peer;
  }
  post([this, peer, token = *token] { expect(peer, token); });
  if (options_.key.empty() && !options_.takes_strangers && !is_loopback(address)) {
    const Error why = unavailable(
        "without a --disaggregation-key-file this server takes states "
        "from its own host only, and " +
        address + " is another");
    post([this, peer, why] { drop(peer, &why); });
    return peer;
  }
  door_->call(address, port, peer, *token);
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

UcxTransport::Connection& UcxTransport::expect(KvPeer peer, uint64_t token) {
  auto connection = std::make_unique<Connection>(
      Connection{.transport = this, .peer = peer, .our_token = token, .last_heard = Clock::now()});
  by_token_[token] = connection.get();
  return *connections_.emplace(peer, std::move(connection)).first->second;
}

void UcxTransport::open(const KvMeeting& meeting) {
  const auto found = connections_.find(meeting.peer);
  if (found == connections_.end()) return;  // closed in the meantime
  Connection& opened = *found->second;
  opened.their_token = meeting.their_token;
  ucp_ep_params_t params = {};
  params.field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS | UCP_EP_PARAM_FIELD_ERR_HANDLER |
                      UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE;
  params.address = reinterpret_cast<const ucp_address_t*>(meeting.address.data());
  params.err_mode =
      options_.shared_memory ? UCP_ERR_HANDLING_MODE_NONE : UCP_ERR_HANDLING_MODE_PEER;
  params.err_handler = {.cb = on_endpoint_error, .arg = &opened};
  const ucs_status_t status = ucp_ep_create(worker_, &params, &opened.endpoint);
  if (status != UCS_OK) {
    opened.endpoint = nullptr;
    const Error why = failed("no way to the peer", status);
    return drop(meeting.peer, &why);
  }
  send_now(opened, {.kind = kKvHeartbeat}, {});
  ucp_request_param_t param = {};
  param.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA;
  param.cb.send = on_flushed;
  param.user_data = &opened;
  const ucs_status_ptr_t flush = ucp_ep_flush_nbx(opened.endpoint, &param);
  if (UCS_PTR_IS_PTR(flush)) return;  // on_flushed comes
  opened.flushed = true;
  release_held(opened);  // the peer may have been heard before
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

// UCX forbids closing an endpoint in here.
void UcxTransport::on_endpoint_error(void* connection, ucp_ep_h, ucs_status_t status) {
  auto* broken = static_cast<Connection*>(connection);
  if (broken->closed) return;
  broken->transport->broken_.emplace_back(broken->peer,
                                          failed("the connection to the peer broke", status));
}

void UcxTransport::send_now(Connection& connection, Header header, std::vector<std::byte> payload) {
  header.token = connection.their_token;
  auto* outgoing = new Outgoing{header, std::move(payload)};
  ucp_request_param_t param = {};
  param.op_attr_mask =
      UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_FLAGS;
  // UCX 1.13 may abort in a rendezvous begun while the connection is still choosing its lanes.
  param.flags = UCP_AM_SEND_FLAG_EAGER;
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

UcxTransport::Connection* UcxTransport::find(uint64_t token) {
  const auto found = by_token_.find(token);
  return found == by_token_.end() ? nullptr : found->second;
}

ucs_status_t UcxTransport::on_active_message(void* self,
                                             const void* header,
                                             size_t header_length,
                                             void* data,
                                             size_t length,
                                             const ucp_am_recv_param_t*) {
  auto* transport = static_cast<UcxTransport*>(self);
  Header fields;
  if (header_length != sizeof fields) return UCS_OK;
  std::memcpy(&fields, header, sizeof fields);
  Connection* connection = transport->find(fields.token);
  if (connection == nullptr) return UCS_OK;
  connection->last_heard = Clock::now();
  if (!connection->heard) {
    connection->heard = true;
    transport->release_later(connection->peer);
  }
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
  by_token_.erase(connection->our_token);
  door_->hang_up(peer);
  if (connection->endpoint == nullptr) {
    if (why) handlers_.on_closed(peer, *why);
    return;
  }
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
      if (connection->endpoint) send_now(*connection, {.kind = kKvHeartbeat}, {});
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
