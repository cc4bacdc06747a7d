// A prefill server's side of the hand-over: computes prompts for decode servers and sends them the
// state, layer by layer while later layers are being computed, and the first token.
#pragma once

#include <memory>
#include <mutex>
#include <set>
#include <unordered_map>

#include "serve/loop/engine_loop.h"
#include "serve/loop/hand_over.h"
#include "serve/loop/metrics.h"

namespace plimsoll {

class PrefillService {
 public:
  // Listens at once; until attach() has been called decode servers are refused.
  static Result<std::unique_ptr<PrefillService>> create(const DisaggregationOptions& options,
                                                        const std::string& address,
                                                        Metrics& metrics);
  int port() const { return port_; }

  // `loop` must outlive the service and have stopped when the service ends.
  void attach(EngineLoop& loop, const HelloMessage& hello);

 private:
  using Clock = std::chrono::steady_clock;

  // One prompt being computed, by the engine's id.
  struct Job {
    KvPeer peer = 0;
    int64_t id = 0;  // the decode server's
    Clock::time_point begin;
    FirstTokenMessage first;
    int64_t num_bytes = 0;
  };

  explicit PrefillService(Metrics& metrics) : metrics_(metrics) {}

  // On the transport's thread.
  void hear(KvPeer peer, const KvMessage& message);
  void hear_hello(KvPeer peer, const KvMessage& message);
  void start(KvPeer peer, int64_t id, const PromptMessage& prompt);
  void drop_jobs(KvPeer peer, const int64_t* id);
  void send_failure(KvPeer peer, int64_t id, const Error& error);

  // On the engine's thread, and on the ranks'.
  void hear_update(int64_t engine_id, Result<RequestUpdate> update);
  void send_layer(int64_t engine_id, std::vector<std::byte> record);

  Metrics& metrics_;
  int port_ = 0;
  EngineLoop* loop_ = nullptr;  // null until attached
  HelloMessage hello_;
  std::set<KvPeer> welcome_;
  std::mutex mutex_;  // of jobs_
  std::unordered_map<int64_t, Job> jobs_;
  std::unique_ptr<KvTransport> transport_;  // last: its thread uses all of the above
};

}  // namespace plimsoll
