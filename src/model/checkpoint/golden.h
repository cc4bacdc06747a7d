// Reference answers to compare a model with, from a safetensors file. For prompt i:
//   i.input_ids [n], i.logits_positions [p], i.logits [p, vocab], i.nll [n - 1] (negative
//   log-likelihood of tokens 1..n-1), i.expert_ids [layers, n, k] ascending by id, i.greedy [g]
//   (the continuation)
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/checkpoint/config.h"
#include "plimsoll/result.h"

namespace plimsoll {

struct GoldenPrompt {
  std::vector<int32_t> input_ids;
  std::vector<int64_t> logits_positions;
  std::vector<float> logits;
  std::vector<float> nll;
  std::vector<int32_t> expert_ids;
  std::vector<int32_t> greedy;
};

// Leading tokens of the prompt that were padding when its continuation was computed: transformers'
// generate() takes id 0 for padding, the other answers are of the prompt as it stands. An engine
// that checks `greedy` must count them the same way (SequenceState::padding_tokens).
int64_t greedy_padding_tokens(const GoldenPrompt& prompt);

// Fails where the file does not fit the model: sizes, ids and positions are all checked.
Result<std::vector<GoldenPrompt>> load_golden(const std::string& path, const ModelConfig& config);

}  // namespace plimsoll
