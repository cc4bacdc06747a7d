#include "serve/loop/engine_loop.h"

#include <future>

#include "serve/loop/hand_over.h"

namespace plimsoll {

bool is_queue_full(const Error& error) {
  return error.code == ErrorCode::kUnavailable &&
         error.message.find("queue is full") != std::string::npos;
}

EngineLoop::EngineLoop(std::unique_ptr<Engine> engine,
                       int max_queued,
                       Metrics& metrics,
                       std::function<void(Engine&)> on_step)
    : engine_(std::move(engine)),
      metrics_(metrics),
      max_queued_(max_queued),
      on_step_(std::move(on_step)) {
  thread_ = std::thread([this] { serve(); });
}

EngineLoop::~EngineLoop() {
  stop();
}

void EngineLoop::stop() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

Status EngineLoop::check_room(int64_t num_requests) const {
  const int64_t room = engine_->setup().limits.max_running_requests + max_queued_;
  if (num_requests > room) {
    return invalid_argument("the request asks for " + std::to_string(num_requests) +
                            " answers, but this server holds at most " + std::to_string(room) +
                            " (--max-running-requests and --max-queued-requests together)");
  }
  if (draining_) return unavailable("the server is shutting down");
  if (num_live_ + num_requests > room) {
    return unavailable("the queue is full: " + std::to_string(room) + " requests run or wait");
  }
  return ok_status();
}

Status EngineLoop::submit(std::vector<Request> requests,
                          RequestListener listener,
                          const std::string& prefill_server) {
  if (Status status = health(); !status.ok()) {
    return unavailable("the engine has failed: " + status.error().message);
  }
  for (const Request& request : requests) {
    if (Status status = engine_->check(request); !status.ok()) return status;
  }
  const auto num_requests = static_cast<int64_t>(requests.size());
  // Counted first: drain() waits for them, or they are refused.
  num_live_ += num_requests;
  if (Status status = check_room(0); !status.ok()) {
    num_live_ -= num_requests;
    return status;
  }
  const Clock::time_point now = Clock::now();
  post([this, now, prefill_server, requests = std::move(requests),
        listener = std::move(listener)](Engine&) mutable {
    for (Request& request : requests) {
      live_[request.id] = {.listener = listener,
                           .submitted = now,
                           .last_token = now,
                           .num_prompt_tokens = static_cast<int64_t>(request.prompt.size())};
      start(std::move(request), prefill_server);
    }
  });
  return ok_status();
}

void EngineLoop::start(Request request, const std::string& prefill_server) {
  if (!prefill_server.empty()) {
    prompt_source_->compute(request, prefill_server);
    live_[request.id].elsewhere = std::move(request);
    return;
  }
  const int64_t id = request.id;
  const Status status = healthy_ ? engine_->submit(std::move(request)) : failure_;
  if (!status.ok()) fail(id, status.error());
}

void EngineLoop::hand_over(int64_t request_id, Result<HandedOver> handed) {
  post([this, request_id, handed = std::move(handed)](Engine&) mutable {
    take_over(request_id, std::move(handed));
  });
}

// The first token is heard of at once; the sequence then goes on here.
void EngineLoop::take_over(int64_t request_id, Result<HandedOver> handed) {
  const auto found = live_.find(request_id);
  if (found == live_.end() || !found->second.elsewhere) return;  // cancelled
  if (!handed.ok()) return fail(request_id, handed.error());
  Request request = std::move(*found->second.elsewhere);
  found->second.elsewhere.reset();
  found->second.has_started = true;  // it has waited at the other server
  FirstTokenMessage& first = handed->first;
  RequestUpdate update{.request_id = request_id,
                       .result = {.sequence_id = request_id,
                                  .next = first.token,
                                  .nll = std::move(first.prompt_nll),
                                  .target_top = std::move(first.prompt_top)},
                       .has_token = first.has_token,
                       .finish = FinishReason::kLength};
  if (first.has_token) {
    update.finish = finish_after(request, setup().limits, 1, first.token.token);
  }
  if (update.finish == FinishReason::kNone) {
    request.generated = {first.token.token};
    request.state = std::move(handed->state);
    start(std::move(request), "");
  }
  hear(update);
}

void EngineLoop::fail(int64_t request_id, const Error& error) {
  const auto found = live_.find(request_id);
  if (found == live_.end()) return;
  const RequestListener listener = std::move(found->second.listener);
  live_.erase(found);
  --num_live_;
  listener(error);
}

void EngineLoop::cancel(int64_t first_id, int64_t count) {
  post([this, first_id, count](Engine& engine) {
    for (int64_t id = first_id; id < first_id + count; ++id) {
      const auto found = live_.find(id);
      if (found == live_.end()) continue;
      if (found->second.elsewhere) prompt_source_->cancel(id);
      live_.erase(found);
      --num_live_;
      engine.cancel(id);
      metrics_.count_request(FinishReason::kCancelled);
    }
  });
}

void EngineLoop::post(std::function<void(Engine&)> action) {
  {
    const std::lock_guard lock(mutex_);
    actions_.push_back(std::move(action));
  }
  changed_.notify_all();
}

void EngineLoop::drain() {
  draining_ = true;
  {
    std::unique_lock lock(mutex_);
    while (num_live_ > 0) changed_.wait_for(lock, std::chrono::milliseconds(20));
  }
  // The last one is counted off just before its listener is called, on the engine's thread.
  std::promise<void> all_heard;
  post([&](Engine&) { all_heard.set_value(); });
  all_heard.get_future().wait();
}

void EngineLoop::serve() {
  while (true) {
    {
      std::unique_lock lock(mutex_);
      changed_.wait(
          lock, [&] { return stopping_ || !actions_.empty() || (healthy_ && !engine_->idle()); });
      if (stopping_) return;
    }
    run_actions();
    if (healthy_) advance();
    metrics_.set_scheduler(engine_->scheduler());
  }
}

void EngineLoop::run_actions() {
  std::vector<std::function<void(Engine&)>> actions;
  {
    const std::lock_guard lock(mutex_);
    std::swap(actions, actions_);
  }
  for (const auto& action : actions) action(*engine_);
}

// An idle engine holds no states.
void EngineLoop::advance() {
  if (!engine_->idle()) step();
  if (!healthy_ || !engine_->idle()) return;
  if (Status status = engine_->drop_ended(); !status.ok()) fail_all(status.error());
}

void EngineLoop::step() {
  step_begin_ = Clock::now();
  updates_.clear();
  if (Status status = engine_->step(updates_); !status.ok()) return fail_all(status.error());
  metrics_.observe_step(engine_->last_plan(), engine_->last_result(),
                        std::chrono::duration<double>(Clock::now() - step_begin_).count());
  on_step_(*engine_);
  for (RequestUpdate& update : updates_) hear(update);
}

void EngineLoop::hear(RequestUpdate& update) {
  const auto found = live_.find(update.request_id);
  if (found == live_.end()) return;
  Live& live = found->second;
  measure(live, update);
  if (update.finish == FinishReason::kNone) return live.listener(std::move(update));
  metrics_.count_request(update.finish);
  const RequestListener listener = std::move(live.listener);
  live_.erase(found);
  --num_live_;
  listener(std::move(update));
}

void EngineLoop::measure(Live& live, const RequestUpdate& update) {
  const Clock::time_point now = Clock::now();
  const auto since = [&](Clock::time_point then) {
    return std::chrono::duration<double>(now - then).count();
  };
  if (!live.has_started) {
    live.has_started = true;
    metrics_.observe_queue(std::chrono::duration<double>(step_begin_ - live.submitted).count());
  }
  if (update.has_token) {
    if (live.has_token) {
      metrics_.observe_inter_token(since(live.last_token));
    } else {
      metrics_.observe_first_token(since(live.submitted), live.num_prompt_tokens);
    }
    live.has_token = true;
    live.last_token = now;
  }
  if (update.finish != FinishReason::kNone) metrics_.observe_request(since(live.submitted));
}

void EngineLoop::fail_all(const Error& error) {
  failure_ = error;
  healthy_ = false;
  for (auto& [id, live] : live_) live.listener(error);
  num_live_ -= static_cast<int64_t>(live_.size());
  live_.clear();
}

}  // namespace plimsoll
