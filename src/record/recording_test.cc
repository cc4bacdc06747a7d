#include "plimsoll/recording.h"

#include <gtest/gtest.h>

#include <numeric>

#include "plimsoll/expert_location.h"
#include "record/formats/test_files.h"
#include "record/recorder.h"

namespace plimsoll {
namespace {

int64_t total(const LoadHistory& history) {
  return std::accumulate(history.counts.begin(), history.counts.end(), int64_t{0});
}

TEST(Recording, ReadsTheStatFilesOfTorch) {
  for (const char* name :
       {"expert_distribution_recorder_1780000000.123.pt",
        "expert_distribution_recorder_1780000001.5_cuda.pt", "legacy_format.pt"}) {
    const Result<Recording> recording = read_recording(recorder_file(name));
    ASSERT_TRUE(recording.ok()) << recording.error().message;
    EXPECT_EQ(recording->mode, RecorderMode::kStat);
    EXPECT_EQ(recording->num_layers, 6);
    EXPECT_EQ(recording->num_logical_experts, 64);
    EXPECT_EQ(recording->passes.size(), 56u) << "the ring buffer's empty slots are dropped";
    EXPECT_FALSE(recording->info.has_value());
    EXPECT_EQ(recording->passes[0].counts[64 + 4], 1827);
    const Result<LoadHistory> history = load_history({&*recording, 1});
    ASSERT_TRUE(history.ok());
    EXPECT_EQ(history->num_steps, 56);
    EXPECT_EQ(total(*history), 4128768);
  }
  const auto cuda =
      read_recording(recorder_file("expert_distribution_recorder_1780000001.5_cuda.pt"));
  EXPECT_EQ(cuda->average_utilization_rate, 0.7312);
}

TEST(Recording, ReadsRecordsByLogicalId) {
  const auto per_pass =
      read_recording(recorder_file("expert_distribution_recorder_1780000003.75_0.pt"));
  const auto per_token =
      read_recording(recorder_file("expert_distribution_recorder_1780000002.25_0.pt"));
  ASSERT_TRUE(per_pass.ok()) << per_pass.error().message;
  ASSERT_TRUE(per_token.ok()) << per_token.error().message;
  EXPECT_EQ(per_pass->mode, RecorderMode::kPerPass);
  EXPECT_EQ(per_token->mode, RecorderMode::kPerToken);
  EXPECT_EQ(per_token->num_logical_experts, 64) << "72 slots hold copies of 64 experts";
  const Result<LoadHistory> history = load_history({&*per_pass, 1});
  ASSERT_TRUE(history.ok());
  EXPECT_EQ(history->num_steps, 3);
  EXPECT_EQ(total(*history), 1440 + 1476 + 1512);
  EXPECT_EQ(history->counts, load_history({&*per_token, 1})->counts);

  const RecordedPass& pass = per_token->passes[1];
  EXPECT_EQ(pass.forward_pass_id, 1);
  EXPECT_EQ(pass.num_tokens, 41);
  EXPECT_EQ(pass.forward_mode, ForwardMode::kExtend);
  EXPECT_EQ(pass.extend_seq_lens, (std::vector<int32_t>{41}));
  EXPECT_EQ(per_token->top_k, 8);
  ASSERT_EQ(pass.topk_ids.size(), 6u * 41 * 8);
  std::vector<int32_t> counts(6 * 64, 0);
  for (size_t i = 0; i < pass.topk_ids.size(); ++i) {
    if (pass.topk_ids[i] >= 0) ++counts[i / (41 * 8) * 64 + pass.topk_ids[i]];
  }
  EXPECT_EQ(counts, pass.counts);
}

TEST(Recording, RefusesWhatIsNone) {
  const Result<Recording> placement = read_recording(recorder_file("placement.pt"));
  ASSERT_FALSE(placement.ok());
  EXPECT_NE(placement.error().message.find("found physical_to_logical_map"), std::string::npos)
      << placement.error().message;
  EXPECT_FALSE(read_recording(recorder_file("no such file.pt")).ok());
  EXPECT_FALSE(read_recording(recorder_file("")).ok());
}

std::vector<Recording> record_two_passes(RecorderMode mode) {
  Recorder recorder(
      {.mode = mode, .num_ranks = 2, .num_layers = 3, .num_logical_experts = 10, .top_k = 2});
  recorder.start(1780000000.25);
  for (int pass = 0; pass < 2; ++pass) {
    for (int r = 0; r < 2; ++r) {
      const std::vector<int32_t> ids = {100000 + pass, 7 + r};
      const std::vector<int32_t> lens = {2};
      recorder.rank(r).begin_pass({ids, ids, pass == 0 ? std::span(lens) : std::span<int>()});
      for (int l = 0; l < 3; ++l) {
        recorder.rank(r).record_layer(l, std::vector<int32_t>{l, 9, -1, pass + 3 * r});
      }
    }
    recorder.end_pass(pass == 0 ? ForwardMode::kExtend : ForwardMode::kDecode,
                      std::vector<int64_t>{3, 3, 3, 3, 6, 0});
  }
  recorder.stop(1780000012.5);
  return recorder.recordings({.model_type = "deepseek_v4",
                              .eplb_algorithm = "plimsoll",
                              .placement = *trivial_placement(3, 10, 2, 4)},
                             0);
}

TEST(Recording, IsReadBackAsWritten) {
  const TemporaryFolder folder;
  for (const RecorderMode mode :
       {RecorderMode::kStat, RecorderMode::kPerPass, RecorderMode::kPerToken}) {
    const std::vector<Recording> written = record_two_passes(mode);
    const auto paths = save_recordings(written, folder / "new", 1780000013.125);
    ASSERT_TRUE(paths.ok()) << paths.error().message;
    ASSERT_EQ(paths->size(), mode == RecorderMode::kStat ? 1u : 2u);
    EXPECT_EQ(paths->back(),
              folder / (mode == RecorderMode::kStat
                            ? "new/expert_distribution_recorder_1780000013.125.pt"
                            : "new/expert_distribution_recorder_1780000013.125_1.pt"));
    std::vector<Recording> read;
    for (const std::string& path : *paths) {
      Result<Recording> recording = read_recording(path);
      ASSERT_TRUE(recording.ok()) << recording.error().message;
      read.push_back(std::move(*recording));
    }
    EXPECT_EQ(load_history(read)->counts, load_history(written)->counts);
    EXPECT_EQ(read.back().mode, mode);
    EXPECT_EQ(read.back().rank, mode == RecorderMode::kStat ? 0 : 1);
    const RecordingInfo& info = read.back().info.value();
    EXPECT_EQ(info.model_type, "deepseek_v4");
    EXPECT_EQ(info.eplb_algorithm, "plimsoll");
    EXPECT_EQ(info.version, written[0].info->version);
    EXPECT_EQ(info.top_k, 2);
    EXPECT_EQ(info.num_tokens, 8);
    EXPECT_EQ(info.start_time, 1780000000.25);
    EXPECT_EQ(info.end_time, 1780000012.5);
    EXPECT_EQ(info.placement.num_ranks, 4);
    EXPECT_EQ(info.placement.num_physical_experts, 12);
    EXPECT_EQ(info.placement.physical_to_logical, written[0].info->placement.physical_to_logical);
    if (mode == RecorderMode::kStat) {
      EXPECT_EQ(read[0].average_utilization_rate, written[0].average_utilization_rate);
    }
    if (mode != RecorderMode::kPerToken) continue;
    const RecordedPass& pass = read[1].passes[1];
    EXPECT_EQ(pass.forward_mode, ForwardMode::kDecode);
    EXPECT_EQ(pass.input_ids, written[1].passes[1].input_ids);
    EXPECT_EQ(pass.positions, written[1].passes[1].positions);
    EXPECT_TRUE(pass.extend_seq_lens.empty());
    EXPECT_EQ(read[1].passes[0].extend_seq_lens, (std::vector<int32_t>{2}));
    EXPECT_EQ(read[1].top_k, 8) << "files leave every token room for 8, as SGLang's do";
    const std::vector<int32_t> first_token(pass.topk_ids.begin(), pass.topk_ids.begin() + 8);
    EXPECT_EQ(first_token, (std::vector<int32_t>{0, 9, -1, -1, -1, -1, -1, -1}));
  }
}

TEST(Recording, AddsUpTheRanksOfOneRunOnly) {
  std::vector<Recording> recordings = record_two_passes(RecorderMode::kPerPass);
  const Result<LoadHistory> history = load_history(recordings);
  ASSERT_TRUE(history.ok());
  EXPECT_EQ(history->num_steps, 2);
  EXPECT_EQ(history->counts, load_history(record_two_passes(RecorderMode::kStat))->counts);
  recordings[1].rank = 0;
  EXPECT_NE(load_history(recordings).error().message.find("rank 0 stands twice"),
            std::string::npos);
  recordings[1].rank = 1;
  recordings[1].num_logical_experts = 5;
  EXPECT_FALSE(load_history(recordings).ok());
  EXPECT_FALSE(load_history({}).ok());
}

}  // namespace
}  // namespace plimsoll
