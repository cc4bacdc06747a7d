// The engine on a thread of its own, for callers on other threads.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "engine/engine.h"
#include "serve/loop/metrics.h"

namespace plimsoll {

// Hears of one request, on the engine's thread: updates in order, the last of which has a finish
// reason; or an error, after which nothing more comes. Must return soon.
using RequestListener = std::function<void(Result<RequestUpdate> update)>;

// Whether an error of submit says that trying another server may help.
bool is_queue_full(const Error& error);

struct HandedOver;  // hand_over.h

// Where prompts are computed if not here.
class PromptSource {
 public:
  virtual ~PromptSource() = default;
  // Answers through EngineLoop::hand_over, unless cancelled before.
  virtual void compute(const Request& request, const std::string& server) = 0;
  virtual void cancel(int64_t request_id) = 0;
};

class EngineLoop {
 public:
  // At most `max_queued` requests wait for a rank; `metrics` must outlive the loop. `on_step` is
  // called on the engine's thread after every step.
  EngineLoop(std::unique_ptr<Engine> engine,
             int max_queued,
             Metrics& metrics,
             std::function<void(Engine&)> on_step);
  ~EngineLoop();

  const ModelConfig& config() const { return engine_->config(); }
  const EngineSetup& setup() const { return engine_->setup(); }

  // The first of `count` request ids in a row that nobody else uses.
  int64_t reserve_ids(int64_t count) { return next_id_.fetch_add(count); }

  // Whether so many requests could be taken now; fails as submit does.
  Status check_room(int64_t num_requests) const;

  // Fails where the queue is full or the loop drains (kUnavailable), where there are more requests
  // than it can ever hold, or where the engine refuses. All of
  // `requests`, with ids from reserve_ids, are taken, or none. Where a prefill server is named, it
  // computes the prompts.
  Status submit(std::vector<Request> requests,
                RequestListener listener,
                const std::string& prefill_server = "");
  // The listener hears nothing more of these requests.
  void cancel(int64_t first_id, int64_t count);

  // Runs `action` on the engine's thread, between two steps.
  void post(std::function<void(Engine&)> action);

  // Before the first request that names a prefill server.
  void set_prompt_source(PromptSource* source) { prompt_source_ = source; }
  // The answer to PromptSource::compute. From any thread.
  void hand_over(int64_t request_id, Result<HandedOver> handed);

  // Ends the engine's thread; nothing is computed any more.
  void stop();

  // Refuses new requests from now on, and returns when the last one has ended and its listener has
  // heard of it.
  void drain();
  bool draining() const { return draining_; }
  // Why it serves no longer, or ok.
  Status health() const { return healthy_ ? engine_->health() : failure_; }
  int num_living_ranks() const { return engine_->num_living_ranks(); }

 private:
  using Clock = std::chrono::steady_clock;
  struct Live {
    RequestListener listener;
    Clock::time_point submitted;
    Clock::time_point last_token;
    bool has_started = false;
    bool has_token = false;
    int64_t num_prompt_tokens = 0;
    std::optional<Request> elsewhere;  // while its prompt is computed there
  };

  void serve();
  void run_actions();
  void advance();
  void step();
  void hear(RequestUpdate& update);
  void measure(Live& live, const RequestUpdate& update);
  void start(Request request, const std::string& prefill_server);
  void take_over(int64_t request_id, Result<HandedOver> handed);
  void fail(int64_t request_id, const Error& error);
  void fail_all(const Error& error);

  std::unique_ptr<Engine> engine_;
  Metrics& metrics_;
  const int max_queued_;
  std::function<void(Engine&)> on_step_;
  PromptSource* prompt_source_ = nullptr;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::function<void(Engine&)>> actions_;
  bool stopping_ = false;
  std::atomic<bool> draining_ = false;
  std::atomic<bool> healthy_ = true;
  Status failure_ = ok_status();  // once it is not healthy
  std::atomic<int64_t> next_id_ = 1;
  std::atomic<int64_t> num_live_ = 0;

  // Of the engine's thread.
  std::unordered_map<int64_t, Live> live_;
  std::vector<RequestUpdate> updates_;
  Clock::time_point step_begin_;
  std::thread thread_;
};

}  // namespace plimsoll
