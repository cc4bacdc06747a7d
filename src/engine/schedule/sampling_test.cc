#include "engine/schedule/sampling.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>

namespace plimsoll {
namespace {

SampledToken sample(std::vector<float> logits,
                    const SamplingParams& params,
                    int64_t position = 0,
                    std::vector<int32_t> generated = {}) {
  return sample_token(logits, params, generated, position, 0);
}

TEST(Sampling, GreedyTakesTheLowestIdAmongEquals) {
  EXPECT_EQ(sample({1, 3, 3, 2}, {}).token, 1);
}

TEST(Sampling, ReportsLogprobsOfTheModelsOwnDistribution) {
  std::vector<float> logits = {0, std::log(3.0f)};
  const SampledToken sampled = sample_token(logits, {.temperature = 5}, {}, 3, 2);
  EXPECT_NEAR(sampled.logprob, std::log(sampled.token == 1 ? 0.75 : 0.25), 1e-6);
  ASSERT_EQ(sampled.top.size(), 2u);
  EXPECT_EQ(sampled.top[0].token, 1);
  EXPECT_NEAR(sampled.top[0].logprob, std::log(0.75), 1e-6);
}

TEST(Sampling, DrawsEachTokenAsOftenAsItsProbability) {
  const std::vector<float> logits = {0, std::log(2.0f), std::log(5.0f)};
  std::map<int32_t, int> seen;
  constexpr int kDraws = 20000;
  for (int i = 0; i < kDraws; ++i) ++seen[sample(logits, {.temperature = 1, .seed = 7}, i).token];
  EXPECT_NEAR(seen[0] / double{kDraws}, 1 / 8.0, 0.01);
  EXPECT_NEAR(seen[1] / double{kDraws}, 2 / 8.0, 0.01);
  EXPECT_NEAR(seen[2] / double{kDraws}, 5 / 8.0, 0.01);
}

TEST(Sampling, IsAFunctionOfSeedAndPosition) {
  const std::vector<float> logits(100, 0.0f);
  const SamplingParams params{.temperature = 1, .seed = 42};
  EXPECT_EQ(sample(logits, params, 5).token, sample(logits, params, 5).token);
  int num_same = 0;
  for (int i = 0; i < 100; ++i) {
    num_same +=
        sample(logits, params, i).token == sample(logits, {.temperature = 1, .seed = 43}, i).token;
  }
  EXPECT_LT(num_same, 10);
}

TEST(Sampling, TruncationsKeepOnlyTheLikeliest) {
  const std::vector<float> logits = {0, 1, 2, 3};  // probabilities .03 .09 .24 .64
  for (int i = 0; i < 500; ++i) {
    EXPECT_EQ(sample(logits, {.temperature = 1, .top_k = 1}, i).token, 3);
    EXPECT_EQ(sample(logits, {.temperature = 1, .top_p = 0.5}, i).token, 3);
    EXPECT_GE(sample(logits, {.temperature = 1, .top_p = 0.8}, i).token, 2);
    EXPECT_GE(sample(logits, {.temperature = 1, .min_p = 0.3}, i).token, 2);
    EXPECT_GE(sample(logits, {.temperature = 1, .top_k = 3}, i).token, 1);
  }
}

TEST(Sampling, PenaltiesCountGeneratedTokens) {
  EXPECT_EQ(sample({1, 1.5}, {.presence_penalty = 1}, 0, {1}).token, 0);
  EXPECT_EQ(sample({1, 1.5}, {.frequency_penalty = 0.2}, 0, {1, 1}).token, 1);
  EXPECT_EQ(sample({1, 1.5}, {.frequency_penalty = 0.2}, 0, {1, 1, 1}).token, 0);
}

}  // namespace
}  // namespace plimsoll
