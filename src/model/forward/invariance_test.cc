// A token's logits have the same bits whatever is computed beside it.
#include <gtest/gtest.h>

#include <numeric>
#include <string>

#include "model/forward/forward_test_support.h"

namespace plimsoll {
namespace {

using testing::SingleRank;
using Logits = std::vector<float>;

std::string odd_model() {
  static const std::string folder = testing::write_random_checkpoint(testing::odd_config(), 5);
  return folder;
}

std::vector<int32_t> some_tokens(const ModelWeights& weights, int count, int seed) {
  std::vector<int32_t> tokens;
  uint32_t state = static_cast<uint32_t>(seed) * 2654435761u + 1;
  for (int i = 0; i < count; ++i) {
    state = state * 1664525u + 1013904223u;
    tokens.push_back(
        static_cast<int32_t>((state >> 8) % static_cast<uint32_t>(weights.config.vocab_size)));
  }
  return tokens;
}

SequenceState new_sequence(const ModelWeights& weights, size_t prompt_tokens) {
  SequenceState state = make_sequence_state(weights.config);
  state.prompt_tokens = static_cast<int64_t>(prompt_tokens);
  return state;
}

Logits whole(const ModelWeights& weights,
             const std::vector<int32_t>& tokens,
             int chunk,
             const Kernels& variant = kernels()) {
  SingleRank rank(weights, variant);
  SequenceState state = new_sequence(weights, tokens.size());
  return rank.prefill(state, tokens, chunk);
}

// A prompt length for each model that goes past its window and its indexer's top-k.
class Invariance : public ::testing::TestWithParam<std::pair<const char*, int>> {
 protected:
  const ModelWeights& weights() const {
    const std::string name = GetParam().first;
    return testing::load_model(name == "odd" ? odd_model() : testing::in_repository(name));
  }
  std::vector<int32_t> tokens() const { return some_tokens(weights(), GetParam().second, 1); }
};

TEST_P(Invariance, OfChunksDecodeIncluded) {
  const Logits expected = whole(weights(), tokens(), 1000);
  for (int chunk : {1, 7, 64, 129})
    EXPECT_TRUE(whole(weights(), tokens(), chunk) == expected) << chunk;
}

TEST_P(Invariance, OfKernelsWithFusedMultiplyAdd) {
  const Logits expected = whole(weights(), tokens(), 1000);
  for (const Kernels* variant : available_kernels()) {
    if (!variant->fused) continue;
    EXPECT_TRUE(whole(weights(), tokens(), 64, *variant) == expected) << variant->name;
  }
}

// A sequence whose state was dropped is computed again in chunks that pay no heed to where its
// prompt ended.
TEST_P(Invariance, OfComputingAgainWhatWasDecoded) {
  SingleRank rank(weights());
  const size_t num_prompt = tokens().size() / 2;
  SequenceState decoded = new_sequence(weights(), num_prompt);
  SequenceState again = decoded;
  EXPECT_TRUE(rank.prefill(decoded, tokens(), 1) == rank.prefill(again, tokens(), 61));
  EXPECT_TRUE(serialize_state(weights().config, decoded) ==
              serialize_state(weights().config, again));
}

TEST_P(Invariance, TheStateStaysWithinItsSize) {
  SingleRank rank(weights());
  const StateSize size = state_size(weights().config);
  SequenceState state = new_sequence(weights(), tokens().size());
  for (const int32_t token : tokens()) {
    rank.prefill(state, std::span(&token, 1), 1);
    ASSERT_LE(static_cast<int64_t>(memory_bytes(state)), size.bytes(1, state.num_tokens));
  }
}

// Three sequences of different lengths step together, prefilling and decoding side by side.
TEST_P(Invariance, OfTheBatch) {
  const size_t vocab = static_cast<size_t>(weights().config.vocab_size);
  const std::vector<int> chunks = {1, 50, 13};
  std::vector<std::vector<int32_t>> prompts;
  std::vector<SequenceState> states;
  std::vector<Logits> found(3);
  for (int i = 0; i < 3; ++i) {
    prompts.push_back(some_tokens(weights(), GetParam().second - 40 * i, 1 + i));
    states.push_back(new_sequence(weights(), prompts.back().size()));
  }
  SingleRank rank(weights());
  for (bool more = true; more;) {
    std::vector<Segment> segments;
    std::vector<size_t> who;
    size_t num_rows = 0;
    for (size_t i = 0; i < 3; ++i) {
      const size_t done = static_cast<size_t>(states[i].num_tokens);
      const size_t count = std::min(prompts[i].size() - done, static_cast<size_t>(chunks[i]));
      if (count == 0) continue;
      segments.push_back({&states[i], std::span(prompts[i]).subspan(done, count)});
      who.push_back(i);
      num_rows += count;
    }
    more = !segments.empty();
    if (!more) break;
    std::vector<int32_t> rows(num_rows);
    std::iota(rows.begin(), rows.end(), 0);
    const Logits logits = rank.step(segments, rows);
    auto next = logits.begin();
    for (size_t s = 0; s < segments.size(); ++s) {
      const auto end = next + static_cast<ptrdiff_t>(segments[s].tokens.size() * vocab);
      found[who[s]].insert(found[who[s]].end(), next, end);
      next = end;
    }
  }
  for (size_t i = 0; i < 3; ++i) EXPECT_TRUE(found[i] == whole(weights(), prompts[i], 1000)) << i;
}

TEST_P(Invariance, OfCopyingAndSendingTheState) {
  const std::vector<int32_t> prompt = tokens();
  const size_t vocab = static_cast<size_t>(weights().config.vocab_size);
  const Logits expected = whole(weights(), prompt, 1000);
  for (size_t cut : {prompt.size() / 7, prompt.size() / 2, prompt.size() - 3}) {
    SingleRank rank(weights());
    SequenceState first = new_sequence(weights(), prompt.size());
    rank.prefill(first, std::span(prompt).first(cut), 1000);
    const auto bytes = serialize_state(weights().config, first);
    auto sent = deserialize_state(weights().config, bytes);
    ASSERT_TRUE(sent.ok()) << sent.error().message;
    EXPECT_TRUE(serialize_state(weights().config, *sent) == bytes);
    SequenceState copy = first;
    rank.prefill(first, std::span(prompt).subspan(cut), 1000);  // must not touch the others
    for (SequenceState* state : {&copy, &*sent}) {
      SingleRank other(weights());
      const Logits rest = other.prefill(*state, std::span(prompt).subspan(cut), 11);
      EXPECT_TRUE(std::equal(rest.begin(), rest.end(),
                             expected.begin() + static_cast<ptrdiff_t>(cut * vocab),
                             expected.end()));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Models,
                         Invariance,
                         ::testing::Values(std::pair("odd", 150),
                                           std::pair("testdata/tiny-v4", 280),
                                           std::pair("demo/model", 560)),
                         [](const auto& info) { return "Model" + std::to_string(info.index); });

TEST(SequenceState, RefusesBrokenRecords) {
  const ModelWeights& weights = testing::load_model(testing::in_repository("testdata/tiny-v4"));
  const ModelWeights& other = testing::load_model(odd_model());
  SingleRank rank(weights);
  SequenceState state = new_sequence(weights, 40);
  rank.prefill(state, some_tokens(weights, 40, 2), 40);
  const auto bytes = serialize_state(weights.config, state);
  for (size_t size = 0; size < bytes.size(); size += 97) {
    EXPECT_FALSE(deserialize_state(weights.config, std::span(bytes).first(size)).ok()) << size;
  }
  EXPECT_FALSE(deserialize_state(other.config, bytes).ok());
  auto longer = bytes;
  longer.push_back(std::byte{0});
  EXPECT_FALSE(deserialize_state(weights.config, longer).ok());
  for (size_t at = 0; at < 56; ++at) {  // the first record's header
    auto damaged = bytes;
    damaged[at] ^= std::byte{0x80};
    EXPECT_FALSE(deserialize_state(weights.config, damaged).ok()) << at;
  }
}

TEST(RankForward, RefusesTokensOutsideTheVocabulary) {
  const ModelWeights& weights = testing::load_model(testing::in_repository("testdata/tiny-v4"));
  RankForward forward(weights);
  SequenceState state = make_sequence_state(weights.config);
  for (int32_t token : {-1, weights.config.vocab_size}) {
    const Segment segment{&state, std::span(&token, 1)};
    EXPECT_FALSE(forward.begin(std::span(&segment, 1)).ok());
  }
}

TEST(RankForward, StepsWithoutTokens) {
  const ModelWeights& weights = testing::load_model(testing::in_repository("testdata/tiny-v4"));
  SingleRank rank(weights);
  EXPECT_TRUE(rank.step({}, {}).empty());
}

}  // namespace
}  // namespace plimsoll
