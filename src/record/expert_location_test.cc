#include "plimsoll/expert_location.h"

#include <gtest/gtest.h>

#include <numeric>

#include "record/formats/file_io.h"
#include "record/formats/test_files.h"

namespace plimsoll {
namespace {

std::string refusal(const std::string& value) {
  const Result<ExpertLocation> location = load_expert_location(value);
  return location.ok() ? "(accepted)" : location.error().message;
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST(ExpertLocation, TakesWhatSglangTakes) {
  EXPECT_TRUE(std::holds_alternative<TrivialLocation>(*load_expert_location("trivial")));
  const auto map = load_expert_location(recorder_file("placement.pt"));
  ASSERT_TRUE(map.ok()) << map.error().message;
  EXPECT_EQ(std::get<ExpertMap>(*map).num_physical_experts, 72);

  const auto counts =
      load_expert_location(recorder_file("expert_distribution_recorder_1780000000.123.pt"));
  ASSERT_TRUE(counts.ok()) << counts.error().message;
  EXPECT_EQ(std::get<LoadedCounts>(*counts).history.num_steps, 56);

  const auto inline_map = load_expert_location(R"({"physical_to_logical_map": [[0,1,0],[1,1,0]]})");
  ASSERT_TRUE(inline_map.ok()) << inline_map.error().message;
  EXPECT_EQ(std::get<ExpertMap>(*inline_map).physical_to_logical,
            (std::vector<int32_t>{0, 1, 0, 1, 1, 0}));
  const auto both =
      load_expert_location(R"({"logical_count": [[1,2]], "physical_to_logical_map": [[0,1]]})");
  EXPECT_TRUE(std::holds_alternative<ExpertMap>(*both)) << "the placement comes first";
  const auto two = load_expert_location(R"({"logical_count": [[1,2,3],[4,5,6]]})");
  EXPECT_EQ(std::get<LoadedCounts>(*two).history.num_layers, 2);
  const auto three = load_expert_location(R"({"logical_count": [[[1,2,3]],[[4,5,6]],[[0,0,0]]]})");
  EXPECT_EQ(std::get<LoadedCounts>(*three).history.num_steps, 2);
}

TEST(ExpertLocation, RoundsFractionsAndSaysSo) {
  const auto counts = load_expert_counts(recorder_file("float_counts.pt"));
  ASSERT_TRUE(counts.ok()) << counts.error().message;
  EXPECT_EQ(counts->history.counts[64 + 3], 17503);
  EXPECT_TRUE(counts->notes.empty()) << "these floats are whole";
  const auto halves = load_expert_location(R"({"logical_count": [[1.4, 2.6]]})");
  const auto& loaded = std::get<LoadedCounts>(*halves);
  EXPECT_EQ(loaded.history.counts, (std::vector<int64_t>{1, 3}));
  EXPECT_EQ(loaded.notes.size(), 1u);
}

TEST(ExpertLocation, RefusesTheRestAndSaysWhy) {
  EXPECT_TRUE(contains(refusal(R"({"counts": [[1]], "rank": 0})"), "found counts, rank"));
  EXPECT_TRUE(contains(refusal("trivail"), "neither trivial nor a path"));
  EXPECT_TRUE(contains(refusal("[1, 2]"), "no placement"));
  EXPECT_TRUE(contains(refusal("no such file.pt"), "cannot open"));
  EXPECT_TRUE(contains(refusal(R"({"logical_count": [1, 2]})"), "has shape [2]"));
  EXPECT_TRUE(contains(refusal(R"({"logical_count": [[1, -2]]})"), "negative count -2"));
  EXPECT_TRUE(contains(refusal(R"({"logical_count": [[1, 1e300]]})"), "not finite"));
  EXPECT_TRUE(contains(refusal(R"({"logical_count": [[1, 2], [3]]})"), "row of 1"));
  EXPECT_TRUE(contains(refusal(R"({"logical_count": [[1, [2]]]})"), "unequal depth"));
  EXPECT_TRUE(contains(refusal(R"({"logical_count": [[1, "2"]]})"), "no number"));
  EXPECT_TRUE(contains(refusal(R"({"logical_count": [[9e15, 9e15]]})"), "2^53"));
  EXPECT_TRUE(contains(refusal(R"({"physical_to_logical_map": [[0, 2]]})"), "names expert 2"));
  EXPECT_TRUE(contains(refusal(R"({"physical_to_logical_map": [[0, 0.5]]})"), "fractions"));
  EXPECT_TRUE(contains(load_expert_counts(recorder_file("placement.pt")).error().message,
                       "holds a placement"));
}

TEST(ExpertLocation, ChecksThatTheFileFitsTheModel) {
  const auto counts = load_expert_counts(recorder_file("non_contiguous.pt"));
  ASSERT_TRUE(counts.ok());
  EXPECT_TRUE(check_fits(*counts, 6, 64).ok());
  EXPECT_TRUE(contains(check_fits(*counts, 6, 256).error().message, "6 layers of 256 experts"));
  EXPECT_TRUE(contains(check_fits(*counts, 43, 64).error().message, "recorded with this model"));
  const auto zeros = load_expert_location(R"({"logical_count": [[0, 0]]})");
  EXPECT_TRUE(contains(check_fits(std::get<LoadedCounts>(*zeros), 1, 2).error().message,
                       "no token at all"));
}

TEST(ExpertLocation, AddsUpSeveralRanksFiles) {
  const auto alone =
      load_expert_counts(recorder_file("expert_distribution_recorder_1780000003.75_0.pt"));
  ASSERT_TRUE(alone.ok());
  const auto twice = load_expert_counts(
      std::vector<std::string>{recorder_file("expert_distribution_recorder_1780000003.75_0.pt"),
                               recorder_file("expert_distribution_recorder_1780000003.75_0.pt")});
  EXPECT_TRUE(contains(twice.error().message, "rank 0 stands twice"));
  const auto stats = load_expert_counts(std::vector<std::string>{
      recorder_file("non_contiguous.pt"), recorder_file("legacy_format.pt")});
  ASSERT_TRUE(stats.ok()) << stats.error().message;
  EXPECT_EQ(stats->history.num_steps, 56 + 56);
}

TEST(ExpertLocation, SavesPlacementsInBothFormats) {
  const TemporaryFolder folder;
  const Placement placement = *trivial_placement(3, 10, 2, 4);
  for (const std::string name : {"p.json", "p.pt"}) {
    ASSERT_TRUE(save_placement(placement, folder / name).ok());
    const auto location = load_expert_location(folder / name);
    ASSERT_TRUE(location.ok()) << location.error().message;
    const auto& map = std::get<ExpertMap>(*location);
    const Result<Placement> read = make_placement(map, 3, 10, 4);
    ASSERT_TRUE(read.ok()) << read.error().message;
    EXPECT_EQ(read->physical_to_logical, placement.physical_to_logical);
    EXPECT_FALSE(make_placement(map, 4, 10, 4).ok());
    EXPECT_FALSE(make_placement(map, 3, 10, 5).ok());
    EXPECT_FALSE(make_placement(map, 3, 11, 4).ok());
  }
  EXPECT_FALSE(save_placement(placement, folder / "p.csv").ok());
  const auto text = read_file(folder / "p.json");
  EXPECT_EQ(text->size(), std::string(R"({"physical_to_logical_map":[[0,1,2,3,4,5,6,7,8,9,0,1],)"
                                      R"([0,1,2,3,4,5,6,7,8,9,0,1],[0,1,2,3,4,5,6,7,8,9,0,1]]})")
                                  .size() +
                              1);
}

}  // namespace
}  // namespace plimsoll
