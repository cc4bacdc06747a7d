#include "serve/pd/prefill_client.h"

#include <algorithm>

namespace plimsoll {
namespace {

// "host:port", the port after the last colon; an IPv6 address may stand in brackets.
bool split_address(const std::string& address, std::string& host, int& port) {
  const size_t colon = address.rfind(':');
  if (colon == std::string::npos || colon == 0 || address.size() - colon > 6) return false;
  host = address.substr(0, colon);
  if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
  const std::string digits = address.substr(colon + 1);
  if (digits.empty() || digits.find_first_not_of("0123456789") != std::string::npos) return false;
  port = std::stoi(digits);
  return port > 0 && port < 65536;
}

}  // namespace

Result<std::unique_ptr<PrefillClient>> PrefillClient::create(const DisaggregationOptions& options,
                                                             const std::string& address,
                                                             Metrics& metrics) {
  std::unique_ptr<PrefillClient> client(new PrefillClient(options, metrics));
  auto transport = KvTransport::create(
      options.transport(address),
      {.on_message = [c = client.get()](KvPeer peer,
                                        KvMessage message) { c->hear(peer, std::move(message)); },
       .on_closed = [c = client.get()](KvPeer peer,
                                       const Error& why) { c->hear_closed(peer, why.message); },
       .on_tick = [c = client.get()] { c->drop_late_prompts(); }});
  if (!transport.ok()) return transport.error();
  client->transport_ = std::move(*transport);
  return client;
}

void PrefillClient::attach(EngineLoop& loop, const HelloMessage& hello) {
  loop_ = &loop;
  hello_ = hello;
}

void PrefillClient::compute(const Request& request, const std::string& server) {
  Prompt prompt{.server = server, .begin = Clock::now()};
  prompt.asked = {.prompt = request.prompt,
                  .padding_tokens = request.padding_tokens,
                  .wants_token = request.max_tokens > 0,
                  .sampling = request.sampling,
                  .num_top_logprobs = request.num_top_logprobs,
                  .score_prompt = request.score_prompt};
  transport_->post([this, id = request.id, prompt = std::move(prompt)]() mutable {
    begin(id, std::move(prompt));
  });
}

void PrefillClient::begin(int64_t id, Prompt prompt) {
  std::string host;
  int port = 0;
  const std::string address = prompt.server;
  Prompt& added = prompts_.insert_or_assign(id, std::move(prompt)).first->second;
  show_in_flight();
  if (!split_address(address, host, port)) {
    return fail(id,
                io_error("the prefill server's address is '" + address + "', expected HOST:PORT"));
  }
  Server& server = servers_[address];
  if (server.peer == 0) {
    server.peer = transport_->connect(host, port);
    transport_->send(server.peer, {.kind = kHello, .payload = encode(hello_)});
  }
  if (server.welcome) ask(id, added, server.peer);
}

void PrefillClient::ask(int64_t id, Prompt& prompt, KvPeer peer) {
  prompt.is_sent = true;
  transport_->send(peer, {.kind = kPrompt, .id = id, .payload = encode(prompt.asked)});
}

void PrefillClient::hear(KvPeer peer, KvMessage message) {
  if (message.kind == kWelcome) return hear_welcome(peer, message);
  const auto found = prompts_.find(message.id);
  if (found == prompts_.end()) return;  // cancelled, or given up
  Prompt& prompt = found->second;
  const auto server = servers_.find(prompt.server);
  if (server == servers_.end() || server->second.peer != peer || !prompt.is_sent) return;
  prompt.num_bytes += static_cast<int64_t>(message.payload.size());
  if (message.kind == kLayer) {
    const Status added = add_layer(prompt, message);
    if (!added.ok()) return fail(message.id, io_error(added.error().message));
  } else if (message.kind == kFirstToken && decode(message.payload, prompt.arrived.first)) {
    const std::string why = fault(prompt.arrived.first, prompt.asked, loop_->config().vocab_size);
    if (!why.empty()) {
      return fail(message.id, io_error("prefill server " + prompt.server + ": " + why));
    }
    prompt.has_first = true;
  } else if (FailedMessage failed; message.kind == kFailed && decode(message.payload, failed)) {
    return fail(message.id, failed.is_full ? unavailable(failed.reason)
                                           : io_error("prefill server " + prompt.server + ": " +
                                                      failed.reason));
  } else {
    return fail(message.id, io_error("prefill server " + prompt.server +
                                     " sent a message that cannot be understood"));
  }
  finish_if_whole(message.id);
}

void PrefillClient::hear_welcome(KvPeer peer, const KvMessage& message) {
  WelcomeMessage welcome;
  if (!decode(message.payload, welcome)) welcome.refusal = "its welcome cannot be understood";
  if (!welcome.refusal.empty()) {
    lose(peer, "it refuses this decode server: " + welcome.refusal);
    return transport_->close(peer);
  }
  const auto server = server_of(peer);
  if (server == servers_.end()) return;
  server->second.welcome = true;
  for (auto& [id, prompt] : prompts_) {
    if (prompt.server == server->first) ask(id, prompt, peer);
  }
}

Status PrefillClient::add_layer(Prompt& prompt, const KvMessage& message) {
  std::shared_ptr<SequenceState>& state = prompt.arrived.state;
  if (!state) state = std::make_shared<SequenceState>(make_sequence_state(loop_->config()));
  std::span<const std::byte> record = message.payload;
  const Status status = deserialize_layer(loop_->config(), record, *state);
  if (!status.ok()) return status;
  // That they are all there, the engine looks at once more.
  if (++prompt.num_layers > loop_->config().num_hidden_layers || !record.empty()) {
    return io_error("prefill server " + prompt.server + " sent more than the layers");
  }
  return ok_status();
}

void PrefillClient::finish_if_whole(int64_t id) {
  const auto found = prompts_.find(id);
  if (found == prompts_.end()) return;
  Prompt& prompt = found->second;
  const int num_layers = prompt.arrived.first.has_token ? loop_->config().num_hidden_layers : 0;
  if (!prompt.has_first || prompt.num_layers < num_layers) return;
  const double seconds = std::chrono::duration<double>(Clock::now() - prompt.begin).count();
  metrics_.count_hand_over("done", prompt.num_bytes);
  metrics_.observe_hand_over(seconds, std::max(seconds - prompt.arrived.first.seconds, 0.0));
  HandedOver arrived = std::move(prompt.arrived);
  prompts_.erase(found);
  show_in_flight();
  loop_->hand_over(id, std::move(arrived));
}

PrefillClient::Servers::iterator PrefillClient::server_of(KvPeer peer) {
  return std::ranges::find_if(servers_,
                              [&](const auto& entry) { return entry.second.peer == peer; });
}

// Where servers travel by unlike ways, UCX says no more than that there is no connection.
void PrefillClient::hear_closed(KvPeer peer, const std::string& why) {
  const auto server = server_of(peer);
  const bool was_welcome = server != servers_.end() && server->second.welcome;
  lose(peer, was_welcome ? why
                         : why + "; is it there, and with --disaggregation-transfer-backend " +
                               options_.transfer_backend + " as this decode server is?");
}

void PrefillClient::lose(KvPeer peer, const std::string& why) {
  const auto server = server_of(peer);
  if (server == servers_.end()) return;
  const std::string address = server->first;
  servers_.erase(server);  // the next prompt connects anew
  std::vector<int64_t> lost;
  for (const auto& [id, prompt] : prompts_) {
    if (prompt.server == address) lost.push_back(id);
  }
  for (int64_t id : lost) fail(id, io_error("prefill server " + address + ": " + why));
}

void PrefillClient::fail(int64_t id, const Error& error) {
  prompts_.erase(id);
  show_in_flight();
  metrics_.count_hand_over("failed");
  loop_->hand_over(id, error);
}

void PrefillClient::cancel(int64_t request_id) {
  transport_->post([this, request_id] {
    const auto found = prompts_.find(request_id);
    if (found == prompts_.end()) return;
    const auto server = servers_.find(found->second.server);
    if (server != servers_.end()) {
      transport_->send(server->second.peer, {.kind = kCancel, .id = request_id, .payload = {}});
    }
    prompts_.erase(found);
    show_in_flight();
    metrics_.count_hand_over("cancelled");
  });
}

void PrefillClient::drop_late_prompts() {
  std::vector<int64_t> late;
  for (const auto& [id, prompt] : prompts_) {
    if (Clock::now() - prompt.begin > std::chrono::seconds(options_.waiting_timeout_s)) {
      late.push_back(id);
    }
  }
  for (int64_t id : late) {
    const std::string address = prompts_[id].server;
    const auto server = servers_.find(address);
    if (server != servers_.end()) {
      transport_->send(server->second.peer, {.kind = kCancel, .id = id, .payload = {}});
    }
    fail(id, io_error("prefill server " + address + " has not handed over the prompt within " +
                      std::to_string(options_.waiting_timeout_s) + " s"));
  }
}

void PrefillClient::show_in_flight() {
  metrics_.set_hand_overs(static_cast<int>(prompts_.size()));
}

}  // namespace plimsoll
