#include <gtest/gtest.h>

#include <numeric>
#include <thread>

#include "comm/thread_group.h"
#include "ep/exchange_low_latency.h"
#include "ep/exchange_normal.h"
#include "ep/stream_copy.h"

namespace plimsoll {
namespace {

constexpr int kHidden = 4;

// Two ranks of two slots. Rank 0 sends token 0 to both slots of rank 1 and to its own slot 0, and
// token 1 to slot 1 of rank 1; its third token goes nowhere. Rank 1 sends nothing.
struct Scene {
  std::vector<float> rows = {1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 9};
  std::vector<float> weights = {.1f, .2f, .3f, .4f, 0, 0, 0, 0, 0};
  std::vector<Target> targets = {{1, 0},   {1, 1},   {0, 0},   {1, 1},  {-1, -1},
                                 {-1, -1}, {-1, -1}, {-1, -1}, {-1, -1}};
  DispatchInput input() const {
    return {.num_tokens = 3,
            .num_columns = 3,
            .hidden_size = kHidden,
            .rows = rows.data(),
            .weights = weights,
            .targets = targets};
  }
};

template <typename Exchange>
void play(Exchange& exchange, int rank, int64_t messages_expected) {
  const Scene scene;
  const DispatchInput input = rank == 0 ? scene.input() : DispatchInput{.hidden_size = kHidden};
  ExpertWork work;
  ASSERT_TRUE(exchange.dispatch(input).ok());
  ASSERT_TRUE(exchange.receive(work).ok());
  if (rank == 0) {
    EXPECT_EQ(work.first, (std::vector<int32_t>{0, 1, 1}));
    EXPECT_EQ(work.rows[0].weight, .3f);
    EXPECT_EQ(exchange.traffic().num_messages, messages_expected);
  } else {
    EXPECT_EQ(work.first, (std::vector<int32_t>{0, 1, 3}));
    EXPECT_EQ(work.rows[1].weight, .2f) << "rows of a slot come in the order of their tokens";
    EXPECT_EQ(work.rows[2].row[0], 5);
    EXPECT_EQ(exchange.traffic().num_messages, 0);
  }
  for (const ExpertRow& row : work.rows) {
    for (int i = 0; i < kHidden; ++i) row.out[i] = row.weight * row.row[i];
  }
  std::vector<const float*> results(input.targets.size());
  ASSERT_TRUE(exchange.combine(results).ok());
  for (size_t i = 0; i < results.size(); ++i) {
    if (scene.targets[i].rank < 0) {
      EXPECT_EQ(results[i], nullptr);
    } else {
      EXPECT_EQ(results[i][2], scene.weights[i] * scene.rows[i / 3 * kHidden + 2]);
    }
  }
}

template <typename MakeExchange>
void on_two_ranks(MakeExchange make, int64_t messages_expected) {
  ThreadGroup group(2);
  std::vector<std::jthread> threads;
  for (int r = 0; r < 2; ++r) {
    threads.emplace_back([&, r] {
      const auto comm = group.connect(r);
      auto exchange = make(*comm);
      play(exchange, r, messages_expected);
      ASSERT_TRUE(comm->all_gather({}, {}).ok());  // peers have read what the exchange holds
    });
  }
}

TEST(Exchange, NormalModeSendsATokenOncePerRank) {
  on_two_ranks([](Communicator& comm) { return NormalExchange(comm, 2, false); }, 2);
}

// More than the caches hold, which is written around them.
TEST(Exchange, LargeBatchesArriveWhole) {
  constexpr int kTokens = 2100, kWide = 1027;
  ThreadGroup group(2);
  std::vector<std::jthread> threads;
  for (int r = 0; r < 2; ++r) {
    threads.emplace_back([&, r] {
      const auto comm = group.connect(r);
      std::vector<float> rows(static_cast<size_t>(kTokens) * kWide);
      std::iota(rows.begin(), rows.end(), static_cast<float>(r));
      const std::vector<float> weights(kTokens, 1.0f);
      const std::vector<Target> targets(kTokens, Target{1 - r, 0});
      NormalExchange exchange(*comm, 1, false);
      ExpertWork work;
      ASSERT_TRUE(exchange
                      .dispatch({.num_tokens = kTokens,
                                 .num_columns = 1,
                                 .hidden_size = kWide,
                                 .rows = rows.data(),
                                 .weights = weights,
                                 .targets = targets})
                      .ok());
      ASSERT_TRUE(exchange.receive(work).ok());
      std::vector<float> sent(rows.size());
      std::iota(sent.begin(), sent.end(), static_cast<float>(1 - r));
      ASSERT_EQ(work.rows.size(), static_cast<size_t>(kTokens));
      for (int t = 0; t < kTokens; ++t) {
        const float* expected = sent.data() + static_cast<size_t>(t) * kWide;
        ASSERT_TRUE(std::equal(expected, expected + kWide, work.rows[t].row)) << t;
      }
      ASSERT_TRUE(comm->all_gather({}, {}).ok());
    });
  }
}

TEST(Exchange, StreamedCopiesAreExactAtAnyPlaceAndSize) {
  std::vector<unsigned char> from(600);
  std::iota(from.begin(), from.end(), 0);
  for (size_t size : {0, 1, 15, 63, 64, 65, 127, 200, 400}) {
    for (size_t at = 0; at < 70; ++at) {
      std::vector<unsigned char> to(600, 0xee), expected = to;
      std::copy_n(from.begin() + at / 2, size, expected.begin() + at);
      stream_copy(to.data() + at, from.data() + at / 2, size);
      ASSERT_EQ(to, expected) << size << " bytes at " << at;
    }
  }
}

TEST(Exchange, WithoutAnAllToAllEveryRankGetsEveryToken) {
  on_two_ranks([](Communicator& comm) { return NormalExchange(comm, 2, true); }, 3);
}

TEST(Exchange, LowLatencyModeSendsAMessagePerTokenAndExpert) {
  on_two_ranks([](Communicator& comm) { return LowLatencyExchange(comm, 2, 8, kHidden); }, 3);
}

}  // namespace
}  // namespace plimsoll
