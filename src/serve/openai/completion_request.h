// A completion or chat completion request of the OpenAI API, checked and understood.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "engine/schedule/sampling.h"
#include "model/checkpoint/config.h"
#include "model/tokenizer/tokenizer.h"
#include "plimsoll/result.h"

namespace plimsoll {

struct CompletionRequest {
  bool chat = false;
  bool reasons = false;                       // the answer begins with reasoning
  std::vector<std::vector<int32_t>> prompts;  // token ids
  int n = 1;                                  // answers to each prompt
  int64_t max_tokens = 16;
  SamplingParams sampling;
  bool has_seed = false;
  std::shared_ptr<const std::vector<std::string>> stop;  // of all answers; null: none
  bool ignore_eos = false;
  std::optional<int> logprobs;  // how many alternatives to report; 0: only the chosen token's
  bool echo = false;
  bool stream = false;
  bool include_usage = false;

  // How many the answers may come to.
  int64_t num_logprobs(int64_t max_sequence_tokens) const;
};

// Fails with a message for the client: what the field holds, and what was expected. A field that
// the server does not know is refused, with the nearest one that it does. A sequence has at most
// `max_sequence_tokens`.
Result<CompletionRequest> parse_completion(const nlohmann::json& body,
                                           bool chat,
                                           const Tokenizer& tokenizer,
                                           const ModelConfig& config,
                                           int64_t max_sequence_tokens);

}  // namespace plimsoll
