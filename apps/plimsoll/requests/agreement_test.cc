#include "requests/agreement.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "shared/sha256.h"

namespace plimsoll {
namespace {

GoldenPrompt golden_prompt() {
  return {.input_ids = {3, 4},
          .logits_positions = {1},
          .logits = {0.5f, -1.0f, 2.0f},
          .nll = {1.25f},
          .expert_ids = {0, 1, 2, 3},  // one layer, two tokens, two experts
          .greedy = {2, 2, 0}};
}

ComputedPrompt exact_answer() {
  const GoldenPrompt golden = golden_prompt();
  return {.logits = golden.logits,
          .nll = golden.nll,
          .expert_ids = {1, 0, 3, 2},  // the gate's order is not compared
          .greedy = golden.greedy};
}

TEST(Compare, AcceptsTheSameAnswer) {
  const Agreement agreement = compare({golden_prompt()}, {exact_answer()}, 2);
  EXPECT_TRUE(agreement.passed());
  EXPECT_EQ(agreement.max_abs_logit_error, 0);
  EXPECT_EQ(agreement.mean_abs_nll_error, 0);
  EXPECT_EQ(agreement.expert_ids.count, 0);
  EXPECT_EQ(agreement.expert_ids.of, 2);
  EXPECT_EQ(agreement.greedy.count, 0);
  EXPECT_EQ(agreement.greedy.of, 3);
  Sha256 hash;
  const std::vector<float> logits = exact_answer().logits;
  hash.update(std::as_bytes(std::span(logits)));
  EXPECT_EQ(agreement.logits_sha256, hash.hex_digest());
}

TEST(Compare, MeasuresEachDifference) {
  ComputedPrompt computed = exact_answer();
  computed.logits[1] += 0.25f;
  computed.nll[0] -= 0.5f;
  computed.expert_ids[0] = 3;
  computed.greedy[2] = 1;
  const Agreement agreement =
      compare({golden_prompt(), golden_prompt()}, {exact_answer(), computed}, 2);
  EXPECT_DOUBLE_EQ(agreement.max_abs_logit_error, 0.25);
  EXPECT_DOUBLE_EQ(agreement.mean_abs_nll_error, 0.25);
  EXPECT_EQ(agreement.expert_ids.count, 1);
  EXPECT_EQ(agreement.expert_ids.of, 4);
  EXPECT_EQ(agreement.greedy.count, 1);
  EXPECT_EQ(agreement.greedy.of, 6);
  EXPECT_FALSE(agreement.passed());
}

TEST(Compare, RefusesAnswersThatAreMissingOrNotNumbers) {
  EXPECT_FALSE(compare({golden_prompt()}, {ComputedPrompt{}}, 2).passed());
  ComputedPrompt computed = exact_answer();
  computed.logits[0] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_FALSE(compare({golden_prompt()}, {computed}, 2).passed());
}

TEST(Agreement, HoldsTheTolerances) {
  const Agreement good{.max_abs_logit_error = 0.0099,
                       .mean_abs_nll_error = 0.00009,
                       .expert_ids = {1, 1000},
                       .greedy = {1, 100},
                       .logits_sha256 = ""};
  EXPECT_TRUE(good.passed());
  Agreement bad = good;
  bad.max_abs_logit_error = 0.011;
  EXPECT_FALSE(bad.passed());
  bad = good;
  bad.mean_abs_nll_error = 0.00011;
  EXPECT_FALSE(bad.passed());
  bad = good;
  bad.expert_ids = {2, 1000};
  EXPECT_FALSE(bad.passed());
  bad = good;
  bad.greedy = {2, 100};
  EXPECT_FALSE(bad.passed());
}

}  // namespace
}  // namespace plimsoll
