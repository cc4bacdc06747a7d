// The formats beside PyTorch's and JSON: .npy, TensorRT-LLM's YAML, traces.
#include <gtest/gtest.h>

#include <numeric>

#include "plimsoll/expert_location.h"
#include "plimsoll/trace.h"
#include "record/formats/file_io.h"
#include "record/formats/npy.h"
#include "record/formats/test_files.h"
#include "record/recorder.h"
#include "record/trace_parts.h"
#include "record/trtllm_yaml.h"

namespace plimsoll {
namespace {

using namespace std::string_literals;

std::span<const std::byte> bytes_of(const std::string& text) {
  return std::as_bytes(std::span(text));
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

void save_text(const std::string& path, const std::string& text) {
  ASSERT_TRUE(write_file(path, bytes_of(text)).ok());
}

// As numpy.save writes it.
std::string npy(const std::string& dict, const std::string& data) {
  std::string header = dict + std::string(117 - dict.size(), ' ') + "\n";
  return "\x93NUMPY\1\0"s + static_cast<char>(header.size()) + '\0' + header + data;
}

TEST(Npy, ReadsNumbersInBothOrders) {
  const std::string dict = "{'descr': '|u1', 'fortran_order': False, 'shape': (2, 3), }";
  const auto rows = parse_npy(bytes_of(npy(dict, "\1\2\3\4\5\6")));
  ASSERT_TRUE(rows.ok()) << rows.error().message;
  EXPECT_EQ(rows->shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(rows->values, (std::vector<int64_t>{1, 2, 3, 4, 5, 6}));
  const std::string transposed = "{'descr': '|u1', 'fortran_order': True, 'shape': (2, 3), }";
  const auto columns = parse_npy(bytes_of(npy(transposed, "\1\2\3\4\5\6")));
  ASSERT_TRUE(columns.ok());
  EXPECT_EQ(columns->values, (std::vector<int64_t>{1, 3, 5, 2, 4, 6}));
  const std::string wide = "{'descr': '<i2', 'fortran_order': False, 'shape': (2,), }";
  EXPECT_EQ(parse_npy(bytes_of(npy(wide, "\xff\xff\1\1")))->values,
            (std::vector<int64_t>{-1, 257}));
}

TEST(Npy, RefusesTheRest) {
  const auto refusal = [](const std::string& file) {
    const auto parsed = parse_npy(bytes_of(file));
    return parsed.ok() ? "(accepted)" : parsed.error().message;
  };
  EXPECT_TRUE(contains(refusal("PK"), "no .npy"));
  EXPECT_TRUE(contains(refusal("\x93NUMPY\1\0\xff\xff{'descr'"s), "within its header"));
  EXPECT_TRUE(contains(
      refusal(npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", "x")), "'|O'"));
  EXPECT_TRUE(contains(
      refusal(npy("{'descr': '<i8', 'fortran_order': False, 'shape': (9, 9), }", "12345678")),
      "only 8 bytes"));
  EXPECT_TRUE(
      contains(refusal(npy("{'descr': '<u4', 'fortran_order': False, 'shape': (), }", "\1\2")),
               "only 2 bytes"));
  EXPECT_TRUE(contains(refusal(npy("{'descr': '<i8', 'fortran_order': False, 'shape': "
                                   "(4294967296, 4294967296, 4294967296), }",
                                   "12345678")),
                       "only 8 bytes"));
  EXPECT_TRUE(contains(
      refusal(npy("{'descr': '<i8', 'fortran_order': False, 'shape': (-1,), }", "12345678")),
      "shape"));
  EXPECT_TRUE(contains(refusal(npy("{'descr': '<i8', 'shape': (1,), }", "12345678")), "lacks"));
}

TEST(Npy, IsReadBack) {
  const std::vector<int64_t> values = {1, -2, int64_t{1} << 40, 0, 7, 8};
  const int64_t shape[] = {3, 2};
  const std::vector<std::byte> file = make_npy(values, shape);
  EXPECT_EQ((file.size() - sizeof(int64_t) * values.size()) % 64, 0u) << "the data is aligned";
  const auto read = parse_npy(file);
  ASSERT_TRUE(read.ok()) << read.error().message;
  EXPECT_EQ(read->values, values);
  EXPECT_EQ(read->shape, (std::vector<int64_t>{3, 2}));
}

TEST(TrtllmYaml, ReadsTheFormsThatWritersUse) {
  const std::string inline_lists =
      "num_slots: 4\ninitial_global_assignments:\n  3: [0, 1, 2,\n    0]  # wrapped\n"
      "  4: [2, 1, 0, 1]\nlayer_updates_per_iter: 0\n";
  const std::string block_lists =
      "initial_global_assignments:\n  3:\n  - 0\n  - 1\n  - 2\n  - 0\n  4:\n  - 2\n  - 1\n"
      "  - 0\n  - 1\nlayer_updates_per_iter: 0\nnum_slots: 4\n";
  for (const std::string& text : {inline_lists, block_lists}) {
    const auto map = parse_trtllm_yaml(text);
    ASSERT_TRUE(map.ok()) << map.error().message << "\n" << text;
    EXPECT_EQ(map->layer_ids, (std::vector<int32_t>{3, 4}));
    EXPECT_EQ(map->num_layers, 2);
    EXPECT_EQ(map->physical_to_logical, (std::vector<int32_t>{0, 1, 2, 0, 2, 1, 0, 1}));
  }
}

TEST(TrtllmYaml, RefusesTheRest) {
  const auto refusal = [](const std::string& text) {
    const auto parsed = parse_trtllm_yaml(text);
    return parsed.ok() ? "(accepted)" : parsed.error().message;
  };
  const std::string key = "initial_global_assignments:\n";
  EXPECT_TRUE(contains(refusal("num_slots: 4\n"), "no initial_global_assignments"));
  EXPECT_TRUE(contains(refusal(key), "assigns no layer"));
  EXPECT_TRUE(contains(refusal(key + "0: [1, 0]\n1048577: [0, 1]\n"), "layer 1048577"));
  EXPECT_TRUE(contains(refusal(key + "0: [1, 0]\n1: [0, 1, 0]\n"), "3 slots in layer 1"));
  EXPECT_TRUE(contains(refusal("num_slots: 3\n" + key + "0: [1, 0]\n"), "num_slots is 3"));
  EXPECT_TRUE(contains(refusal(key + "0: [1, 0]\n0: [0, 1]\n"), "layer 0 twice"));
  EXPECT_TRUE(contains(refusal(key + "0: [1, x]\n"), "no list of experts at layer 0"));
  EXPECT_TRUE(contains(refusal(key + "0 [1]\n"), "no ':'"));
  EXPECT_TRUE(contains(refusal(key + "0: [1, 7]\n"), "names expert 7"));
  EXPECT_TRUE(contains(refusal(key + "9223372036854775807: [0]\n"), "has layer"));
}

TEST(Placement, IsReadBackInEveryFormat) {
  const TemporaryFolder folder;
  const Placement placement = *trivial_placement(3, 10, 2, 4);
  for (const std::string name : {"p.yaml", "p.npy", "p.json", "p.pt"}) {
    ASSERT_TRUE(save_placement(placement, folder / name, {.layer_ids = {5, 6, 8}}).ok());
    const auto map = load_expert_map(folder / name);
    ASSERT_TRUE(map.ok()) << map.error().message;
    EXPECT_EQ(map->physical_to_logical, placement.physical_to_logical);
    EXPECT_EQ(map->layer_ids,
              name == "p.yaml" ? (std::vector<int32_t>{5, 6, 8}) : std::vector<int32_t>());
  }
  const auto counts = load_expert_map(recorder_file("legacy_format.pt"));
  ASSERT_FALSE(counts.ok());
  EXPECT_TRUE(contains(counts.error().message, "holds recorded counts"));
}

TEST(Counts, ComeFromNpyAndVllmToo) {
  const TemporaryFolder folder;
  const std::vector<int64_t> values = {1, 2, 3, 4, 5, 6, 7, 8};
  const int64_t shape[] = {2, 1, 4};
  ASSERT_TRUE(write_file(folder / "c.npy", make_npy(values, shape)).ok());
  save_text(folder / "window.json", R"({"logical_expert_load": [[1,2,3,4]]})");
  save_text(folder / "history.json",
            R"({"load_history": [{"step": 1, "logical_expert_load": [[1,2,3,4]]},)"
            R"({"step": 2, "logical_expert_load": [[5,6,7,8]]}]})");
  EXPECT_EQ(load_expert_counts(folder / "c.npy")->history.counts, values);
  EXPECT_EQ(load_expert_counts(folder / "history.json")->history.counts, values);
  EXPECT_EQ(load_expert_counts(folder / "history.json")->history.num_steps, 2);
  EXPECT_EQ(load_expert_counts(folder / "window.json")->history.num_steps, 1);
  const auto joined =
      load_expert_counts(std::vector<std::string>{folder / "window.json", folder / "c.npy"});
  ASSERT_TRUE(joined.ok()) << joined.error().message;
  EXPECT_EQ(joined->history.num_steps, 3);
  EXPECT_EQ(joined->history.counts, (std::vector<int64_t>{1, 2, 3, 4, 1, 2, 3, 4, 5, 6, 7, 8}));
  const auto refusal = [&](const std::vector<std::string>& paths) {
    const auto loaded = load_expert_counts(paths);
    return loaded.ok() ? "(accepted)" : loaded.error().message;
  };
  save_text(folder / "wide.json", R"({"logical_count": [[1,2,3,4,5]]})");
  EXPECT_TRUE(contains(refusal({folder / "c.npy", folder / "wide.json"}), "1 layers of 5 experts"));
  EXPECT_TRUE(contains(refusal({folder / "c.npy", recorder_file("float_counts.pt")}),
                       "has 6 layers of 64 experts"));
  ASSERT_TRUE(save_placement(*trivial_placement(1, 4, 0, 2), folder / "p.yaml").ok());
  EXPECT_TRUE(contains(refusal({folder / "p.yaml"}), "holds a placement"));
  save_text(folder / "bad.json", R"({"load_history": [{"step": 1}, 7]})");
  EXPECT_FALSE(load_expert_counts(folder / "bad.json").ok());
}

TEST(Trace, ReadsTheDemoTraces) {
  const std::string path = std::string(PLIMSOLL_SOURCE_DIR) + "/testdata/traces/demo_pgdoc.u8";
  const auto trace = load_trace(path);
  ASSERT_TRUE(trace.ok()) << trace.error().message;
  EXPECT_EQ(trace->num_tokens(), 16384);
  EXPECT_EQ(trace->num_layers, 6);
  EXPECT_EQ(trace->num_logical_experts, 64);
  EXPECT_EQ(trace->top_k, 6);
  EXPECT_EQ(trace->model, "the demo model");
  const LoadHistory history = count_experts(*trace, 10000);
  EXPECT_EQ(history.num_steps, 2);
  const auto middle = history.counts.begin() + 6 * 64;
  EXPECT_EQ(std::accumulate(history.counts.begin(), middle, int64_t{0}), 10000 * 6 * 6);
  EXPECT_EQ(std::accumulate(middle, history.counts.end(), int64_t{0}), 6384 * 6 * 6);
  EXPECT_EQ(load_expert_counts(path)->history.num_steps, 32);
  EXPECT_EQ(load_trace(std::vector{path, path})->num_tokens(), 2 * 16384);
}

TEST(Trace, RefusesSizesThatDoNotMultiply) {
  const auto refusal = [](const std::string& header, const std::string& ids) {
    const auto parsed = parse_u8_trace(header, bytes_of(ids));
    return parsed.ok() ? "(accepted)" : parsed.error().message;
  };
  EXPECT_EQ(refusal(R"({"tokens": 2, "layers": 1, "topk": 2, "experts": 9})", "\1\2\3\4"),
            "(accepted)");
  EXPECT_TRUE(contains(
      refusal(R"({"tokens": 3, "layers": 1, "topk": 2, "experts": 9})", "\1\2\3\4"), "4 ids"));
  EXPECT_TRUE(
      contains(refusal(R"({"tokens": 2, "layers": 1, "topk": 2, "experts": 4})", "\1\2\3\4"),
               "names expert 4 of 4"));
  EXPECT_TRUE(
      contains(refusal(R"({"tokens": -2, "layers": 1, "topk": 2})", "\1\2\3\4"), "must say"));
  EXPECT_TRUE(contains(refusal("[]", "\1\2\3\4"), "must say"));
}

TEST(Trace, JoinsTheRanksOfARecording) {
  Recorder recorder({.mode = RecorderMode::kPerToken,
                     .num_ranks = 2,
                     .num_layers = 2,
                     .num_logical_experts = 10,
                     .top_k = 2});
  recorder.start(0);
  for (int pass = 0; pass < 2; ++pass) {
    for (int r = 0; r < 2; ++r) {
      const std::vector<int32_t> ids = {pass};
      recorder.rank(r).begin_pass({.input_ids = ids, .positions = ids});
      for (int l = 0; l < 2; ++l) {
        recorder.rank(r).record_layer(l, std::vector<int32_t>{pass, 2 + 2 * l + r});
      }
    }
    recorder.end_pass(ForwardMode::kDecode);
  }
  const TemporaryFolder folder;
  const auto paths = save_recordings(
      recorder.recordings({.placement = *trivial_placement(2, 10, 0, 2)}, 0), folder / "", 1.5);
  ASSERT_TRUE(paths.ok()) << paths.error().message;
  const auto trace = load_trace(*paths);
  ASSERT_TRUE(trace.ok()) << trace.error().message;
  EXPECT_EQ(trace->top_k, 2) << "SGLang's empty columns are left out";
  EXPECT_EQ(trace->num_tokens(), 4);
  EXPECT_EQ(trace->ids, (std::vector<int16_t>{0, 2, 0, 4, 0, 3, 0, 5, 1, 2, 1, 4, 1, 3, 1, 5}));

  ASSERT_TRUE(save_trace(*trace, folder / "t.u8").ok());
  const auto saved = load_trace(folder / "t.json");
  ASSERT_TRUE(saved.ok()) << saved.error().message;
  EXPECT_EQ(saved->ids, trace->ids);
  const std::vector<int64_t> ids(trace->ids.begin(), trace->ids.end());
  const int64_t shape[] = {4, 2, 2};
  ASSERT_TRUE(write_file(folder / "t.npy", make_npy(ids, shape)).ok());
  EXPECT_EQ(load_trace(folder / "t.npy")->ids, trace->ids);
  EXPECT_FALSE(load_trace(recorder_file("expert_distribution_recorder_1780000003.75_0.pt")).ok());
  EXPECT_FALSE(load_trace(recorder_file("placement.pt")).ok());
}

TEST(Trace, CountsTakeNoMoreThanTheFileIsWorth) {
  // 300 KB of ids that ask for 600 MB of counts.
  ExpertTrace trace{"", 300000, 256, 1, std::vector<int16_t>(300000, 7)};
  const auto refused = counts_of_trace(trace);
  ASSERT_FALSE(refused.ok());
  EXPECT_NE(refused.error().message.find("300000 layers of 256 experts"), std::string::npos);
  trace.num_layers = 3000;
  EXPECT_EQ(counts_of_trace(trace)->num_steps, 1);
}

}  // namespace
}  // namespace plimsoll
