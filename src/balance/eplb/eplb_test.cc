#include "plimsoll/eplb.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <numeric>
#include <sstream>
#include <utility>

#include "balance/eplb/eplb_answers.h"
#include "balance/eplb/packing.h"
#include "balance/random.h"

namespace plimsoll {
namespace {

const std::string kFolder = PLIMSOLL_SOURCE_DIR "/testdata/eplb/";

struct ReferenceCase {
  std::string name;
  int num_replicas, num_groups, num_nodes, num_gpus;
};

// As testdata/eplb/cases.json has them.
const ReferenceCase kCases[] = {
    {"readme", 16, 4, 2, 8},          {"readme_global", 16, 1, 1, 8},
    {"flash_ep8", 288, 1, 1, 8},      {"flash_ep32", 288, 1, 4, 32},
    {"v3_ep32_hier", 288, 8, 4, 32},  {"v3_ep144", 288, 1, 18, 144},
    {"dsv2lite_intent", 72, 1, 1, 8}, {"dsv2lite_summary", 72, 1, 1, 8},
};

TEST(Eplb, DeepSeekGivesTheReferenceAnswers) {
  auto answers = read_answers(kFolder + "answers.safetensors");
  ASSERT_FALSE(answers.empty());
  for (const ReferenceCase& c : kCases) {
    SCOPED_TRACE(c.name);
    const Int32Tensor& load = answers[c.name + ".load"];
    ASSERT_EQ(load.shape.size(), 2u);
    const std::vector<float> weight(load.values.begin(), load.values.end());
    const EplbSizes sizes{load.shape[0], load.shape[1], c.num_replicas,
                          c.num_gpus,    c.num_nodes,   c.num_groups};
    const auto answer = eplb_deepseek(sizes, weight, c.num_groups % c.num_nodes == 0);
    ASSERT_TRUE(answer.ok()) << answer.error().message;
    EXPECT_EQ(answer->physical_to_logical, answers[c.name + ".phy2log"].values);
    EXPECT_EQ(answer->logical_count, answers[c.name + ".logcnt"].values);
  }
}

TEST(Eplb, DeepSeekVecGivesTheReferenceAnswers) {
  auto answers = read_answers(kFolder + "vec_answers.safetensors");
  const Int32Tensor& steps = answers["steps"];
  ASSERT_EQ(steps.shape.size(), 3u);
  const std::vector<int64_t> counts(steps.values.begin(), steps.values.end());
  const EplbSizes sizes{steps.shape[1], steps.shape[2], 288, 32};
  const auto answer = eplb_deepseek_vec(sizes, counts, false);
  ASSERT_TRUE(answer.ok()) << answer.error().message;
  EXPECT_EQ(answer->physical_to_logical, answers["phy2log"].values);
  EXPECT_EQ(answer->logical_count, answers["logcnt"].values);
}

struct RederivedCase {
  std::string algorithm;
  int num_steps = 0;
  EplbSizes sizes;
  std::vector<int64_t> active_ranks, steps, physical_to_logical, logical_count;
};

std::vector<int64_t> numbers_of(const std::string& line) {
  std::istringstream text(line);
  return {std::istream_iterator<int64_t>(text), {}};
}

std::vector<RederivedCase> rederived_cases() {
  std::ifstream file(kFolder + "rederived.txt");
  std::vector<RederivedCase> cases;
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with('#')) continue;
    RederivedCase& c = cases.emplace_back();
    EplbSizes& s = c.sizes;
    std::istringstream(line) >> c.algorithm >> c.num_steps >> s.num_layers >>
        s.num_logical_experts >> s.num_physical_experts >> s.num_ranks >> s.num_nodes >>
        s.num_groups;
    for (auto* numbers : {&c.active_ranks, &c.steps, &c.physical_to_logical, &c.logical_count}) {
      std::getline(file, line);
      *numbers = numbers_of(line);
    }
  }
  return cases;
}

Result<EplbAnswer> answer_of(const RederivedCase& c) {
  const bool hierarchical = c.algorithm.ends_with("_hierarchical");
  if (c.algorithm.starts_with("deepseek_vec")) {
    return eplb_deepseek_vec(c.sizes, c.steps, hierarchical);
  }
  std::vector<float> load(c.logical_count.size(), 0);
  for (size_t i = 0; i < c.steps.size(); ++i) {
    load[i % load.size()] += static_cast<float>(c.steps[i]);
  }
  if (c.algorithm.starts_with("deepseek")) return eplb_deepseek(c.sizes, load, hierarchical);
  const std::vector<uint8_t> active(c.active_ranks.begin(), c.active_ranks.end());
  return eplb_elasticity_aware(c.sizes, load, active, hierarchical);
}

TEST(Eplb, EveryAlgorithmAgreesWithASeparateProgram) {
  const std::vector<RederivedCase> cases = rederived_cases();
  ASSERT_EQ(cases.size(), 37u);
  for (const RederivedCase& c : cases) {
    SCOPED_TRACE(c.algorithm + " of " + std::to_string(c.num_steps) + " steps, " +
                 std::to_string(c.sizes.num_logical_experts) + " experts");
    const auto answer = answer_of(c);
    ASSERT_TRUE(answer.ok()) << answer.error().message;
    EXPECT_TRUE(std::ranges::equal(answer->physical_to_logical, c.physical_to_logical));
    EXPECT_TRUE(std::ranges::equal(answer->logical_count, c.logical_count));
  }
}

#ifdef __GLIBCXX__
TEST(Eplb, TiesAreOrderedAsTorchDoes) {
  SplitMix64 random{1};
  for (int round = 0; round < 2000; ++round) {
    std::vector<float> loads(random.below(400));
    const uint32_t num_values = 1 + random.below(300);
    for (float& load : loads) load = static_cast<float>(random.below(num_values));
    std::vector<std::pair<float, uint32_t>> expected;
    for (uint32_t i = 0; i < loads.size(); ++i) expected.emplace_back(loads[i], i);
    std::sort(expected.begin(), expected.end(),
              [](const auto& a, const auto& b) { return a.first > b.first; });
    std::vector<uint64_t> keys;
    sort_descending(loads, keys);
    ASSERT_EQ(keys.size(), expected.size());
    for (size_t i = 0; i < keys.size(); ++i) ASSERT_EQ(key_index(keys[i]), expected[i].second);
  }
}
#endif

}  // namespace
}  // namespace plimsoll
