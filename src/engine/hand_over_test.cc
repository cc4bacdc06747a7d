// A sequence that one engine begins and another one continues gets the same tokens as in one
// engine.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <string>

#include "engine/engine.h"
#include "model/checkpoint/golden.h"

namespace plimsoll {
namespace {

const std::string kTiny = std::string(PLIMSOLL_SOURCE_DIR) + "/testdata/tiny-v4";

struct Token {
  int32_t id;
  float logprob;
  bool operator==(const Token&) const = default;
};
using Answers = std::map<int64_t, std::vector<Token>>;

std::unique_ptr<Engine> make_engine(const EngineOptions& options) {
  auto engine = Engine::create(options);
  EXPECT_TRUE(engine.ok()) << engine.error().message;
  return engine.ok() ? std::move(*engine) : nullptr;
}

// Every layer's experts one slot further.
void rotate_placement(Engine& engine) {
  const Placement& placement = engine.placement();
  for (int l = 0; l < placement.num_layers; ++l) {
    std::vector<int32_t> slots(placement.layer(l).begin(), placement.layer(l).end());
    std::ranges::rotate(slots, slots.begin() + 1);
    ASSERT_TRUE(engine.switch_layer(l, slots).ok());
  }
}

// Placements change before every step where --enable-eplb lets them.
void run(Engine& engine, Answers& answers) {
  std::vector<RequestUpdate> updates;
  while (!engine.idle()) {
    if (engine.rebalancer()) rotate_placement(engine);
    ASSERT_TRUE(engine.step(updates).ok());
  }
  for (const RequestUpdate& update : updates) {
    if (!update.has_token) continue;
    answers[update.request_id].push_back({update.result.next.token, update.result.next.logprob});
  }
}

std::vector<Request> requests(const std::vector<GoldenPrompt>& prompts) {
  std::vector<Request> all;
  for (size_t i = 0; i < prompts.size(); ++i) {
    all.push_back({.id = static_cast<int64_t>(i),
                   .prompt = prompts[i].input_ids,
                   .max_tokens = 10,
                   .sampling = {.temperature = i % 2 ? 0.9f : 0.0f,
                                .frequency_penalty = i % 3 ? 0.5f : 0.0f,
                                .seed = 7 + i},
                   .num_top_logprobs = 0});
  }
  return all;
}

// Prefill on one engine, every layer's record into a state of the other's, decode there.
void run_apart(Engine& prefill, Engine& decode, std::vector<Request> all, Answers& answers) {
  std::mutex mutex;
  std::map<int64_t, std::shared_ptr<SequenceState>> states;
  prefill.set_layer_sink([&](int64_t id, int layer_idx, std::vector<std::byte> record) {
    const std::lock_guard lock(mutex);
    std::shared_ptr<SequenceState>& state = states[id];
    if (!state) state = std::make_shared<SequenceState>(make_sequence_state(decode.config()));
    std::span<const std::byte> bytes = record;
    EXPECT_TRUE(deserialize_layer(decode.config(), bytes, *state).ok()) << layer_idx;
    EXPECT_TRUE(bytes.empty());
  });
  for (const Request& request : all) {
    Request prompt_only = request;
    prompt_only.max_tokens = 1;
    prompt_only.hand_over = true;
    ASSERT_TRUE(prefill.submit(std::move(prompt_only)).ok());
  }
  run(prefill, answers);
  for (Request& request : all) {
    const int32_t first = answers.at(request.id).front().id;
    const FinishReason finish = finish_after(request, decode.setup().limits, 1, first);
    if (finish != FinishReason::kNone) continue;
    request.generated = {first};
    request.state = states.at(request.id);
    const Status status = decode.submit(std::move(request));
    ASSERT_TRUE(status.ok()) << status.error().message;
  }
  run(decode, answers);
}

void check_hand_over(bool enable_eplb) {
  const auto config = load_config(kTiny);
  auto prompts = load_golden(kTiny + "/golden.safetensors", *config);
  ASSERT_TRUE(prompts.ok());
  const auto one = make_engine({.model_dir = kTiny, .pin_ranks = false});
  Answers expected;
  for (Request& request : requests(*prompts)) ASSERT_TRUE(one->submit(std::move(request)).ok());
  run(*one, expected);

  const auto prefill = make_engine({.model_dir = kTiny,
                                    .ep_size = 2,
                                    .deepep_mode = "normal",
                                    .enable_eplb = enable_eplb,
                                    .chunked_prefill_size = 37,
                                    .pin_ranks = false});
  const auto decode = make_engine({.model_dir = kTiny,
                                   .ep_size = 4,
                                   .deepep_mode = "low_latency",
                                   .enable_waterfill = true,
                                   .enable_eplb = enable_eplb,
                                   .pin_ranks = false});
  Answers apart;
  run_apart(*prefill, *decode, requests(*prompts), apart);
  EXPECT_EQ(apart, expected);
  EXPECT_EQ(decode->scheduler().num_running() + prefill->scheduler().num_running(), 0);
}

TEST(HandOver, TwoEnginesGiveTheAnswersOfOne) {
  check_hand_over(false);
}

TEST(HandOver, TheyDoWhilePlacementsChange) {
  check_hand_over(true);
}

TEST(HandOver, RefusesAStateThatDoesNotFit) {
  const auto engine = make_engine({.model_dir = kTiny, .pin_ranks = false});
  Request request{.id = 1, .prompt = {1, 2, 3}, .generated = {4}};
  request.state = std::make_shared<SequenceState>(make_sequence_state(engine->config()));
  const Status status = engine->submit(std::move(request));
  ASSERT_FALSE(status.ok());
  EXPECT_NE(status.error().message.find("handed over"), std::string::npos);
}

}  // namespace
}  // namespace plimsoll
