// What a caller asks of the engine, and what it hears back.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "engine/schedule/sampling.h"
#include "engine/schedule/step.h"

namespace plimsoll {

struct Request {
  int64_t id = 0;               // chosen by the caller, unique among live requests
  std::vector<int32_t> prompt;  // at least one token
  int64_t padding_tokens = 0;   // leading tokens of the prompt that are padding, see SequenceState
  int64_t max_tokens = 16;      // 0: only compute the prompt
  bool ignore_eos = false;
  SamplingParams sampling;
  int num_top_logprobs = -1;  // of each token; 0: only the chosen one's, -1: none

  bool score_prompt = false;       // return the negative log-likelihood of prompt tokens 1..n-1
  bool return_expert_ids = false;  // of the prompt's tokens
  std::vector<int64_t> logits_positions;  // ascending prompt positions whose logits to return whole

  // Give every layer's state to the engine's layer sink once the prompt is computed.
  bool hand_over = false;
  // Of a sequence that another engine has begun: its tokens after the prompt, and the state after
  // all of them but the last. Null: begin with the prompt.
  std::vector<int32_t> generated;
  std::shared_ptr<SequenceState> state;
};

enum class FinishReason { kNone, kStop, kLength, kCancelled };

// News of one request after a step. Prompt chunks arrive in order; a token comes with the last
// chunk and then with every step.
struct RequestUpdate {
  int64_t request_id = 0;
  SegmentResult result;  // result.next is the new token where has_token is set
  bool has_token = false;
  FinishReason finish = FinishReason::kNone;
};

}  // namespace plimsoll
