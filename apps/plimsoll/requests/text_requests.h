// From prompts to requests, and from tokens back to text.
#pragma once

#include <string>
#include <vector>

#include "engine/schedule/request.h"
#include "model/checkpoint/config.h"
#include "model/tokenizer/tokenizer.h"
#include "options/settings.h"

namespace plimsoll {

// What of a checkpoint can be read before its weights.
struct TextModel {
  ModelConfig config;
  Tokenizer tokenizer;
};
Result<TextModel> load_text_model(const std::string& model_dir);

// Request i, with id i, is prompt i behind the model's beginning-of-sentence token. Fails on a
// prompt that, with max_tokens, does not fit the model.
Result<std::vector<Request>> make_requests(const TextModel& model,
                                           const std::vector<std::string>& prompts,
                                           const SamplingSettings& sampling);

struct Completion {
  std::vector<int32_t> tokens;
  FinishReason finish = FinishReason::kNone;
};

}  // namespace plimsoll
