// Agreement with answers computed by Hugging Face transformers in float32.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "model/checkpoint/golden.h"
#include "model/forward/forward_test_support.h"

namespace plimsoll {
namespace {

using testing::SingleRank;

struct Errors {
  double nll_sum = 0;
  size_t nll_count = 0;
  float max_abs_logit = 0;
  size_t id_mismatches = 0, id_count = 0;
  size_t greedy_mismatches = 0, greedy_count = 0;
};

double negative_log_likelihood(std::span<const float> logits, int32_t token) {
  const float maximum = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (float logit : logits) sum += std::exp(static_cast<double>(logit - maximum));
  return std::log(sum) + maximum - logits[static_cast<size_t>(token)];
}

int32_t best_token(std::span<const float> logits) {
  return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

void compare_ids(const SingleRank& rank, const GoldenPrompt& golden, int top_k, Errors& errors) {
  const auto& layers = rank.expert_ids();
  const size_t num_tokens = golden.input_ids.size();
  const size_t k = static_cast<size_t>(top_k);
  for (size_t l = 0; l < layers.size(); ++l) {
    for (size_t t = 0; t < num_tokens; ++t) {
      std::vector<int32_t> ids(layers[l].begin() + static_cast<ptrdiff_t>(t * k),
                               layers[l].begin() + static_cast<ptrdiff_t>((t + 1) * k));
      std::sort(ids.begin(), ids.end());
      const int32_t* expected = golden.expert_ids.data() + (l * num_tokens + t) * k;
      errors.id_mismatches += !std::equal(ids.begin(), ids.end(), expected);
      ++errors.id_count;
    }
  }
}

void compare_prompt(const ModelWeights& weights,
                    const Kernels& kernels,
                    const GoldenPrompt& golden,
                    Errors& errors) {
  const size_t vocab = static_cast<size_t>(weights.config.vocab_size);
  SingleRank rank(weights, kernels);
  SequenceState state = make_sequence_state(weights.config);
  state.prompt_tokens = static_cast<int64_t>(golden.input_ids.size());
  const std::vector<float> logits = rank.prefill(state, golden.input_ids, 512);
  const auto row = [&](size_t t) { return std::span(logits).subspan(t * vocab, vocab); };
  for (size_t i = 0; i < golden.logits_positions.size(); ++i) {
    const auto found = row(static_cast<size_t>(golden.logits_positions[i]));
    for (size_t v = 0; v < vocab; ++v) {
      errors.max_abs_logit =
          std::max(errors.max_abs_logit, std::abs(found[v] - golden.logits[i * vocab + v]));
    }
  }
  for (size_t t = 0; t < golden.nll.size(); ++t) {
    const double nll = negative_log_likelihood(row(t), golden.input_ids[t + 1]);
    errors.nll_sum += std::abs(nll - golden.nll[t]);
    ++errors.nll_count;
  }
  compare_ids(rank, golden, weights.config.num_experts_per_tok, errors);
}

void compare_greedy(const ModelWeights& weights,
                    const Kernels& kernels,
                    const GoldenPrompt& golden,
                    Errors& errors) {
  SingleRank rank(weights, kernels);
  SequenceState state = make_sequence_state(weights.config);
  state.prompt_tokens = static_cast<int64_t>(golden.input_ids.size());
  state.padding_tokens = greedy_padding_tokens(golden);
  const std::vector<float> logits = rank.prefill(state, golden.input_ids, 512);
  const size_t vocab = static_cast<size_t>(weights.config.vocab_size);
  int32_t next = best_token(std::span(logits).last(vocab));
  for (int32_t expected : golden.greedy) {
    errors.greedy_mismatches += next != expected;
    ++errors.greedy_count;
    next = best_token(rank.prefill(state, std::span(&next, 1), 1));
  }
}

void expect_agreement(const std::string& model,
                      const std::string& answers,
                      const Kernels& kernels) {
  const ModelWeights& weights = testing::load_model(testing::in_repository(model));
  const auto golden = load_golden(testing::in_repository(answers), weights.config);
  ASSERT_TRUE(golden.ok()) << golden.error().message;
  Errors errors;
  for (const GoldenPrompt& prompt : *golden) {
    compare_prompt(weights, kernels, prompt, errors);
    compare_greedy(weights, kernels, prompt, errors);
  }
  const double mean_abs_nll = errors.nll_sum / static_cast<double>(errors.nll_count);
  std::printf(
      "%s with %s: mean |dnll| %.2e, max |dlogit| %.2e, experts %zu of %zu, greedy %zu of %zu\n",
      model.c_str(), kernels.name, mean_abs_nll, static_cast<double>(errors.max_abs_logit),
      errors.id_mismatches, errors.id_count, errors.greedy_mismatches, errors.greedy_count);
  EXPECT_LE(mean_abs_nll, 1e-4);
  EXPECT_LE(errors.max_abs_logit, 1e-2f);
  EXPECT_LE(errors.id_mismatches * 1000, errors.id_count);
  EXPECT_LE(errors.greedy_mismatches * 100, errors.greedy_count);
}

TEST(Agreement, DemoModel) {
  expect_agreement("demo/model", "demo/golden.safetensors", kernels());
}

// Made like the others, of prompts that open with, or are nothing but, the padding id.
TEST(Agreement, PromptsThatOpenWithPadding) {
  expect_agreement("testdata/tiny-v4", "testdata/tiny-v4/golden_padding.safetensors", kernels());
}

TEST(Agreement, TinyModelOnEveryKernelVariant) {
  for (const Kernels* variant : available_kernels()) {
    expect_agreement("testdata/tiny-v4", "testdata/tiny-v4/golden.safetensors", *variant);
  }
}

}  // namespace
}  // namespace plimsoll
