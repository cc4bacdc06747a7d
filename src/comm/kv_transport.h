// Messages between processes over UCX, which chooses the way: RDMA, TCP, or shared memory within a
// host (UCX_TLS narrows the choice).
//
// Peers meet over a TCP connection of ours and prove there that they belong together (kv_door.h);
// UCX gets nothing from strangers on that port. What UCX's transports listen on is on the interface
// of KvOptions::address only.
//
// A transport has a thread of its own, on which every handler is called. A peer that closes, dies
// or falls silent is reported once, within KvOptions::max_silence.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "plimsoll/result.h"

namespace plimsoll {

struct KvMessage {
  uint32_t kind = 0;  // of the caller's own numbering, not kKvHeartbeat
  int64_t id = 0;
  std::vector<std::byte> payload;
};
inline constexpr uint32_t kKvHeartbeat = ~uint32_t{0};

struct KvOptions {
  // Shared memory where both ends run on one host; both must ask for it. UCX 1.13 does not notice
  // there that a peer has died, so that silence alone tells, and what was being sent to it then
  // stays in memory. Without, UCX uses RDMA or TCP and tells at once.
  bool shared_memory = false;
  std::chrono::milliseconds heartbeat{500};  // to every peer
  std::chrono::milliseconds max_silence{10'000};
  size_t max_message_bytes = size_t{1} << 30;

  std::string address = "127.0.0.1";  // whose interface UCX's own transports use; 0.0.0.0: all
  std::string key;  // the deployment's: peers prove that they have it (deployment_key.h)
  // Without a key: takes and makes connections beyond this host. Whoever reaches the port is
  // trusted.
  bool takes_strangers = false;
};

using KvPeer = int64_t;  // one connection, never used again for another

struct KvHandlers {
  // Messages of one peer may overtake each other.
  std::function<void(KvPeer peer, KvMessage message)> on_message;
  std::function<void(KvPeer peer, const Error& why)> on_closed;  // not after close()
  std::function<void()> on_tick;                                 // once a heartbeat
};

class KvTransport {
 public:
  // Fails with kUnsupported where the build lacks UCX.
  static Result<std::unique_ptr<KvTransport>> create(const KvOptions& options, KvHandlers handlers);
  virtual ~KvTransport() = default;

  // Takes connections. Port 0 takes any free one; returns the port.
  virtual Result<int> listen(const std::string& address, int port) = 0;

  // Safe from any thread, and asynchronous: what goes wrong comes through on_closed. A message to a
  // peer that is gone is dropped.
  virtual KvPeer connect(const std::string& address, int port) = 0;
  virtual void send(KvPeer peer, KvMessage message) = 0;
  virtual void close(KvPeer peer) = 0;
  // Runs `action` on the transport's thread.
  virtual void post(std::function<void()> action) = 0;
};

}  // namespace plimsoll
