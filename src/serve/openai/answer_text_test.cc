#include "serve/openai/answer_text.h"

#include <gtest/gtest.h>

namespace plimsoll {
namespace {

std::shared_ptr<const std::vector<std::string>> stops(const char* text) {
  return std::make_shared<const std::vector<std::string>>(1, text);
}

class AnswerTextTest : public testing::Test {
 protected:
  // What the tokens of a text make, reasoning and content apart.
  void take(AnswerText& answer, const std::string& text) {
    const auto tokens = tokenizer_->encode(text);
    ASSERT_TRUE(tokens.ok());
    for (const int32_t token : *tokens) {
      std::string& into = answer.in_reasoning() ? reasoning_ : content_;
      into += answer.push(token);
    }
    std::string& into = answer.in_reasoning() ? reasoning_ : content_;
    into += answer.finish();
  }

  Result<Tokenizer> tokenizer_ =
      Tokenizer::load(std::string(PLIMSOLL_SOURCE_DIR) + "/demo/model/tokenizer.json");
  std::string reasoning_, content_;
};

TEST_F(AnswerTextTest, PartsReasoningFromContentAtItsMarker) {
  AnswerText answer(*tokenizer_, stops("never"), /*reasons=*/true);
  take(answer, "It says nev</think>er mind.</think>");
  EXPECT_EQ(reasoning_, "It says nev") << "the part of a stop string that was held back";
  EXPECT_EQ(content_, "er mind.</think>");
}

TEST_F(AnswerTextTest, IsAllReasoningWithoutTheMarker) {
  AnswerText answer(*tokenizer_, nullptr, /*reasons=*/true);
  take(answer, "Let me see");
  EXPECT_EQ(reasoning_, "Let me see");
  EXPECT_EQ(content_, "");
}

TEST_F(AnswerTextTest, IsAllContentWhereNoReasoningIsAskedFor) {
  AnswerText answer(*tokenizer_, nullptr);
  take(answer, "a</think>b");
  EXPECT_EQ(reasoning_ + "|" + content_, "|a</think>b");
}

TEST_F(AnswerTextTest, StopsInReasoningToo) {
  AnswerText answer(*tokenizer_, stops("see"), /*reasons=*/true);
  take(answer, "Let me see</think>it");
  EXPECT_TRUE(answer.stopped());
  EXPECT_EQ(reasoning_, "Let me ");
  EXPECT_EQ(content_, "");
}

}  // namespace
}  // namespace plimsoll
