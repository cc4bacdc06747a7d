// plimsoll eval: compare the model's answers with golden ones.
#include <fmt/format.h>

#include <algorithm>

#include "options/commands.h"
#include "requests/agreement.h"
#include "requests/run_requests.h"
#include "shared/terminal.h"

namespace plimsoll {
namespace {

// Each prompt runs twice: once to score it, once to continue it. The golden continuations are of
// transformers' generate(), which takes tokens 0 at a prompt's start for padding.
Request scoring_request(const GoldenPrompt& golden, int64_t prompt_idx) {
  Request request;
  request.id = 2 * prompt_idx;
  request.prompt = golden.input_ids;
  request.max_tokens = 0;
  request.score_prompt = true;
  request.return_expert_ids = true;
  request.logits_positions = golden.logits_positions;
  return request;
}

Request continuing_request(const GoldenPrompt& golden, int64_t prompt_idx) {
  Request request;
  request.id = 2 * prompt_idx + 1;
  request.prompt = golden.input_ids;
  request.padding_tokens = greedy_padding_tokens(golden);
  request.max_tokens = static_cast<int64_t>(golden.greedy.size());
  request.ignore_eos = true;
  return request;
}

// The experts of a chunk of the prompt, [layers, chunk, k], to their place in [layers, tokens, k].
void place_expert_ids(const std::vector<int32_t>& chunk,
                      const ModelConfig& config,
                      size_t first_token,
                      std::vector<int32_t>& all) {
  const size_t chunk_size = chunk.size() / config.num_hidden_layers;
  const size_t all_size = all.size() / config.num_hidden_layers;
  for (int layer = 0; layer < config.num_hidden_layers; ++layer) {
    std::copy_n(chunk.begin() + layer * chunk_size, chunk_size,
                all.begin() + layer * all_size + first_token * config.num_experts_per_tok);
  }
}

// Puts together what the engine says of the prompts, a chunk or a token at a time.
class Answers {
 public:
  Answers(const std::vector<GoldenPrompt>& golden, const ModelConfig& config)
      : config_(config), num_scored_(golden.size()), computed_(golden.size()) {
    for (size_t i = 0; i < golden.size(); ++i) {
      computed_[i].expert_ids.resize(golden[i].expert_ids.size());
    }
  }

  void take(const RequestUpdate& update) {
    const size_t prompt_idx = update.request_id / 2;
    ComputedPrompt& prompt = computed_[prompt_idx];
    const SegmentResult& result = update.result;
    if (update.has_token) prompt.greedy.push_back(result.next.token);
    prompt.logits.insert(prompt.logits.end(), result.logits.begin(), result.logits.end());
    prompt.nll.insert(prompt.nll.end(), result.nll.begin(), result.nll.end());
    size_t& num_scored = num_scored_[prompt_idx];
    place_expert_ids(result.expert_ids, config_, num_scored, prompt.expert_ids);
    num_scored +=
        result.expert_ids.size() / (config_.num_hidden_layers * config_.num_experts_per_tok);
  }

  std::vector<ComputedPrompt> computed() && { return std::move(computed_); }

 private:
  const ModelConfig& config_;
  std::vector<size_t> num_scored_;  // tokens of each prompt whose experts have come
  std::vector<ComputedPrompt> computed_;
};

Result<std::vector<ComputedPrompt>> compute(Engine& engine,
                                            const std::vector<GoldenPrompt>& golden) {
  std::vector<Request> requests;
  for (size_t i = 0; i < golden.size(); ++i) {
    requests.push_back(scoring_request(golden[i], i));
    if (!golden[i].greedy.empty()) requests.push_back(continuing_request(golden[i], i));
  }
  const int num_requests = static_cast<int>(requests.size());
  Answers answers(golden, engine.config());
  const auto ran = run_requests(engine, std::move(requests), num_requests, "comparing",
                                [&](RequestUpdate& update) { answers.take(update); });
  if (!ran) return ran.error();
  return std::move(answers).computed();
}

Json to_json(const Mismatches& mismatches) {
  return {{"count", mismatches.count}, {"of", mismatches.of}};
}

std::string as_json(const Agreement& agreement, size_t num_prompts) {
  const Json json = {{"prompts", num_prompts},
                     {"max_abs_logit_error", agreement.max_abs_logit_error},
                     {"mean_abs_nll_error", agreement.mean_abs_nll_error},
                     {"expert_id_mismatches", to_json(agreement.expert_ids)},
                     {"greedy_mismatches", to_json(agreement.greedy)},
                     {"logits_sha256", agreement.logits_sha256},
                     {"passed", agreement.passed()}};
  return json.dump(2) + "\n";
}

std::string as_text(const Agreement& agreement) {
  return fmt::format(
      "max_abs_logit_error   {:.3g}\n"
      "mean_abs_nll_error    {:.3g}\n"
      "expert_id_mismatches  {} of {}\n"
      "greedy_mismatches     {} of {}\n"
      "logits_sha256         {}\n"
      "{}\n",
      agreement.max_abs_logit_error, agreement.mean_abs_nll_error, agreement.expert_ids.count,
      agreement.expert_ids.of, agreement.greedy.count, agreement.greedy.of, agreement.logits_sha256,
      agreement.passed() ? "passed" : "FAILED: out of tolerance");
}

}  // namespace

Result<int> run_eval(const Settings& settings) {
  const auto config = load_config(settings.engine.model_dir);
  if (!config) return config.error();
  const auto golden = load_golden(settings.input.golden, *config);
  if (!golden) return golden.error();
  auto engine = start_engine(settings.engine);
  if (!engine) return engine.error();
  const auto computed = compute(**engine, *golden);
  if (!computed) return computed.error();
  if (auto saved = finish_recording(**engine, settings.recorder_dir); !saved) return saved.error();
  const Agreement agreement = compare(*golden, *computed, config->num_experts_per_tok);
  print(settings.json ? as_json(agreement, golden->size()) : as_text(agreement));
  return agreement.passed() ? kExitDone : kExitFailed;
}

}  // namespace plimsoll
