// A request hears the same bits alone and under a storm of others, while requests are cancelled and
// sent back for want of state memory.
#include <gtest/gtest.h>

#include <map>
#include <string>

#include "engine/engine.h"

namespace plimsoll {
namespace {

const std::string kSource = PLIMSOLL_SOURCE_DIR;

// The numbers of one linear congruence, so that every run makes the same storm.
class Random {
 public:
  int below(int n) {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return static_cast<int>((state_ >> 33) % static_cast<uint64_t>(n));
  }

 private:
  uint64_t state_ = 7;
};

// Everything that a request hears.
struct Answer {
  std::vector<int32_t> tokens, top, expert_ids;
  std::vector<float> logprobs, nll, logits;
  bool ended = false;
  bool operator==(const Answer&) const = default;

  void add(const RequestUpdate& update) {
    const SegmentResult& result = update.result;
    if (update.has_token) {
      tokens.push_back(result.next.token);
      logprobs.push_back(result.next.logprob);
      for (const TokenLogprob& candidate : result.next.top) top.push_back(candidate.token);
    }
    nll.insert(nll.end(), result.nll.begin(), result.nll.end());
    logits.insert(logits.end(), result.logits.begin(), result.logits.end());
    expert_ids.insert(expert_ids.end(), result.expert_ids.begin(), result.expert_ids.end());
    ended = update.finish != FinishReason::kNone;
  }
};

Request random_request(int64_t id, const ModelConfig& config, int max_tokens, Random& random) {
  Request request{.id = id,
                  .max_tokens = 1 + random.below(3) * max_tokens / 2,
                  .sampling = {.temperature = id % 3 == 0 ? 0.0f : 1.0f,
                               .top_p = id % 2 == 0 ? 0.9f : 1.0f,
                               .frequency_penalty = id % 5 == 0 ? 0.5f : 0.0f,
                               .seed = static_cast<uint64_t>(id)},
                  .num_top_logprobs = id % 4 == 0 ? 2 : -1,
                  .score_prompt = id % 2 == 0};
  const int num_prompt = 1 + random.below(max_tokens / 6);
  for (int i = 0; i < num_prompt; ++i) request.prompt.push_back(random.below(config.vocab_size));
  request.ignore_eos = true;
  request.logits_positions = {num_prompt - 1};
  return request;
}

std::unique_ptr<Engine> create(const EngineOptions& options) {
  auto engine = Engine::create(options);
  EXPECT_TRUE(engine.ok()) << engine.error().message;
  return std::move(*engine);
}

std::map<int64_t, Answer> alone(const EngineOptions& options,
                                const std::vector<Request>& requests) {
  const std::unique_ptr<Engine> engine = create(options);
  std::map<int64_t, Answer> answers;
  for (const Request& request : requests) {
    EXPECT_TRUE(engine->submit(request).ok());
    std::vector<RequestUpdate> updates;
    while (!engine->idle()) EXPECT_TRUE(engine->step(updates).ok());
    for (const RequestUpdate& update : updates) answers[request.id].add(update);
  }
  return answers;
}

// Submits the requests a few at a time and cancels every seventh somewhere on its way.
std::map<int64_t, Answer> in_a_storm(Engine& engine, const std::vector<Request>& requests) {
  Random random;
  std::map<int64_t, Answer> answers;
  for (size_t next = 0; next < requests.size() || !engine.idle();) {
    for (int n = random.below(4); n > 0 && next < requests.size(); --n) {
      EXPECT_TRUE(engine.submit(requests[next++]).ok());
    }
    if (next > 0 && random.below(4) == 0) {
      engine.cancel(static_cast<int64_t>(random.below(static_cast<int>(next))) / 7 * 7);
    }
    std::vector<RequestUpdate> updates;
    EXPECT_TRUE(engine.step(updates).ok());
    for (const RequestUpdate& update : updates) answers[update.request_id].add(update);
  }
  return answers;
}

void check(const std::string& model_dir, int num_requests, int max_tokens, EngineOptions options) {
  EngineOptions plain;
  plain.model_dir = options.model_dir = model_dir;
  plain.pin_ranks = options.pin_ranks = false;
  const std::unique_ptr<Engine> engine = create(options);
  ASSERT_TRUE(engine);
  Random random;
  std::vector<Request> requests;
  for (int64_t id = 0; id < num_requests; ++id) {
    requests.push_back(random_request(id, engine->config(), max_tokens, random));
  }
  const std::map<int64_t, Answer> expected = alone(plain, requests);
  const std::map<int64_t, Answer> found = in_a_storm(*engine, requests);
  EXPECT_GT(engine->scheduler().num_preemptions(), num_requests / 10);
  EXPECT_EQ(engine->scheduler().num_state_bytes(), 0);
  for (const auto& [id, answer] : expected) {
    if (id % 7 == 0 && !(found.contains(id) && found.at(id).ended)) continue;  // cancelled
    EXPECT_TRUE(found.at(id) == answer) << "request " << id;
  }
}

TEST(Preemption, ChangesNoBitOfTheTinyModel) {
  check(kSource + "/testdata/tiny-v4", 120, 120,
        {.ep_size = 2,
         .enable_waterfill = true,
         .max_running_requests = 40,
         .max_total_tokens = 2 * 400,
         .chunked_prefill_size = 13});
}

TEST(Preemption, ChangesNoBitOfTheDemoModel) {
  check(kSource + "/demo/model", 20, 120,
        {.ep_size = 2,
         .ep_num_redundant_experts = 8,
         .enable_waterfill = true,
         .max_total_tokens = 2 * 300,
         .chunked_prefill_size = 25});
}

}  // namespace
}  // namespace plimsoll
