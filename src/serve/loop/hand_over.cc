#include "serve/loop/hand_over.h"

#include <algorithm>
#include <boost/asio/ip/address.hpp>
#include <cmath>
#include <cstring>
#include <ctime>
#include <type_traits>

#include "comm/deployment_key.h"
#include "record/formats/limits.h"

namespace plimsoll {
namespace {

// Writes and reads the fields of a message in order: numbers as they lie, lists after their length.
// Each message's fields are named once, for both.
class Writer {
 public:
  std::vector<std::byte> bytes;

  template <typename... T>
  bool operator()(const T&... fields) {
    (put(fields), ...);
    return true;
  }

 private:
  void append(const void* data, size_t size) {
    const auto* from = static_cast<const std::byte*>(data);
    bytes.insert(bytes.end(), from, from + size);
  }
  template <typename T>
  requires std::is_trivially_copyable_v<T>
  void put(const T& value) { append(&value, sizeof value); }
  template <typename List>
  requires requires(const List& list) { list.data(); }
  void put(const List& list) {
    put(static_cast<uint64_t>(list.size()));
    append(list.data(), list.size() * sizeof *list.data());
  }
};

class Reader {
 public:
  explicit Reader(std::span<const std::byte> bytes) : bytes_(bytes) {}

  template <typename... T>
  bool operator()(T&... fields) {
    return (get(fields) && ...);
  }
  bool at_end() const { return bytes_.empty(); }

 private:
  bool take(void* to, size_t size) {
    if (bytes_.size() < size) return false;
    if (size > 0) std::memcpy(to, bytes_.data(), size);
    bytes_ = bytes_.subspan(size);
    return true;
  }
  bool get(bool& value) {
    uint8_t byte = 0;
    if (!take(&byte, 1) || byte > 1) return false;
    value = byte != 0;
    return true;
  }
  template <typename T>
  requires std::is_trivially_copyable_v<T>
  bool get(T& value) { return take(&value, sizeof value); }
  template <typename List>
  requires requires(List& list) { list.data(); }
  bool get(List& list) {
    uint64_t size = 0;
    if (!get(size) || size > bytes_.size() / sizeof *list.data()) return false;
    list.resize(size);
    return take(list.data(), size * sizeof *list.data());
  }

  std::span<const std::byte> bytes_;
};

template <typename Visitor>
bool visit(Visitor& fields, auto& m) requires requires {
  m.deepep_mode;
}
{ return fields(m.version, m.model, m.role, m.deepep_mode); }
template <typename Visitor>
bool visit(Visitor& fields, auto& m) requires requires {
  m.refusal;
}
{ return fields(m.refusal); }
template <typename Visitor>
bool visit(Visitor& fields, auto& m) requires requires {
  m.wants_token;
}
{
  auto& s = m.sampling;
  return fields(m.prompt, m.padding_tokens, m.wants_token, m.num_top_logprobs, m.score_prompt) &&
         fields(s.temperature, s.top_p, s.top_k, s.min_p, s.presence_penalty, s.frequency_penalty,
                s.seed);
}
template <typename Visitor>
bool visit(Visitor& fields, auto& m) requires requires {
  m.has_token;
}
{
  return fields(m.has_token, m.token.token, m.token.logprob, m.token.top, m.prompt_nll,
                m.prompt_top, m.seconds);
}
template <typename Visitor>
bool visit(Visitor& fields, auto& m) requires requires {
  m.is_full;
}
{ return fields(m.is_full, m.reason); }

template <typename Message>
std::vector<std::byte> written(const Message& message) {
  Writer writer;
  visit(writer, message);
  return std::move(writer.bytes);
}

template <typename Message>
bool read(std::span<const std::byte> bytes, Message& message) {
  Reader reader(bytes);
  return visit(reader, message) && reader.at_end();
}

}  // namespace

std::vector<std::byte> encode(const HelloMessage& message) {
  return written(message);
}
std::vector<std::byte> encode(const WelcomeMessage& message) {
  return written(message);
}
std::vector<std::byte> encode(const PromptMessage& message) {
  return written(message);
}
std::vector<std::byte> encode(const FirstTokenMessage& message) {
  return written(message);
}
std::vector<std::byte> encode(const FailedMessage& message) {
  return written(message);
}

bool decode(std::span<const std::byte> bytes, HelloMessage& m) {
  return read(bytes, m);
}
bool decode(std::span<const std::byte> bytes, WelcomeMessage& m) {
  return read(bytes, m);
}
bool decode(std::span<const std::byte> bytes, PromptMessage& m) {
  return read(bytes, m);
}
bool decode(std::span<const std::byte> bytes, FirstTokenMessage& m) {
  return read(bytes, m);
}
bool decode(std::span<const std::byte> bytes, FailedMessage& m) {
  return read(bytes, m);
}

std::string DisaggregationOptions::allowed_prefill_server(const std::string& header) const {
  const std::string server = key.empty() ? header : signed_text(key, header, std::time(nullptr));
  if (!key.empty() && !server.empty()) return server;
  if (std::ranges::find(prefill_servers, header) != prefill_servers.end()) return header;
  if (!key.empty() || !prefill_servers.empty()) return "";
  std::string host = header.substr(0, header.rfind(':'));
  if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
  boost::system::error_code no_address;
  const bool is_near =
      host == "localhost" || boost::asio::ip::make_address(host, no_address).is_loopback();
  return is_near || takes_strangers ? header : "";
}

std::string fault(const PromptMessage& message) {
  const auto num_tokens = static_cast<int64_t>(message.prompt.size());
  if (num_tokens == 0) return "the prompt is empty";
  if (message.padding_tokens < 0 || message.padding_tokens > num_tokens) {
    return "padding_tokens is " + std::to_string(message.padding_tokens);
  }
  if (message.num_top_logprobs < -1 || message.num_top_logprobs > limits::kTopLogprobs) {
    return "num_top_logprobs is " + std::to_string(message.num_top_logprobs);
  }
  return "";
}

std::string fault(const FirstTokenMessage& message, const PromptMessage& asked, int vocab_size) {
  const auto is_token = [&](int32_t token) { return token >= 0 && token < vocab_size; };
  const auto are_tokens = [&](const std::vector<TokenLogprob>& list) {
    return std::ranges::all_of(list, [&](const TokenLogprob& l) { return is_token(l.token); });
  };
  if (message.has_token != asked.wants_token) return "has_token is not what was asked for";
  const auto num_top = static_cast<size_t>(std::max(asked.num_top_logprobs, 0));
  if (message.has_token) {
    if (!is_token(message.token.token)) return "its token is not in the vocabulary";
    if (message.token.top.size() != num_top || !are_tokens(message.token.top)) {
      return "its token's alternatives are not what was asked for";
    }
  }
  const size_t num_scored = asked.score_prompt ? asked.prompt.size() - 1 : 0;
  if (message.prompt_nll.size() != num_scored) return "prompt_nll has not one value a token";
  if (message.prompt_top.size() != num_scored * num_top || !are_tokens(message.prompt_top)) {
    return "prompt_top is not what was asked for";
  }
  if (!std::isfinite(message.seconds) || message.seconds < 0) return "its time is none";
  return "";
}

std::string mismatch(const HelloMessage& ours, const HelloMessage& theirs) {
  if (ours.version != theirs.version) {
    return "this server's version of plimsoll is " + ours.version + ", the other server's is " +
           theirs.version + "; start both alike";
  }
  if (ours.model != theirs.model) {
    return "the servers have loaded different models; give both the same --model";
  }
  if (ours.role == theirs.role) return "both servers are " + ours.role + " servers";
  for (const HelloMessage* server : {&ours, &theirs}) {
    const char* expected = server->role == "prefill" ? "normal" : "low_latency";
    if (server->deepep_mode != expected) {
      return "the " + server->role + " server runs with --deepep-mode " + server->deepep_mode +
             ", expected " + expected;
    }
  }
  return "";
}

}  // namespace plimsoll
