// What a prefill server and a decode server say to each other (docs/pd.md draws it).
//
// The decode server connects, says hello and is welcomed or refused. Then it asks for prompts; for
// each it gets the records of all layers (src/model/forward/sequence_state.h, as raw payload) and
// the first token, in any order, or a failure.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "comm/kv_transport.h"
#include "engine/schedule/request.h"

namespace plimsoll {

enum HandOverKind : uint32_t {
  kHello = 1,   // HelloMessage, id 0
  kWelcome,     // WelcomeMessage, id 0
  kPrompt,      // PromptMessage; the id is the decode server's
  kLayer,       // a layer's record
  kFirstToken,  // FirstTokenMessage
  kFailed,      // FailedMessage: the prompt will not be computed
  kCancel,      // nothing: the decode server has lost interest
};

// What the two ends must agree on. How long a sequence each holds is its own affair: it refuses
// what is longer.
struct HelloMessage {
  std::string version;  // Plimsoll's
  uint64_t model = 0;   // checkpoint_fingerprint
  std::string role;     // of the sender: decode or prefill
  std::string deepep_mode;
};

struct WelcomeMessage {
  std::string refusal;  // empty: welcome
};

struct PromptMessage {
  std::vector<int32_t> prompt;
  int64_t padding_tokens = 0;
  bool wants_token = true;
  SamplingParams sampling;
  int num_top_logprobs = -1;
  bool score_prompt = false;
};

struct FirstTokenMessage {
  bool has_token = false;
  SampledToken token;
  std::vector<float> prompt_nll;
  std::vector<TokenLogprob> prompt_top;
  double seconds = 0;  // from the prompt's arrival until the token was known
};

struct FailedMessage {
  bool is_full = false;  // the queue is: another server may take it
  std::string reason;
};

std::vector<std::byte> encode(const HelloMessage& message);
std::vector<std::byte> encode(const WelcomeMessage& message);
std::vector<std::byte> encode(const PromptMessage& message);
std::vector<std::byte> encode(const FirstTokenMessage& message);
std::vector<std::byte> encode(const FailedMessage& message);

// False where the bytes are no such message.
bool decode(std::span<const std::byte> bytes, HelloMessage& message);
bool decode(std::span<const std::byte> bytes, WelcomeMessage& message);
bool decode(std::span<const std::byte> bytes, PromptMessage& message);
bool decode(std::span<const std::byte> bytes, FirstTokenMessage& message);
bool decode(std::span<const std::byte> bytes, FailedMessage& message);

// What is wrong with a message whose fields have been read; empty: nothing. A peer's word is not
// taken for what its fields may hold.
std::string fault(const PromptMessage& message);
// As the answer to `asked`, by a model with so many tokens in its vocabulary.
std::string fault(const FirstTokenMessage& message, const PromptMessage& asked, int vocab_size);

// Why a server that says `ours` cannot work with one that says `theirs`; empty: it can.
std::string mismatch(const HelloMessage& ours, const HelloMessage& theirs);

// By which a router tells a decode server who computes a request's prompts: HOST:PORT.
inline constexpr const char* kPrefillHeader = "x-plimsoll-prefill";

// A prompt that another server has computed.
struct HandedOver {
  FirstTokenMessage first;
  std::shared_ptr<SequenceState> state;  // where there is a token
};

// Options of a prefill or decode server.
struct DisaggregationOptions {
  std::string mode = "null";             // null, prefill, decode
  std::string transfer_backend = "ucx";  // ucx, ucx_shm
  int bootstrap_port = 8998;             // where a prefill server waits for decode servers
  int waiting_timeout_s = 300;           // from a prompt's sending to its state's arrival

  std::string key_file;          // of the key that this deployment's servers share; empty: none
  std::string key;               // what it holds
  bool takes_strangers = false;  // without a key, from other hosts too
  std::vector<std::string> prefill_servers;  // HOST:PORT, those that a decode server may ask

  bool active() const { return mode != "null"; }
  KvOptions transport(const std::string& address) const {
    return {.shared_memory = transfer_backend == "ucx_shm",
            .address = address,
            .key = key,
            .takes_strangers = takes_strangers};
  }
  // The prefill server that a request's header names; empty where it may not: then 403 is the
  // answer and nobody is asked. The servers listed may be named by anybody, others by a router that
  // has the key; with neither list nor key, those of this host.
  std::string allowed_prefill_server(const std::string& header) const;
};

}  // namespace plimsoll
