#include "model/checkpoint/golden.h"

#include <gtest/gtest.h>

namespace plimsoll {
namespace {

const std::string kSource = PLIMSOLL_SOURCE_DIR;

TEST(Golden, ReadsTheDemoAnswers) {
  const auto config = load_config(kSource + "/demo/model");
  const auto prompts = load_golden(kSource + "/demo/golden.safetensors", *config);
  ASSERT_TRUE(prompts.ok()) << prompts.error().message;
  ASSERT_EQ(prompts->size(), 6u);
  EXPECT_EQ(prompts->at(1).input_ids.size(), 60u);
  EXPECT_EQ(prompts->at(1).nll.size(), 59u);
  EXPECT_EQ(prompts->at(1).logits.size(), 4u * 4096);
  EXPECT_EQ(prompts->at(5).expert_ids.size(), 6u * 1500 * 6);
  EXPECT_EQ(prompts->at(5).greedy.size(), 48u);
}

TEST(Golden, RefusesAnswersOfAnotherModel) {
  const auto config = load_config(kSource + "/testdata/tiny-v4");
  const auto prompts = load_golden(kSource + "/demo/golden.safetensors", *config);
  ASSERT_FALSE(prompts.ok());
  EXPECT_NE(prompts.error().message.find("0.input_ids"), std::string::npos)
      << prompts.error().message;
  EXPECT_FALSE(load_golden(kSource + "/testdata/tiny-v4/model.safetensors", *config).ok());
}

}  // namespace
}  // namespace plimsoll
