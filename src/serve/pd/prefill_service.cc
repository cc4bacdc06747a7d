#include "serve/pd/prefill_service.h"

namespace plimsoll {

Result<std::unique_ptr<PrefillService>> PrefillService::create(const DisaggregationOptions& options,
                                                               const std::string& address,
                                                               Metrics& metrics) {
  std::unique_ptr<PrefillService> service(new PrefillService(metrics));
  auto transport = KvTransport::create(
      options.transport(address),
      {.on_message = [s = service.get()](KvPeer peer,
                                         KvMessage message) { s->hear(peer, message); },
       .on_closed =
           [s = service.get()](KvPeer peer, const Error&) {
             s->welcome_.erase(peer);
             s->drop_jobs(peer, nullptr);
           },
       .on_tick = [] {}});
  if (!transport.ok()) return transport.error();
  service->transport_ = std::move(*transport);
  const Result<int> port = service->transport_->listen(address, options.bootstrap_port);
  if (!port.ok()) return port.error();
  service->port_ = *port;
  return service;
}

void PrefillService::attach(EngineLoop& loop, const HelloMessage& hello) {
  loop.post([this](Engine& engine) {
    engine.set_layer_sink([this](int64_t id, int, std::vector<std::byte> record) {
      send_layer(id, std::move(record));
    });
  });
  transport_->post([this, &loop, hello] {
    loop_ = &loop;
    hello_ = hello;
  });
}

void PrefillService::hear(KvPeer peer, const KvMessage& message) {
  if (message.kind == kHello) return hear_hello(peer, message);
  if (!welcome_.contains(peer)) return transport_->close(peer);
  if (message.kind == kCancel) return drop_jobs(peer, &message.id);
  PromptMessage prompt;
  if (message.kind == kPrompt && decode(message.payload, prompt)) {
    const std::string why = fault(prompt);
    if (why.empty()) return start(peer, message.id, prompt);
    return send_failure(peer, message.id,
                        invalid_argument("the prompt cannot be computed: " + why));
  }
  send_failure(peer, message.id, invalid_argument("the message cannot be understood"));
}

void PrefillService::hear_hello(KvPeer peer, const KvMessage& message) {
  WelcomeMessage welcome;
  HelloMessage hello;
  if (loop_ == nullptr) {
    welcome.refusal = "the model is still loading";
  } else if (!decode(message.payload, hello)) {
    welcome.refusal = "the hello cannot be understood; start servers of one version";
  } else {
    welcome.refusal = mismatch(hello_, hello);
  }
  if (welcome.refusal.empty()) welcome_.insert(peer);
  transport_->send(peer, {.kind = kWelcome, .payload = encode(welcome)});
}

void PrefillService::start(KvPeer peer, int64_t id, const PromptMessage& prompt) {
  const int64_t engine_id = loop_->reserve_ids(1);
  std::vector<Request> requests(1);
  requests[0] = {.id = engine_id,
                 .prompt = prompt.prompt,
                 .padding_tokens = prompt.padding_tokens,
                 .max_tokens = prompt.wants_token ? 1 : 0,
                 .sampling = prompt.sampling,
                 .num_top_logprobs = prompt.num_top_logprobs,
                 .score_prompt = prompt.score_prompt,
                 .hand_over = prompt.wants_token};
  {
    const std::lock_guard lock(mutex_);
    jobs_[engine_id] = {.peer = peer, .id = id, .begin = Clock::now()};
    metrics_.set_hand_overs(static_cast<int>(jobs_.size()));
  }
  const Status status =
      loop_->submit(std::move(requests), [this, engine_id](Result<RequestUpdate> update) {
        hear_update(engine_id, std::move(update));
      });
  if (!status.ok()) hear_update(engine_id, status.error());
}

void PrefillService::send_layer(int64_t engine_id, std::vector<std::byte> record) {
  KvPeer peer = 0;
  int64_t id = 0;
  {
    const std::lock_guard lock(mutex_);
    const auto found = jobs_.find(engine_id);
    if (found == jobs_.end()) return;
    peer = found->second.peer;
    id = found->second.id;
    found->second.num_bytes += static_cast<int64_t>(record.size());
  }
  transport_->send(peer, {.kind = kLayer, .id = id, .payload = std::move(record)});
}

void PrefillService::hear_update(int64_t engine_id, Result<RequestUpdate> update) {
  Job job;
  {
    const std::lock_guard lock(mutex_);
    const auto found = jobs_.find(engine_id);
    if (found == jobs_.end()) return;
    if (update.ok()) {
      FirstTokenMessage& first = found->second.first;
      const std::vector<float>& nll = update->result.nll;
      const std::vector<TokenLogprob>& top = update->result.target_top;
      first.prompt_nll.insert(first.prompt_nll.end(), nll.begin(), nll.end());
      first.prompt_top.insert(first.prompt_top.end(), top.begin(), top.end());
      if (update->finish == FinishReason::kNone) return;  // more of the prompt is to come
    }
    job = std::move(found->second);
    jobs_.erase(found);
    metrics_.set_hand_overs(static_cast<int>(jobs_.size()));
  }
  if (!update.ok()) {
    metrics_.count_hand_over("failed");
    return send_failure(job.peer, job.id, update.error());
  }
  job.first.has_token = update->has_token;
  job.first.token = std::move(update->result.next);
  job.first.seconds = std::chrono::duration<double>(Clock::now() - job.begin).count();
  metrics_.count_hand_over("done", job.num_bytes);
  transport_->send(job.peer, {.kind = kFirstToken, .id = job.id, .payload = encode(job.first)});
}

// Those of a peer that is gone, or the one it has lost interest in.
void PrefillService::drop_jobs(KvPeer peer, const int64_t* id) {
  const std::lock_guard lock(mutex_);
  std::erase_if(jobs_, [&](const auto& entry) {
    const auto& [engine_id, job] = entry;
    if (job.peer != peer || (id && job.id != *id)) return false;
    loop_->cancel(engine_id, 1);
    metrics_.count_hand_over("cancelled");
    return true;
  });
  metrics_.set_hand_overs(static_cast<int>(jobs_.size()));
}

void PrefillService::send_failure(KvPeer peer, int64_t id, const Error& error) {
  const FailedMessage failed{.is_full = is_queue_full(error), .reason = error.message};
  transport_->send(peer, {.kind = kFailed, .id = id, .payload = encode(failed)});
}

}  // namespace plimsoll
