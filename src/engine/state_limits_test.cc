#include "engine/state_limits.h"

#include <gtest/gtest.h>

namespace plimsoll {
namespace {

const std::string kModel = std::string(PLIMSOLL_SOURCE_DIR) + "/demo/model";

Result<EngineSetup> set_up(int64_t max_total_tokens, int max_state_memory_mib, int ep_size = 2) {
  return check_options({.ep_size = ep_size,
                        .max_total_tokens = max_total_tokens,
                        .max_state_memory_mib = max_state_memory_mib},
                       *load_config(kModel));
}

TEST(StateLimits, ShareOutTokensAndMemory) {
  const Result<EngineSetup> setup = set_up(20000, 1000);
  ASSERT_TRUE(setup.ok()) << setup.error().message;
  EXPECT_EQ(setup->limits.max_tokens_per_rank, 10000);
  EXPECT_EQ(setup->limits.max_state_bytes_per_rank, int64_t{500} << 20);
  EXPECT_EQ(setup->limits.max_sequence_tokens, load_config(kModel)->max_position_embeddings);
  EXPECT_TRUE(setup->notes.empty());
}

TEST(StateLimits, SayWhenTheContextIsLargerThanARankHolds) {
  const Result<EngineSetup> by_tokens = set_up(1000, 1000);
  ASSERT_TRUE(by_tokens.ok());
  EXPECT_EQ(by_tokens->limits.max_sequence_tokens, 500);
  ASSERT_EQ(by_tokens->notes.size(), 1u);
  EXPECT_NE(by_tokens->notes[0].find("--max-total-tokens"), std::string::npos);

  const Result<EngineSetup> by_memory = set_up(0, 4);
  ASSERT_TRUE(by_memory.ok()) << by_memory.error().message;
  const SchedulerLimits& limits = by_memory->limits;
  EXPECT_LE(limits.state_size.bytes(1, limits.max_sequence_tokens), 2 << 20);
  EXPECT_GT(limits.state_size.bytes(1, limits.max_sequence_tokens + 1), 2 << 20);
  EXPECT_NE(by_memory->notes[0].find("--max-state-memory-mib"), std::string::npos);
}

TEST(StateLimits, RefuseWhatHoldsNoSequence) {
  const auto refusal = [](const Result<EngineSetup>& setup) {
    return setup.ok() ? "nothing" : setup.error().message;
  };
  EXPECT_NE(refusal(set_up(3, 1000)).find("--max-total-tokens"), std::string::npos);
  EXPECT_NE(refusal(set_up(0, 1, 16)).find("--max-state-memory-mib"), std::string::npos);
  EXPECT_NE(refusal(set_up(-1, 0)).find("--max-total-tokens is -1"), std::string::npos);
}

}  // namespace
}  // namespace plimsoll
