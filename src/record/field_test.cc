// Files as users of SGLang, vLLM, vLLM-Ascend and TensorRT-LLM bring them.
#include <gtest/gtest.h>

#include <numeric>

#include "plimsoll/layers.h"
#include "plimsoll/plan.h"
#include "plimsoll/trace.h"
#include "record/counts.h"
#include "record/formats/file_io.h"
#include "record/formats/npy.h"
#include "record/formats/pt_writer.h"
#include "record/formats/test_files.h"
#include "record/recorder.h"
#include "record/vllm_maps.h"

namespace plimsoll {
namespace {

std::string field_file(const std::string& name) {
  return std::string(PLIMSOLL_SOURCE_DIR) + "/testdata/field/" + name;
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

int64_t total(const LoadHistory& history) {
  return std::accumulate(history.counts.begin(), history.counts.end(), int64_t{0});
}

std::string rank_file(int rank) {
  return field_file("rank_missing/expert_distribution_recorder_17800011.5_" + std::to_string(rank) +
                    ".pt");
}

TEST(Field, NamesMissingRanks) {
  const std::vector<std::string> three = {rank_file(0), rank_file(1), rank_file(3)};
  const auto refused = load_expert_counts(three);
  ASSERT_FALSE(refused.ok());
  EXPECT_TRUE(contains(refused.error().message, "the file of rank 2 is missing"))
      << refused.error().message;
  const auto pattern = load_expert_counts(field_file("rank_missing/*.pt"));
  ASSERT_FALSE(pattern.ok());
  EXPECT_EQ(pattern.error().message, refused.error().message);
  EXPECT_FALSE(load_expert_counts(rank_file(3)).ok()) << "ranks 0 to 2 are missing";

  int64_t last_done = 0;
  const auto part = load_expert_counts(
      three, {.allow_missing_ranks = true, .progress = [&](int64_t done, int64_t all) {
                EXPECT_EQ(all, 3);
                last_done = done;
              }});
  ASSERT_TRUE(part.ok()) << part.error().message;
  EXPECT_EQ(part->history.num_steps, 3);
  EXPECT_EQ(last_done, 3);
  int64_t sum = 0;
  for (const std::string& path : three) sum += total(*load_history({{*read_recording(path)}}));
  EXPECT_EQ(total(part->history), sum);
  ASSERT_EQ(part->notes.size(), 1u);
  EXPECT_TRUE(contains(part->notes[0], "a part of the whole"));
}

Recording rank_recording(int rank, int num_passes) {
  Recording recording{
      .mode = RecorderMode::kPerPass, .rank = rank, .num_layers = 1, .num_logical_experts = 2};
  for (int pass = 0; pass < num_passes; ++pass) {
    recording.passes.push_back({.forward_pass_id = pass, .counts = {1 + rank, pass}});
  }
  return recording;
}

TEST(Field, NamesPassesThatARankLacksAndFilesThatAreNotOfOneRecording) {
  const TemporaryFolder folder;
  const auto save = [&](const std::string& name, const Recording& recording) {
    const std::string path = folder / ("expert_distribution_recorder_" + name + ".pt");
    EXPECT_TRUE(write_recording(recording, path).ok());
    return path;
  };
  const std::string rank_0 = save("1780000000.5_0", rank_recording(0, 3));
  const std::string rank_1 = save("1780000001.25_1", rank_recording(1, 3));
  const std::string short_1 = save("1780000001.5_1", rank_recording(1, 2));
  const std::string late_1 = save("1780009000.5_1", rank_recording(1, 3));
  Recording wide = rank_recording(1, 3);
  wide.num_logical_experts = 3;
  for (RecordedPass& pass : wide.passes) pass.counts.push_back(0);
  const std::string wide_1 = save("1780000002.5_1", wide);

  const auto both = load_expert_counts(std::vector<std::string>{rank_0, rank_1});
  ASSERT_TRUE(both.ok()) << both.error().message;
  EXPECT_EQ(both->history.counts, (std::vector<int64_t>{3, 0, 3, 2, 3, 4}));
  const auto refusal = [&](const std::string& other) {
    const auto counts = load_expert_counts(std::vector<std::string>{rank_0, other});
    return counts.ok() ? "(accepted)" : counts.error().message;
  };
  EXPECT_TRUE(contains(refusal(short_1), "lacks the forward pass 2")) << refusal(short_1);
  EXPECT_TRUE(contains(refusal(rank_0), "rank 0 stands twice")) << refusal(rank_0);
  EXPECT_TRUE(contains(refusal(late_1),
                       "of 2 recordings (2026-05-28 20:26:40 UTC, rank 0; "
                       "2026-05-28 22:56:40 UTC, rank 1)"))
      << refusal(late_1);
  EXPECT_TRUE(contains(refusal(wide_1), "differ in layers, experts or mode")) << refusal(wide_1);
  EXPECT_EQ(total(load_expert_counts(std::vector<std::string>{rank_0, short_1},
                                     {.allow_missing_ranks = true})
                      ->history),
            3 + 3 + 2 * 2 + 1);
}

TEST(Field, TakesAPatternThatMatchesOneRecording) {
  const TemporaryFolder folder;
  const auto bytes = read_file(recorder_file("non_contiguous.pt"));
  const std::string pattern = folder / "expert_distribution_recorder_*.pt";
  EXPECT_TRUE(contains(load_expert_counts(pattern).error().message, "no file matches"));
  // As text the later time comes first.
  const std::string early = folder / "expert_distribution_recorder_999999999.5.pt";
  const std::string late = folder / "expert_distribution_recorder_1780000000.5.pt";
  ASSERT_TRUE(write_file(early, *bytes).ok());
  const auto one = load_expert_location(pattern);
  ASSERT_TRUE(one.ok()) << one.error().message;
  EXPECT_EQ(std::get<LoadedCounts>(*one).history.num_steps, 56);
  EXPECT_EQ(std::get<LoadedCounts>(*one).notes, std::vector<std::string>{pattern + " is " + early});
  ASSERT_TRUE(write_file(late, *bytes).ok());
  const auto two = load_expert_counts(pattern);
  ASSERT_FALSE(two.ok());
  EXPECT_TRUE(contains(two.error().message, "matches 2 recordings"));
  EXPECT_TRUE(contains(two.error().message, "2001-09-09 01:46:39 UTC"));
  EXPECT_TRUE(contains(two.error().message, "give the newest, " + late)) << two.error().message;
  EXPECT_EQ(load_expert_counts(std::vector<std::string>{early, late})->history.num_steps, 112);
  EXPECT_EQ(std::get<LoadedCounts>(*load_expert_location(early + "\n" + late)).num_steps, 112);
}

TEST(Field, KnowsLayersThatRecordedNothingFromStepsThatDid) {
  const auto dense = load_expert_counts(field_file("dense_layers.pt"));
  ASSERT_TRUE(dense.ok()) << dense.error().message;
  EXPECT_EQ(dense->history.num_steps, 4);
  const std::vector<int32_t> layers = layers_with_load(dense->history);
  EXPECT_EQ(layers, (std::vector<int32_t>{2, 3, 4, 5}));
  const LoadHistory chosen = select_layers(dense->history, layers);
  EXPECT_EQ(chosen.num_layers, 4);
  EXPECT_EQ(total(chosen), total(dense->history));
  const LoadHistory idle_step{2, 2, 2, {0, 0, 0, 0, /**/ 1, 0, 0, 0}};
  EXPECT_EQ(layers_with_load(idle_step), std::vector<int32_t>{0});

  const Placement part = *trivial_placement(1, 2, 2, 2);
  Placement all = *trivial_placement(3, 2, 2, 2);
  all = with_layers(all, {1, 2, 4, 2, {1, 1, 0, 0}}, std::vector<int32_t>{1});
  EXPECT_EQ(all.physical_to_logical, (std::vector<int32_t>{0, 1, 0, 1, 1, 1, 0, 0, 0, 1, 0, 1}));
  EXPECT_EQ(num_copies_beside_twin(all), 2);
  EXPECT_EQ(num_copies_beside_twin(part), 0);
}

TEST(Field, CountsCopiesThatCannotHelp) {
  const auto load = load_expert_counts(field_file("few_very_hot.json"));
  ASSERT_TRUE(load.ok()) << load.error().message;
  const auto plan = make_plan(
      load->history, {.algorithm = "deepseek", .num_ranks = 8, .num_redundant_experts = 8});
  ASSERT_TRUE(plan.ok()) << plan.error().message;
  EXPECT_EQ(num_copies_beside_twin(plan->placement), 2);
  EXPECT_EQ(plan->certificates[0].copies_beside_twin + plan->certificates[1].copies_beside_twin, 2);
  const TemporaryFolder folder;
  const Status ascend =
      save_placement(plan->placement, folder / "p.json", {.format = "vllm-ascend"});
  ASSERT_FALSE(ascend.ok());
  EXPECT_TRUE(contains(ascend.error().message, "has 2")) << ascend.error().message;
}

// All four name the same placement of six layers.
TEST(Field, ReadsEveryEnginesPlacement) {
  const auto by_layer = load_expert_map(field_file("vllm_map_by_layer.json"));
  const auto all_layers = load_expert_map(field_file("vllm_map_all_layers.json"));
  const auto ascend = load_expert_map(field_file("vllm_ascend_expert_map.json"));
  const auto trtllm = load_expert_map(field_file("trtllm_from_layer_3.yaml"));
  for (const auto* map : {&by_layer, &all_layers, &ascend, &trtllm}) {
    ASSERT_TRUE(map->ok()) << map->error().message;
    EXPECT_EQ((*map)->num_physical_experts, 20);
  }
  EXPECT_EQ(by_layer->format, "vLLM");
  EXPECT_EQ(by_layer->num_layers, 6);
  EXPECT_EQ(ascend->physical_to_logical, by_layer->physical_to_logical);
  EXPECT_EQ(ascend->num_ranks, 4);
  EXPECT_EQ(trtllm->physical_to_logical, by_layer->physical_to_logical);
  EXPECT_EQ(trtllm->layer_ids, (std::vector<int32_t>{3, 4, 5, 6, 7, 8}));

  EXPECT_TRUE(all_layers->for_all_layers);
  const auto six = make_placement(*all_layers, 6, 16, 4);
  ASSERT_TRUE(six.ok()) << six.error().message;
  for (int l = 0; l < 6; ++l) {
    EXPECT_TRUE(std::ranges::equal(six->layer(l), all_layers->physical_to_logical));
  }
  EXPECT_TRUE(contains(make_placement(*ascend, 6, 16, 5).error().message, "for 4 devices"));
  // Layers 3 to 8 of nine; the first three are trivial.
  const auto nine = make_placement(*trtllm, 9, 16, 4);
  ASSERT_TRUE(nine.ok()) << nine.error().message;
  EXPECT_EQ(nine->layer(2)[17], 1);
  EXPECT_TRUE(std::ranges::equal(nine->layer(3), six->layer(0)));
  EXPECT_FALSE(make_placement(*trtllm, 8, 16, 4).ok());
}

TEST(Field, WritesEveryEnginesPlacement) {
  const TemporaryFolder folder;
  const auto map = load_expert_map(field_file("trtllm_from_layer_3.yaml"));
  const Placement nine = *make_placement(*map, 9, 16, 4);
  const std::vector<int32_t> moe = {3, 4, 5, 6, 7, 8};
  const auto written = [&](const std::string& name, const std::string& format) {
    const Status saved = save_placement(nine, folder / name, {.format = format, .moe_rows = moe});
    EXPECT_TRUE(saved.ok()) << saved.error().message;
    return *load_expert_map(folder / name);
  };
  EXPECT_EQ(written("p.yaml", "").layer_ids, moe);
  const ExpertMap vllm = written("p.json", "vllm");
  EXPECT_EQ(vllm.format, "vLLM");
  EXPECT_EQ(vllm.physical_to_logical, map->physical_to_logical);
  const ExpertMap sglang = written("q.json", "");
  EXPECT_EQ(sglang.format, "SGLang");
  EXPECT_EQ(sglang.num_layers, 9);
  EXPECT_TRUE(written("r.npy", "").num_layers == 9);
  // Layers 4 and 6 of the field's map have twins, which vLLM-Ascend cannot take.
  const Placement trivial = *trivial_placement(2, 4, 2, 2);
  ASSERT_TRUE(save_placement(trivial, folder / "a.json", {.format = "vllm-ascend"}).ok());
  EXPECT_EQ(load_expert_map(folder / "a.json")->physical_to_logical, trivial.physical_to_logical);
  const auto bytes = read_file(folder / "a.json");
  EXPECT_TRUE(contains(
      std::string(reinterpret_cast<const char*>(bytes->data()), bytes->size()),
      R"({"layer_id":1,"device_count":2,"device_list":[{"device_id":0,"device_expert":[0,1,2]})"));
  EXPECT_TRUE(contains(save_placement(nine, folder / "p.npy", {.format = "vllm"}).error().message,
                       "ends in .json"));
}

TEST(Field, RefusesMapsThatContradictThemselves) {
  const auto refusal = [](const std::string& text) {
    const auto location = parse_location_json(text);
    return location.ok() ? "(accepted)" : location.error().message;
  };
  EXPECT_TRUE(contains(refusal("[[0, 1, 3]]"), "no placement"));
  EXPECT_TRUE(contains(refusal("[[0, 1], [0]]"), "row of 1"));
  EXPECT_TRUE(contains(refusal("[]"), "no placement"));
  const std::string layer = R"({"device_list": [{"device_expert": [0, 1]}]})";
  EXPECT_EQ(refusal(R"({"layer_list": [)" + layer + "]}"), "(accepted)") << "ids may be left out";
  EXPECT_TRUE(contains(refusal(R"({"moe_layer_count": 2, "layer_list": [)" + layer + "]}"),
                       "moe_layer_count is 2"));
  EXPECT_TRUE(contains(
      refusal(R"({"layer_list": [{"layer_id": 0, "device_count": 2, )" + layer.substr(1) + "]}"),
      "device_count is 2"));
  EXPECT_TRUE(contains(refusal(R"({"layer_list": [{"layer_id": -1}]})"), "layer_id -1"));
  EXPECT_TRUE(contains(refusal(R"({"layer_list": 3})"), "empty list"));
}

TEST(Field, KnowsWhatNumbersAreByThemselves) {
  const TemporaryFolder folder;
  const Placement placement = *trivial_placement(3, 10, 2, 4);
  ASSERT_TRUE(save_placement(placement, folder / "p.npy").ok());
  const auto as_load = load_expert_counts(folder / "p.npy");
  ASSERT_FALSE(as_load.ok());
  EXPECT_TRUE(contains(as_load.error().message, "holds a placement"));
  const auto trace =
      load_trace(std::string(PLIMSOLL_SOURCE_DIR) + "/testdata/traces/demo_pgdoc.u8");
  const std::vector<int64_t> ids(trace->ids.begin(), trace->ids.end());
  const int64_t shape[] = {trace->num_tokens(), trace->num_layers, trace->top_k};
  ASSERT_TRUE(write_file(folder / "t.npy", make_npy(ids, shape)).ok());
  const auto counts = load_expert_counts(folder / "t.npy");
  ASSERT_TRUE(counts.ok()) << counts.error().message;
  EXPECT_EQ(counts->format, "trace");
  EXPECT_EQ(total(counts->history), std::ssize(ids));
  const std::vector<int64_t> load = {5, 3, 0, 1, 7, 1};
  const int64_t load_shape[] = {2, 3};
  ASSERT_TRUE(write_file(folder / "l.npy", make_npy(load, load_shape)).ok());
  EXPECT_EQ(load_expert_counts(folder / "l.npy")->history.counts, load);
  EXPECT_TRUE(contains(load_expert_map(folder / "l.npy").error().message, "recorded counts"));
}

TEST(Field, TakesATensorByItself) {
  const TemporaryFolder folder;
  const std::vector<int64_t> values = {5, 3, 0, 1, 7, 1, 2, 2, 9, 8, 8, 8};
  const int64_t shape[] = {2, 2, 3};
  PtWriter pt;
  pt.tensor(values, shape);
  ASSERT_TRUE(write_file(folder / "window.pt", *pt.finish()).ok());
  const auto counts = load_expert_counts(folder / "window.pt");
  ASSERT_TRUE(counts.ok()) << counts.error().message;
  EXPECT_EQ(counts->history.num_steps, 2);
  EXPECT_EQ(counts->history.counts, values);
  const auto sum = load_expert_counts(folder / "window.pt", {.only_total = true});
  EXPECT_EQ(sum->history.counts, (std::vector<int64_t>{7, 5, 9, 9, 15, 9}));
  EXPECT_EQ(sum->num_steps, 2);
  EXPECT_EQ(sum->history.num_steps, 1);
}

TEST(Field, TakesHalfPrecisionOnlyWhereItIsExact) {
  const auto half = [](std::vector<uint16_t> bits, PtDtype dtype) {
    return numbers_of(std::as_bytes(std::span(bits)), dtype,
                      {.shape = {std::ssize(bits)}, .strides = {1}});
  };
  // 0, 1, 2047 in float16; then 2048, 0.5 and infinity.
  EXPECT_EQ(half({0, 0x3c00, 0x67ff}, PtDtype::kF16)->values, (std::vector<int64_t>{0, 1, 2047}));
  for (const uint16_t bits : {0x6800, 0x3800, 0x7c00}) {
    const auto refused = half({bits}, PtDtype::kF16);
    ASSERT_FALSE(refused.ok());
    EXPECT_TRUE(contains(refused.error().message, "below 2048")) << refused.error().message;
  }
  // 255 in bfloat16; then 256 and 0.5.
  EXPECT_EQ(half({0x437f}, PtDtype::kBf16)->values, std::vector<int64_t>{255});
  EXPECT_FALSE(half({0x4380}, PtDtype::kBf16).ok());
  EXPECT_TRUE(contains(half({0x3f00}, PtDtype::kBf16).error().message, "which rounds"));
}

TEST(Field, AnEmptyRecordingIsReadAndEmpty) {
  const TemporaryFolder folder;
  for (const RecorderMode mode :
       {RecorderMode::kStat, RecorderMode::kPerPass, RecorderMode::kPerToken}) {
    Recorder recorder({.mode = mode, .num_layers = 2, .num_logical_experts = 4, .top_k = 2});
    recorder.start(100);
    const auto paths =
        save_recordings(recorder.recordings({.placement = *trivial_placement(2, 4, 0, 1)}, 101),
                        folder / "", 1000.5 + static_cast<int>(mode));
    ASSERT_TRUE(paths.ok()) << paths.error().message;
    const auto counts = load_expert_counts(*paths);
    ASSERT_TRUE(counts.ok()) << counts.error().message;
    EXPECT_EQ(counts->num_steps, 0);
    EXPECT_EQ(counts->history.num_layers, 2);
    EXPECT_TRUE(read_recording(paths->front()).ok());
    EXPECT_TRUE(contains(check_fits(*counts, 2, 4).error().message, "no token at all"));
  }
  const std::vector<int32_t> zeros(3 * 2 * 4);
  const int64_t shape[] = {3, 2, 4};
  PtWriter pt;  // SGLang's, whose buffer is zeros
  pt.begin_dict();
  pt.key("rank");
  pt.integer(0);
  pt.key("logical_count");
  pt.tensor(zeros, shape);
  pt.end_dict();
  ASSERT_TRUE(write_file(folder / "zeros.pt", *pt.finish()).ok());
  EXPECT_EQ(load_expert_counts(folder / "zeros.pt")->num_steps, 0);
}

}  // namespace
}  // namespace plimsoll
