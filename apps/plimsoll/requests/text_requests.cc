#include "requests/text_requests.h"

#include <fmt/format.h>

namespace plimsoll {

Result<TextModel> load_text_model(const std::string& model_dir) {
  auto config = load_config(model_dir);
  if (!config) return config.error();
  auto tokenizer = Tokenizer::load(model_dir + "/tokenizer.json");
  if (!tokenizer) return tokenizer.error();
  return TextModel{std::move(*config), std::move(*tokenizer)};
}

Result<std::vector<Request>> make_requests(const TextModel& model,
                                           const std::vector<std::string>& prompts,
                                           const SamplingSettings& sampling) {
  std::vector<Request> requests;
  for (size_t i = 0; i < prompts.size(); ++i) {
    const auto ids = model.tokenizer.encode(prompts[i]);
    if (!ids) {
      return Error{ids.error().code, fmt::format("prompt {}: {}", i + 1, ids.error().message)};
    }
    Request request;
    request.id = static_cast<int64_t>(i);
    request.prompt = {model.config.bos_token_id};
    request.prompt.insert(request.prompt.end(), ids->begin(), ids->end());
    request.max_tokens = sampling.max_tokens;
    request.sampling.temperature = static_cast<float>(sampling.temperature);
    request.sampling.top_p = static_cast<float>(sampling.top_p);
    request.sampling.seed = static_cast<uint64_t>(sampling.seed) + i;
    const auto room =
        model.config.max_position_embeddings - static_cast<int64_t>(request.prompt.size());
    if (sampling.max_tokens > room) {
      return invalid_argument(fmt::format(
          "prompt {} has {} tokens, and with --max-tokens {} would exceed the {} positions of the "
          "model; shorten it, or ask for {} tokens at most",
          i + 1, request.prompt.size(), sampling.max_tokens, model.config.max_position_embeddings,
          std::max<int64_t>(room, 0)));
    }
    requests.push_back(std::move(request));
  }
  return requests;
}

}  // namespace plimsoll
