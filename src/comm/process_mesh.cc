#include "comm/process_mesh.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <limits>
#include <utility>

#include "comm/byte_stream.h"

namespace plimsoll {
namespace {

constexpr uint64_t kMaxFrameBytes = uint64_t{1} << 40;
constexpr double kGoodbyeSeconds = 2;  // for what is still to be sent when a process leaves

double now_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

std::vector<std::byte> bytes_of(const std::string& text) {
  const Bytes bytes = std::as_bytes(std::span(text));
  return {bytes.begin(), bytes.end()};
}

// What a process passes to share.
struct Contribution {
  bool failed = false;
  ErrorCode code = ErrorCode::kUnavailable;
  std::string error;
  std::vector<std::byte> bytes;
};
template <typename Stream>
void transfer(Stream& stream, Contribution& said) {
  stream(said.failed, said.code, said.error, said.bytes);
}

}  // namespace

ProcessMesh::ProcessMesh(const MeshOptions& options) : options_(options) {
  for (int p = 0; p < options.num_processes; ++p) {
    peers_.push_back(std::make_unique<Peer>());
    peers_.back()->process = p;
  }
  wake_fd_ = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
}

ProcessMesh::~ProcessMesh() {
  for (const auto& peer : peers_) {
    if (peer->fd < 0 || peer->dead) continue;
    enqueue(*peer,
            {.header = header_of(Kind::kGoodbye, goodbye_.size()), .owned = bytes_of(goodbye_)});
  }
  stopping_ = true;
  wake();
  if (thread_.joinable()) thread_.join();
  kill_hanging(std::numeric_limits<double>::max());
  for (const auto& peer : peers_) {
    if (peer->fd >= 0) close(peer->fd);
    if (peer->pid_fd >= 0) close(peer->pid_fd);
  }
  if (wake_fd_ >= 0) close(wake_fd_);
}

Error ProcessMesh::death(int process) const {
  Peer& peer = *peers_[process];
  const std::lock_guard lock(peer.mutex);
  return unavailable(peer.name + " " + (peer.dead ? peer.reason : "is alive"));
}

ProcessMesh::FrameHeader ProcessMesh::header_of(Kind kind,
                                                size_t num_bytes,
                                                const DataHeader& data) {
  return {kind, static_cast<uint32_t>(num_bytes >> 32), static_cast<uint32_t>(num_bytes), data};
}

Status ProcessMesh::send(int to, std::vector<std::byte> message) {
  if (!alive(to)) return death(to);
  enqueue(*peers_[to],
          {.header = header_of(Kind::kControl, message.size()), .owned = std::move(message)});
  return ok_status();
}

Result<std::vector<std::byte>> ProcessMesh::receive(int from) {
  Peer& peer = *peers_[from];
  {
    std::unique_lock lock(peer.mutex);
    peer.changed.wait(lock, [&] { return !peer.inbox.empty() || peer.dead; });
    if (!peer.inbox.empty()) {
      std::vector<std::byte> message = std::move(peer.inbox.front());
      peer.inbox.pop_front();
      return message;
    }
  }
  return death(from);
}

Result<std::vector<std::vector<std::byte>>> ProcessMesh::share(
    const Result<std::vector<std::byte>>& mine) {
  Contribution said;
  if (mine.ok()) {
    said.bytes = *mine;
  } else {
    said = {.failed = true, .code = mine.error().code, .error = mine.error().message};
  }
  const std::vector<std::byte> message = to_bytes(said);
  for (int p = 0; p < num_processes(); ++p) {
    if (p != process() && alive(p)) (void)send(p, message);
  }
  if (!mine.ok()) return mine.error();
  std::vector<std::vector<std::byte>> all(num_processes());
  for (int p = 0; p < num_processes(); ++p) {
    if (p == process()) {
      all[p] = *mine;
      continue;
    }
    const Result<std::vector<std::byte>> received = receive(p);
    if (!received.ok()) return received.error();
    Contribution theirs;
    if (!from_bytes(*received, theirs)) return unavailable(name(p) + " has sent nonsense");
    if (theirs.failed) return Error{theirs.code, name(p) + ": " + theirs.error};
    all[p] = std::move(theirs.bytes);
  }
  return all;
}

void ProcessMesh::set_sink(DataSink* sink) {
  const std::lock_guard lock(sink_mutex_);
  sink_ = sink;
  for (const auto& peer : peers_) {
    const bool in_payload = peer->num_read >= sizeof(FrameHeader);
    if (in_payload && peer->header.kind == Kind::kData) read_into_scrap(*peer);
  }
}

void ProcessMesh::send_data(int to, const DataHeader& header, Bytes bytes) {
  enqueue(*peers_[to], {.header = header_of(Kind::kData, bytes.size(), header), .bytes = bytes});
}

void ProcessMesh::give_up(uint32_t epoch, const std::string& reason) {
  for (const auto& peer : peers_) {
    enqueue(*peer, {.header = header_of(Kind::kGiveUp, reason.size(), {.epoch = epoch}),
                    .owned = bytes_of(reason)});
  }
}

// A frame that is half sent must be sent to its end, so its bytes are copied; others are dropped.
void ProcessMesh::cancel_data() {
  for (const auto& peer : peers_) {
    const std::lock_guard lock(peer->mutex);
    std::erase_if(peer->queue, [](const Outgoing& frame) {
      return frame.header.kind == Kind::kData && frame.num_sent == 0;
    });
    for (Outgoing& frame : peer->queue) {
      if (frame.header.kind != Kind::kData || !frame.owned.empty()) continue;
      frame.owned.assign(frame.bytes.begin(), frame.bytes.end());
      frame.bytes = frame.owned;
    }
  }
}

void ProcessMesh::set_goodbye(std::string reason) {
  goodbye_ = std::move(reason);
}

void ProcessMesh::enqueue(Peer& peer, Outgoing frame) {
  if (peer.fd < 0) return;
  bool waits = false;
  {
    const std::lock_guard lock(peer.mutex);
    if (peer.dead) return;
    if (!frame.owned.empty()) frame.bytes = frame.owned;
    peer.queue.push_back(std::move(frame));
    if (peer.queue.size() == 1) flush(peer);
    waits = !peer.queue.empty();
  }
  if (waits) wake();
}

// Sends what the socket takes now. An error is left for the reading side to find.
void ProcessMesh::flush(Peer& peer) {
  while (!peer.queue.empty()) {
    Outgoing& frame = peer.queue.front();
    iovec parts[2];
    int num_parts = 0;
    const auto add = [&](const void* data, size_t size, size_t skip) {
      if (skip < size) {
        parts[num_parts++] = {const_cast<char*>(static_cast<const char*>(data)) + skip,
                              size - skip};
      }
    };
    constexpr size_t kHead = sizeof(FrameHeader);
    add(&frame.header, kHead, frame.num_sent);
    add(frame.bytes.data(), frame.bytes.size(), std::max(frame.num_sent, kHead) - kHead);
    const msghdr message{.msg_iov = parts, .msg_iovlen = static_cast<size_t>(num_parts)};
    const ssize_t sent = sendmsg(peer.fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0) return;
    frame.num_sent += static_cast<size_t>(sent);
    if (frame.num_sent == kHead + frame.bytes.size()) peer.queue.pop_front();
  }
}

void ProcessMesh::wake() {
  const uint64_t one = 1;
  if (write(wake_fd_, &one, sizeof one) < 0) return;  // full: awake already
}

void ProcessMesh::serve() {
  const double heartbeat_seconds = std::min(1.0, options_.timeout_seconds / 5);
  double next_heartbeat = now_seconds();
  double stop_at = 0;
  std::vector<pollfd> fds;
  std::vector<Peer*> peers;
  while (true) {
    fds.assign(1, {.fd = wake_fd_, .events = POLLIN});
    peers.assign(1, nullptr);
    for (const auto& peer : peers_) {
      if (peer->fd < 0 || peer->dead) continue;
      const std::lock_guard lock(peer->mutex);
      const bool waits = !peer->queue.empty();
      if (stopping_ && !waits) shutdown(peer->fd, SHUT_WR);
      fds.push_back({.fd = peer->fd, .events = static_cast<short>(POLLIN | (waits ? POLLOUT : 0))});
      peers.push_back(peer.get());
    }
    const double now = now_seconds();
    if (stopping_) {
      if (stop_at == 0) stop_at = now + kGoodbyeSeconds;
      // Until the others have hung up: a connection that is closed with bytes unread is reset, and
      // takes with it what it has sent.
      if (peers.size() == 1 || now >= stop_at) return;
    }
    poll(fds.data(), fds.size(), std::max(1, static_cast<int>(heartbeat_seconds * 500)));
    uint64_t wakes = 0;
    if (fds[0].revents != 0 && read(wake_fd_, &wakes, sizeof wakes) < 0) continue;
    for (size_t i = 1; i < fds.size(); ++i) {
      if ((fds[i].revents & POLLOUT) != 0) {
        const std::lock_guard lock(peers[i]->mutex);
        flush(*peers[i]);
      }
      if ((fds[i].revents & (POLLIN | POLLHUP | POLLERR)) == 0) continue;
      const std::string reason = read_from(*peers[i]);
      if (!reason.empty()) declare_dead(*peers[i], reason);
    }
    const double after = now_seconds();
    kill_hanging(after);
    // A thread that was itself kept from running must not take the silence for the others'.
    const bool was_away = after - now > options_.timeout_seconds / 2;
    const bool beat = after >= next_heartbeat;
    if (beat) next_heartbeat = after + heartbeat_seconds;
    for (size_t i = 1; i < peers.size(); ++i) {
      Peer& peer = *peers[i];
      if (was_away) peer.last_heard = after;
      if (beat && !stopping_) enqueue(peer, {.header = header_of(Kind::kHeartbeat, 0)});
      if (after - peer.last_heard > options_.timeout_seconds) {
        declare_dead(peer, "has not been heard of for " +
                               std::to_string(static_cast<int>(options_.timeout_seconds)) +
                               " seconds (it hangs, or the network is cut)");
        peer.kill_at = after + 2 * heartbeat_seconds;  // all others have noticed by then
      }
    }
  }
}

void ProcessMesh::kill_hanging(double now) {
  for (const auto& peer : peers_) {
    if (peer->kill_at == 0 || now < peer->kill_at) continue;
    peer->kill_at = 0;
    if (peer->pid_fd >= 0) syscall(SYS_pidfd_send_signal, peer->pid_fd, SIGKILL, nullptr, 0);
  }
}

std::string ProcessMesh::read_from(Peer& peer) {
  constexpr size_t kHead = sizeof(FrameHeader);
  const std::lock_guard lock(sink_mutex_);
  for (int rounds = 0; rounds < 64; ++rounds) {
    const bool in_header = peer.num_read < kHead;
    const std::span<std::byte> rest =
        in_header ? std::as_writable_bytes(std::span(&peer.header, 1)).subspan(peer.num_read)
                  : peer.target.subspan(peer.num_read - kHead);
    const ssize_t got = recv(peer.fd, rest.data(), rest.size(), MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return "";
    if (got <= 0) return "has died";
    peer.last_heard = now_seconds();
    peer.num_read += static_cast<size_t>(got);
    if (peer.num_read == kHead) {
      if (peer.header.num_bytes() > kMaxFrameBytes) return "has sent nonsense";
      begin_payload(peer);
    }
    if (peer.num_read >= kHead && peer.num_read - kHead == peer.target.size()) {
      if (std::string reason = end_frame(peer); !reason.empty()) return reason;
    }
  }
  return "";
}

void ProcessMesh::begin_payload(Peer& peer) {
  const size_t num_bytes = peer.header.num_bytes();
  if (peer.header.kind == Kind::kData) {
    if (sink_) peer.target = sink_->place(peer.header.data, num_bytes);
    if (!sink_ || peer.target.size() != num_bytes) read_into_scrap(peer);
    return;
  }
  peer.owned.resize(num_bytes);
  peer.target = peer.owned;
}

void ProcessMesh::read_into_scrap(Peer& peer) {
  peer.header.kind = Kind::kHeartbeat;  // means as little
  peer.scrap.resize(peer.header.num_bytes());
  peer.target = peer.scrap;
}

std::string ProcessMesh::end_frame(Peer& peer) {
  peer.num_read = 0;
  peer.target = {};
  const std::vector<std::byte> message = std::exchange(peer.owned, {});
  const auto text = [&] {
    return std::string(reinterpret_cast<const char*>(message.data()), message.size());
  };
  switch (peer.header.kind) {
    case Kind::kHeartbeat:
      break;
    case Kind::kControl: {
      const std::lock_guard lock(peer.mutex);
      peer.inbox.push_back(message);
      peer.changed.notify_all();
      break;
    }
    case Kind::kData:
      if (sink_) sink_->arrived(peer.header.data);
      break;
    case Kind::kGiveUp:
      if (sink_) sink_->given_up(peer.header.data.epoch, text());
      break;
    case Kind::kGoodbye:
      return message.empty() ? "has ended" : "has stopped: " + text();
  }
  return "";
}

void ProcessMesh::bury(int process, const std::string& reason) {
  declare_dead(*peers_[process], reason);
}

void ProcessMesh::declare_dead(Peer& peer, const std::string& reason) {
  {
    const std::lock_guard lock(peer.mutex);
    if (peer.dead) return;
    peer.reason = reason;
    peer.dead = true;
    peer.queue.clear();
    shutdown(peer.fd, SHUT_RDWR);
    peer.changed.notify_all();
  }
  const std::lock_guard lock(sink_mutex_);
  if (sink_) sink_->lost(peer.process);
}

}  // namespace plimsoll
