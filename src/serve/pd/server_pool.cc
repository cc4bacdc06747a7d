#include "serve/pd/server_pool.h"

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>

#include "record/formats/json_text.h"

namespace plimsoll {
namespace {

constexpr size_t kShownBytes = 100;  // of another server's words

// What the answer to /health lacks of a server in `role`; empty: nothing. Sets where decode servers
// find a prefill server.
std::string lacks(PdRole role, int status, const nlohmann::json& health, PooledServer& server) {
  if (!health.is_object()) return "its /health is no JSON object; is it a Plimsoll server?";
  if (status != 200) {
    const std::string state = text_member(health, "status").substr(0, kShownBytes);
    return "it is " + (state.empty() ? "not ready" : state);
  }
  const std::string expected = name_of(role);
  const std::string found = text_member(health, "role").substr(0, kShownBytes);
  if (found != expected) {
    const std::string is = found.empty() ? "neither a prefill nor a decode" : "a " + found;
    return "it is " + is + " server; start it with --disaggregation-mode " + expected;
  }
  if (role == PdRole::kDecode) return "";
  const int64_t port = integer_member(health, "bootstrap_port", 0);
  if (port < 1 || port > 65535) return "its /health names no bootstrap_port";
  const HttpUrl& url = server.client.url();
  const std::string host = url.host.find(':') == url.host.npos ? url.host : "[" + url.host + "]";
  server.bootstrap = host + ":" + std::to_string(port);
  return "";
}

}  // namespace

const char* name_of(PdRole role) {
  return role == PdRole::kPrefill ? "prefill" : "decode";
}

Status ServerPool::add(PdRole role, const HttpUrl& url) {
  auto client = HttpClient::create(io_, url);
  if (!client.ok()) return client.error();
  servers_.push_back(
      {.server = {.role = role, .client = *client}, .timer = boost::asio::steady_timer(io_)});
  check(servers_.back());
  return ok_status();
}

PooledServer* ServerPool::pick(PdRole role, const std::vector<const PooledServer*>& excluded) {
  PooledServer* best = nullptr;
  for (Member& member : servers_) {
    PooledServer& server = member.server;
    if (server.role != role || !server.ready) continue;
    if (std::ranges::find(excluded, &server) != excluded.end()) continue;
    const auto rank = [](const PooledServer& s) {
      return std::pair(s.num_requests, s.last_picked);
    };
    if (best == nullptr || rank(server) < rank(*best)) best = &server;
  }
  if (best) best->last_picked = ++num_picks_;
  return best;
}

void ServerPool::doubt(PooledServer& server) {
  for (Member& member : servers_) {
    if (&member.server == &server && !member.checking) check(member);
  }
}

bool ServerPool::has_ready(PdRole role) const {
  return std::ranges::any_of(servers_, [role](const Member& member) {
    return member.server.role == role && member.server.ready;
  });
}

std::string ServerPool::reasons(PdRole role) const {
  std::string text;
  for (const Member& member : servers_) {
    const PooledServer& server = member.server;
    if (server.role != role || server.ready) continue;
    text += (text.empty() ? "" : "; ") + server.client.url().text() + ": " + server.why_not;
  }
  return text;
}

void ServerPool::for_each(const std::function<void(const PooledServer&)>& action) const {
  for (const Member& member : servers_) action(member.server);
}

void ServerPool::check(Member& member) {
  struct Answer {
    int status = 0;
    std::string body;
    std::chrono::steady_clock::time_point begin = std::chrono::steady_clock::now();
  };
  const auto answer = std::make_shared<Answer>();
  member.checking = true;
  member.timer.cancel();
  member.server.client.start(
      {.path = "/health", .timeout = checks_.timeout},
      {.on_head = [answer](int status, std::string_view) { answer->status = status; },
       .on_bytes =
           [answer](std::string_view bytes) {
             const size_t room = limits::kHealthBytes - answer->body.size();
             answer->body += bytes.substr(0, room);  // what is cut is no JSON
           },
       .on_end =
           [this, answer, &member](const Status& ended) {
             const auto elapsed = std::chrono::steady_clock::now() - answer->begin;
             judge(member, ended, elapsed >= checks_.timeout, answer->status, answer->body);
             check_later(member);
           }});
}

void ServerPool::judge(
    Member& member, const Status& ended, bool silent, int status, const std::string& body) {
  PooledServer& server = member.server;
  member.checking = false;
  if (ended.ok()) {
    server.num_silent_checks = 0;
    const auto health = parse_json(body, limits::kJsonNodesOfRequest);
    return set_ready(member,
                     lacks(server.role, status, health.ok() ? *health : nlohmann::json(), server));
  }
  if (!silent) return set_ready(member, ended.error().message);
  if (++server.num_silent_checks < checks_.max_silent) return;
  set_ready(member, "it has not answered " + std::to_string(server.num_silent_checks) +
                        " health checks in a row");
  const auto calls = std::move(server.calls);  // their ends change the map
  server.calls.clear();
  for (const auto& [caller, break_off] : calls) break_off();
}

void ServerPool::set_ready(Member& member, const std::string& why_not) {
  PooledServer& server = member.server;
  const bool ready = why_not.empty();
  if (log_ && (ready != server.ready || why_not != server.why_not)) {
    log_(server.text() + (ready ? " is ready" : " is not ready: " + why_not));
  }
  server.ready = ready;
  server.why_not = why_not;
}

void ServerPool::check_later(Member& member) {
  member.timer.expires_after(checks_.interval);
  member.timer.async_wait([this, &member](boost::system::error_code error) {
    if (!error && !member.checking) check(member);
  });
}

}  // namespace plimsoll
