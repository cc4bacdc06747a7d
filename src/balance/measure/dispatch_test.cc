#include "plimsoll/dispatch.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <numeric>

#include "balance/measure/shares.h"

namespace plimsoll {
namespace {

const std::string kAnswers = std::string(PLIMSOLL_SOURCE_DIR) + "/testdata/dispatch/sglang.txt";

struct Case {
  Placement placement;
  int num_nodes = 1;
  std::vector<int32_t> static_slots;   // [layers, ranks, experts]
  std::vector<int32_t> dynamic_slots;  // the same, -1: any copy
};

std::vector<int32_t> read_numbers(std::istream& file, size_t count) {
  std::vector<int32_t> numbers(count);
  for (int32_t& number : numbers) file >> number;
  return numbers;
}

// What SGLang's own functions said: see scripts/sglang-dispatch.
std::vector<Case> read_cases() {
  std::ifstream file(kAnswers);
  std::vector<Case> cases;
  int num_ranks, num_nodes, slots_per_rank, num_experts, num_layers;
  while (file >> num_ranks >> num_nodes >> slots_per_rank >> num_experts >> num_layers) {
    const int num_slots = num_ranks * slots_per_rank;
    const size_t answers = size_t(num_layers) * num_ranks * num_experts;
    Case c;
    c.placement = {num_layers, num_experts, num_slots, num_ranks,
                   read_numbers(file, size_t(num_layers) * num_slots)};
    c.num_nodes = num_nodes;
    c.static_slots = read_numbers(file, answers);
    c.dynamic_slots = read_numbers(file, answers);
    cases.push_back(std::move(c));
  }
  return cases;
}

TEST(Dispatch, SendsWhereSglangsStaticSends) {
  const std::vector<Case> cases = read_cases();
  ASSERT_EQ(cases.size(), 8u);
  for (const Case& c : cases) {
    const auto slots = static_dispatch_slots(c.placement, c.num_nodes);
    ASSERT_TRUE(slots.ok()) << slots.error().message;
    EXPECT_EQ(*slots, c.static_slots) << c.placement.num_ranks << " ranks";
  }
}

TEST(Dispatch, LeavesTheCopiesThatSglangsDynamicLeaves) {
  for (const Case& c : read_cases()) {
    const Placement& p = c.placement;
    const RankGrid grid{p.num_ranks, c.num_nodes, p.slots_per_rank()};
    std::vector<int32_t> slots;
    for (int l = 0; l < p.num_layers; ++l) {
      const CopyTable copies(p.layer(l), p.num_logical_experts);
      for (int source = 0; source < p.num_ranks; ++source) {
        for (int e = 0; e < p.num_logical_experts; ++e) {
          slots.push_back(nearest_slot(copies.of(e), source, grid));
        }
      }
    }
    EXPECT_EQ(slots, c.dynamic_slots) << p.num_ranks << " ranks";
  }
}

// Loads in proportion to SGLang's own tables: what a rank gets of every source's tokens.
TEST(Dispatch, ExpectsTheLoadsOfThoseTables) {
  for (const Case& c : read_cases()) {
    const Placement& p = c.placement;
    const size_t experts = p.num_logical_experts;
    std::vector<int64_t> load(p.num_layers * experts);
    for (size_t i = 0; i < load.size(); ++i) load[i] = int64_t(i * i % 97) * p.num_ranks;
    for (const Dispatch dispatch : {Dispatch::kStatic, Dispatch::kDynamic}) {
      const auto& table = dispatch == Dispatch::kStatic ? c.static_slots : c.dynamic_slots;
      std::vector<double> expected(size_t(p.num_layers) * p.num_ranks, 0);
      for (int l = 0; l < p.num_layers; ++l) {
        const CopyTable copies(p.layer(l), p.num_logical_experts);
        for (int source = 0; source < p.num_ranks; ++source) {
          for (size_t e = 0; e < experts; ++e) {
            const double tokens = double(load[l * experts + e]) / p.num_ranks;
            const int slot = table[(size_t(l) * p.num_ranks + source) * experts + e];
            const auto all = copies.of(int(e));
            for (const int32_t to : all) {
              const double part = slot == to ? 1.0 : slot < 0 ? 1.0 / double(all.size()) : 0.0;
              expected[l * p.num_ranks + to / p.slots_per_rank()] += part * tokens;
            }
          }
        }
      }
      const auto loads = expected_rank_loads(p, load, dispatch, c.num_nodes);
      ASSERT_TRUE(loads.ok());
      for (size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR((*loads)[i], expected[i], 1e-6);
    }
  }
}

TEST(Dispatch, SplitsEvenlyWhereTheEngineDoes) {
  const Placement p{1, 3, 6, 3, {0, 1, 0, 2, 0, 0}};  // expert 0 four times, twice on the last rank
  const std::vector<int64_t> load = {40, 7, 5};
  EXPECT_EQ(*expected_rank_loads(p, load, Dispatch::kEven), (std::vector<double>{17, 15, 20}));
  const auto exact = *expected_rank_loads(p, load, Dispatch::kExact);
  EXPECT_EQ(*std::max_element(exact.begin(), exact.end()), 18);
  EXPECT_EQ(std::accumulate(exact.begin(), exact.end(), 0.0), 52);
}

TEST(Dispatch, SaysWhatDoesNotFit) {
  const Placement p{1, 3, 6, 3, {0, 1, 0, 2, 0, 0}};
  EXPECT_NE(static_dispatch_slots(p, 2).error().message.find("2 nodes do not divide the 3 ranks"),
            std::string::npos);
  const auto loads = expected_rank_loads(p, std::vector<int64_t>{1, 2}, Dispatch::kEven);
  EXPECT_NE(loads.error().message.find("found 2 loads"), std::string::npos);
}

TEST(Dispatch, HasANameForEveryRule) {
  for (const Dispatch d :
       {Dispatch::kExact, Dispatch::kEven, Dispatch::kDynamic, Dispatch::kStatic}) {
    EXPECT_EQ(dispatch_of(dispatch_name(d)), d);
  }
  EXPECT_EQ(dispatch_of("nearest"), std::nullopt);
}

}  // namespace
}  // namespace plimsoll
