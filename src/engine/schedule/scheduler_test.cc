#include "engine/schedule/scheduler.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <map>
#include <numeric>
#include <random>
#include <set>

namespace plimsoll {
namespace {

Request request(int64_t id, int num_prompt, int64_t max_tokens) {
  Request request{.id = id, .max_tokens = max_tokens};
  request.prompt.resize(num_prompt);
  std::iota(request.prompt.begin(), request.prompt.end(), 100);
  return request;
}

// Runs one step with ranks that always answer `token`.
std::vector<RequestUpdate> step(Scheduler& scheduler, StepPlan& plan, int32_t token = 7) {
  plan = scheduler.plan();
  StepResult result;
  for (const RankPlan& rank : plan.ranks) {
    RankResult& out = result.ranks.emplace_back();
    for (const SegmentPlan& segment : rank.segments) {
      out.segments.push_back({.sequence_id = segment.sequence_id, .next = {.token = token}});
    }
  }
  std::vector<RequestUpdate> updates;
  scheduler.apply(plan, result, updates);
  return updates;
}

TEST(Scheduler, CutsPromptsIntoChunksAndThenDecodes) {
  Scheduler scheduler({.chunked_prefill_size = 4});
  scheduler.add(request(1, 10, 2));
  StepPlan plan;
  for (int expected : {4, 4, 2}) {
    step(scheduler, plan);
    ASSERT_EQ(plan.ranks[0].segments.size(), 1u);
    EXPECT_EQ(plan.ranks[0].segments[0].tokens.size(), static_cast<size_t>(expected));
    EXPECT_EQ(plan.mode, StepMode::kNormal);
  }
  const auto updates = step(scheduler, plan);
  EXPECT_EQ(plan.mode, StepMode::kLowLatency);
  EXPECT_EQ(plan.ranks[0].segments[0].tokens, std::vector<int32_t>{7});
  EXPECT_EQ(plan.ranks[0].segments[0].first_position, 10);
  ASSERT_EQ(updates.size(), 1u);
  EXPECT_EQ(updates[0].finish, FinishReason::kLength);
  EXPECT_TRUE(scheduler.idle());
  EXPECT_EQ(scheduler.plan().ranks[0].closed, std::vector<int64_t>{1});
}

TEST(Scheduler, TellsIdleRanksWhatToDrop) {
  Scheduler scheduler({.num_ranks = 2});
  scheduler.add(request(1, 10, 5));
  scheduler.add(request(2, 10, 5));
  StepPlan plan;
  step(scheduler, plan);
  scheduler.cancel(1);
  EXPECT_FALSE(scheduler.plan_drop()) << "a step is to come, which tells them";
  scheduler.cancel(2);
  const auto drop = scheduler.plan_drop();
  ASSERT_TRUE(drop);
  EXPECT_FALSE(drop->computes);
  EXPECT_EQ(drop->ranks[0].closed, std::vector<int64_t>{1});
  EXPECT_EQ(drop->ranks[1].closed, std::vector<int64_t>{2});
  EXPECT_FALSE(scheduler.plan_drop());
}

TEST(Scheduler, SpreadsRequestsByWorkAndMixesDecodeWithPrefill) {
  Scheduler scheduler({.num_ranks = 2, .chunked_prefill_size = 100});
  scheduler.add(request(1, 50, 5));
  scheduler.add(request(2, 10, 5));
  scheduler.add(request(3, 10, 5));
  StepPlan plan;
  step(scheduler, plan);
  EXPECT_EQ(plan.ranks[0].segments.size(), 1u);
  EXPECT_EQ(plan.ranks[1].segments.size(), 2u);
  scheduler.add(request(4, 3, 5));
  step(scheduler, plan);
  EXPECT_EQ(plan.mode, StepMode::kNormal) << "a step with any prompt token is normal";
}

TEST(Scheduler, LowLatencyStepsNeverExceedTheCapacity) {
  Scheduler scheduler({.mode = DeepepMode::kLowLatency, .max_dispatch_tokens_per_rank = 8});
  for (int64_t id = 0; id < 6; ++id) scheduler.add(request(id, 20, 4));
  StepPlan plan;
  while (!scheduler.idle()) {
    step(scheduler, plan);
    size_t num_tokens = 0;
    for (const SegmentPlan& segment : plan.ranks[0].segments) num_tokens += segment.tokens.size();
    EXPECT_LE(num_tokens, 8u);
    EXPECT_EQ(plan.mode, StepMode::kLowLatency);
  }
}

TEST(Scheduler, StopsAtTheEndTokenUnlessToldNotTo) {
  Scheduler scheduler({.eos_tokens = {3, 7}});
  scheduler.add(request(1, 3, 5));
  Request stubborn = request(2, 3, 5);
  stubborn.ignore_eos = true;
  scheduler.add(stubborn);
  StepPlan plan;
  const auto updates = step(scheduler, plan);
  ASSERT_EQ(updates.size(), 2u);
  EXPECT_EQ(updates[0].finish, FinishReason::kStop);
  EXPECT_EQ(updates[1].finish, FinishReason::kNone);
}

TEST(Scheduler, ForgetsCancelledRequests) {
  Scheduler scheduler({.max_running_requests = 1});
  scheduler.add(request(1, 3, 5));
  scheduler.add(request(2, 3, 5));
  StepPlan plan;
  step(scheduler, plan);
  scheduler.cancel(1);
  scheduler.cancel(2);
  EXPECT_TRUE(scheduler.idle());
  EXPECT_EQ(scheduler.plan().ranks[0].closed, std::vector<int64_t>{1});
}

TEST(Scheduler, AsksForPromptScoresOnceEach) {
  Scheduler scheduler({.chunked_prefill_size = 4});
  Request scored = request(1, 10, 1);
  scored.score_prompt = true;
  scored.logits_positions = {0, 5, 9};
  scheduler.add(scored);
  std::vector<int32_t> targets;
  std::vector<int64_t> positions;
  StepPlan plan;
  while (!scheduler.idle()) {
    step(scheduler, plan);
    const SegmentPlan& segment = plan.ranks[0].segments[0];
    targets.insert(targets.end(), segment.targets.begin(), segment.targets.end());
    for (int32_t row : segment.logits_rows) positions.push_back(segment.first_position + row);
  }
  EXPECT_EQ(targets, std::vector<int32_t>(scored.prompt.begin() + 1, scored.prompt.end()));
  EXPECT_EQ(positions, scored.logits_positions);
}

TEST(Scheduler, ComputesAllAgainOnTheRanksThatAreLeft) {
  Scheduler scheduler({.num_ranks = 3, .chunked_prefill_size = 4});
  for (int64_t id = 1; id <= 3; ++id) scheduler.add(request(id, 6, 5));
  std::map<int64_t, int> num_tokens;
  StepPlan plan;
  const auto hear = [&](const std::vector<RequestUpdate>& updates) {
    for (const RequestUpdate& update : updates) num_tokens[update.request_id] += update.has_token;
  };
  for (int i = 0; i < 4; ++i) hear(step(scheduler, plan));
  scheduler.plan();  // of a step that fails
  scheduler.restart({.num_ranks = 1, .chunked_prefill_size = 4});
  EXPECT_EQ(scheduler.num_state_tokens(), 0);
  hear(step(scheduler, plan));
  ASSERT_EQ(plan.ranks.size(), 1u);
  EXPECT_TRUE(plan.ranks[0].closed.empty());
  EXPECT_EQ(plan.ranks[0].segments[0].sequence_id, 1);
  EXPECT_EQ(plan.ranks[0].segments[0].first_position, 0);
  while (!scheduler.idle()) hear(step(scheduler, plan));
  for (int64_t id = 1; id <= 3; ++id) EXPECT_EQ(num_tokens[id], 5);
  EXPECT_EQ(scheduler.num_preemptions(), 0);
}

TEST(Scheduler, SendsBackTheYoungestAndComputesItAgain) {
  Scheduler scheduler({.chunked_prefill_size = 100, .max_tokens_per_rank = 100});
  scheduler.add(request(1, 20, 60));
  scheduler.add(request(2, 10, 30));
  std::map<int64_t, int> num_heard;
  StepPlan plan;
  int num_steps = 0;
  for (; !scheduler.idle(); ++num_steps) {
    for (const RequestUpdate& update : step(scheduler, plan)) {
      num_heard[update.request_id] += update.has_token;
    }
    EXPECT_LE(scheduler.num_state_tokens(), 100 + 2) << "a step's tokens are counted with it";
  }
  EXPECT_EQ(num_heard, (std::map<int64_t, int>{{1, 60}, {2, 30}}));
  EXPECT_EQ(scheduler.num_preemptions(), 0);

  scheduler.add(request(3, 20, 60));
  scheduler.add(request(4, 10, 60));
  while (scheduler.num_preemptions() == 0) step(scheduler, plan);
  EXPECT_EQ(plan.ranks[0].closed, std::vector<int64_t>{4});
  EXPECT_EQ(plan.ranks[0].segments.size(), 1u);
  EXPECT_EQ(scheduler.num_waiting(), 1);
}

// A model of ranks: a token is a function of the sequence and its position, and a rank holds what
// it was told to hold.
class ModelRanks {
 public:
  explicit ModelRanks(const SchedulerLimits& limits)
      : limits_(limits), sequences_(limits.num_ranks) {}

  static int32_t token(int64_t id, int64_t position) {
    return static_cast<int32_t>((id * 7919 + position * 104729) % 50000);
  }

  StepResult run(const StepPlan& plan) {
    StepResult result;
    result.ranks.resize(plan.ranks.size());
    for (size_t r = 0; r < plan.ranks.size(); ++r) run_rank(r, plan, result.ranks[r]);
    return result;
  }

 private:
  void run_rank(size_t r, const StepPlan& plan, RankResult& result) {
    std::map<int64_t, int64_t>& held = sequences_[r];
    for (int64_t id : plan.ranks[r].closed) held.erase(id);
    int64_t num_prompt = 0;
    for (const SegmentPlan& segment : plan.ranks[r].segments) {
      int64_t& position = held[segment.sequence_id];
      RC_ASSERT(position == segment.first_position);
      for (int32_t t : segment.tokens) RC_ASSERT(t == token(segment.sequence_id, position++));
      SegmentResult& out = result.segments.emplace_back();
      out.sequence_id = segment.sequence_id;
      if (segment.sample) out.next.token = token(segment.sequence_id, position);
      for (int32_t target : segment.targets) out.nll.push_back(static_cast<float>(target));
      if (segment.is_prompt) num_prompt += static_cast<int64_t>(segment.tokens.size());
    }
    RC_ASSERT(num_prompt <= limits_.chunked_prefill_size);
    int64_t num_tokens = 0;
    for (const auto& [id, count] : held) num_tokens += count;
    RC_ASSERT(num_tokens <= limits_.max_tokens_per_rank);
    RC_ASSERT(limits_.state_size.bytes(static_cast<int64_t>(held.size()), num_tokens) <=
              limits_.max_state_bytes_per_rank);
    RC_ASSERT(static_cast<int>(held.size()) * limits_.num_ranks <
              limits_.max_running_requests + limits_.num_ranks);
  }

  SchedulerLimits limits_;
  std::vector<std::map<int64_t, int64_t>> sequences_;  // tokens held, by id
};

struct Heard {
  std::vector<int32_t> tokens;
  std::vector<float> nll;
  bool ended = false;
};

// Whatever arrives, leaves and is sent back: every request that stays hears all its tokens, once
// and in order, and no rank ever holds more than it may.
RC_GTEST_PROP(Scheduler, LosesNothingHoweverLittleRoomThereIs, ()) {
  std::mt19937_64 random(*rc::gen::arbitrary<uint64_t>());
  const auto in_range = [&](int begin, int end) {
    return begin + static_cast<int>(random() % static_cast<uint64_t>(end - begin));
  };
  SchedulerLimits limits{.num_ranks = in_range(1, 4),
                         .max_running_requests = in_range(1, 12),
                         .chunked_prefill_size = in_range(1, 40),
                         .max_sequence_tokens = 60,
                         .max_tokens_per_rank = in_range(60, 200),
                         .state_size = {.bytes_per_sequence = 50, .bytes_per_token = 1}};
  limits.max_state_bytes_per_rank = in_range(110, 500);
  Scheduler scheduler(limits);
  ModelRanks ranks(limits);
  std::map<int64_t, Request> requests;
  std::map<int64_t, Heard> heard;
  std::set<int64_t> cancelled;
  const int num_requests = in_range(1, 25);
  for (int64_t next = 0; next < num_requests || !scheduler.idle();) {
    for (int n = in_range(0, 4); n > 0 && next < num_requests; --n, ++next) {
      Request request{.id = next, .max_tokens = in_range(0, 50), .score_prompt = true};
      const int num_prompt = in_range(1, 60);
      for (int i = 0; i < num_prompt; ++i) request.prompt.push_back(ModelRanks::token(next, i));
      requests[next] = request;
      scheduler.add(request);
    }
    if (next > 0 && in_range(0, 10) == 0) {
      const int64_t id = in_range(0, static_cast<int>(next));
      if (!heard[id].ended) cancelled.insert(id);
      scheduler.cancel(id);
    }
    const StepPlan plan = scheduler.plan();
    StepResult result = ranks.run(plan);
    std::vector<RequestUpdate> updates;
    scheduler.apply(plan, result, updates);
    for (const RequestUpdate& update : updates) {
      Heard& request = heard[update.request_id];
      RC_ASSERT(!request.ended && !cancelled.contains(update.request_id));
      if (update.has_token) request.tokens.push_back(update.result.next.token);
      request.nll.insert(request.nll.end(), update.result.nll.begin(), update.result.nll.end());
      request.ended = update.finish != FinishReason::kNone;
    }
  }
  RC_ASSERT(scheduler.num_state_tokens() == 0);
  for (const auto& [id, request] : requests) {
    if (cancelled.contains(id)) continue;
    const auto num_prompt = static_cast<int64_t>(request.prompt.size());
    const int64_t num_tokens = std::min(request.max_tokens, 60 - num_prompt);
    std::vector<int32_t> expected;
    for (int64_t i = 0; i < std::max<int64_t>(num_tokens, request.max_tokens > 0); ++i) {
      expected.push_back(ModelRanks::token(id, num_prompt + i));
    }
    RC_ASSERT(heard[id].ended);
    RC_ASSERT(heard[id].tokens == expected);
    RC_ASSERT(heard[id].nll ==
              std::vector<float>(request.prompt.begin() + 1, request.prompt.end()));
  }
}

}  // namespace
}  // namespace plimsoll
