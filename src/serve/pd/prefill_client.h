// A decode server's side of the hand-over: asks prefill servers for prompts and gathers what comes.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <unordered_map>

#include "serve/loop/engine_loop.h"
#include "serve/loop/hand_over.h"
#include "serve/loop/metrics.h"

namespace plimsoll {

class PrefillClient final : public PromptSource {
 public:
  static Result<std::unique_ptr<PrefillClient>> create(const DisaggregationOptions& options,
                                                       const std::string& address,
                                                       Metrics& metrics);

  // Before the first prompt. `loop` must outlive the client and have stopped when the client ends.
  void attach(EngineLoop& loop, const HelloMessage& hello);

  // From any thread. The loop hears of every prompt exactly once, unless it is cancelled.
  void compute(const Request& request, const std::string& server) override;
  void cancel(int64_t request_id) override;

 private:
  using Clock = std::chrono::steady_clock;

  struct Server {
    KvPeer peer = 0;
    bool welcome = false;
  };
  struct Prompt {
    std::string server;
    PromptMessage asked;
    bool is_sent = false;
    HandedOver arrived;
    int num_layers = 0;  // arrived
    bool has_first = false;
    int64_t num_bytes = 0;
    Clock::time_point begin;
  };

  using Servers = std::map<std::string, Server>;  // by "host:port"

  PrefillClient(const DisaggregationOptions& options, Metrics& metrics)
      : options_(options), metrics_(metrics) {}

  // All on the transport's thread.
  void begin(int64_t id, Prompt prompt);
  void ask(int64_t id, Prompt& prompt, KvPeer peer);
  void hear(KvPeer peer, KvMessage message);
  void hear_welcome(KvPeer peer, const KvMessage& message);
  Status add_layer(Prompt& prompt, const KvMessage& message);
  void finish_if_whole(int64_t id);
  Servers::iterator server_of(KvPeer peer);
  void hear_closed(KvPeer peer, const std::string& why);
  void lose(KvPeer peer, const std::string& why);
  void fail(int64_t id, const Error& error);
  void drop_late_prompts();
  void show_in_flight();

  const DisaggregationOptions options_;
  Metrics& metrics_;
  EngineLoop* loop_ = nullptr;
  HelloMessage hello_;
  Servers servers_;
  std::unordered_map<int64_t, Prompt> prompts_;
  std::unique_ptr<KvTransport> transport_;  // last: its thread uses all of the above
};

}  // namespace plimsoll
