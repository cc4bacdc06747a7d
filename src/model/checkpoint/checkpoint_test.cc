#include "model/checkpoint/checkpoint.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "model/checkpoint/checkpoint_summary.h"
#include "model/checkpoint/quantised.h"

namespace plimsoll {
namespace {

const std::string kSource = PLIMSOLL_SOURCE_DIR;

// A folder of its own, gone at the end of the test.
class CheckpointTest : public testing::Test {
 protected:
  CheckpointTest() {
    const auto* test = testing::UnitTest::GetInstance()->current_test_info();
    folder_ = std::filesystem::temp_directory_path() /
              (std::string("plimsoll_") + test->name() + std::to_string(getpid()));
    std::filesystem::create_directories(folder_);
    std::filesystem::copy(kSource + "/testdata/tiny-v4/config.json", folder_,
                          std::filesystem::copy_options::overwrite_existing);
  }
  ~CheckpointTest() override { std::filesystem::remove_all(folder_); }

  void write_tensors(const std::string& header, const std::string& data) {
    const uint64_t length = header.size();
    std::ofstream file(folder_ / "model.safetensors", std::ios::binary);
    file.write(reinterpret_cast<const char*>(&length), sizeof length);
    file << header << data;
  }

  std::filesystem::path folder_;
};

TEST(Quantised, DecodesTheCornersOfEveryFormat) {
  EXPECT_EQ(decode_e4m3(0x7E), 448);
  EXPECT_EQ(decode_e4m3(0x01), std::ldexp(1.0f, -9));
  EXPECT_EQ(decode_e4m3(0x08), std::ldexp(1.0f, -6));
  EXPECT_EQ(decode_e4m3(0xB8), -1);
  EXPECT_TRUE(std::isnan(decode_e4m3(0x7F)));
  EXPECT_EQ(decode_e8m0(127), 1);
  EXPECT_EQ(decode_e8m0(0), std::ldexp(1.0f, -127));
  EXPECT_TRUE(std::isnan(decode_e8m0(0xFF)));
  EXPECT_EQ(decode_e2m1(7), 6);
  EXPECT_EQ(decode_e2m1(0xF9), -0.5f);
  EXPECT_EQ(decode_bf16(0x3F80), 1);
}

TEST(Quantised, BlocksAreRaggedAtTheEdges) {
  constexpr int64_t kRows = 130, kColumns = 129;
  std::vector<std::byte> ones(kRows * kColumns, std::byte{0x38});
  const std::vector<float> scales = {1, 2, 3, 4};
  const std::vector<float> decoded = decode_fp8_blocks(ones, scales, kRows, kColumns);
  EXPECT_EQ(decoded[0], 1);
  EXPECT_EQ(decoded[128], 2);
  EXPECT_EQ(decoded[128 * kColumns], 3);
  EXPECT_EQ(decoded[129 * kColumns + 128], 4);
}

TEST(Quantised, Fp4HoldsTheFirstValueInTheLowHalf) {
  std::vector<std::byte> packed(32, std::byte{0x21});
  const std::vector<float> scales = {1, 4};
  const std::vector<float> decoded = decode_fp4_blocks(packed, scales, 1, 64);
  EXPECT_EQ(decoded[0], .5f);
  EXPECT_EQ(decoded[1], 1);
  EXPECT_EQ(decoded[32], 2);
  EXPECT_EQ(decoded[63], 4);
}

TEST(Checkpoint, OpensTheDemoModel) {
  const auto checkpoint = Checkpoint::open(kSource + "/demo/model");
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message;
  EXPECT_EQ(checkpoint->config().n_routed_experts, 64);
  EXPECT_EQ(checkpoint->config().compress_ratios, (std::vector<int>{0, 4, 128, 4, 128, 4}));
  for (const auto& [name, rows, columns] : {std::tuple{"layers.1.attn.wkv.weight", 64, 256},
                                            {"layers.1.ffn.experts.0.w2.weight", 256, 64},
                                            {"head.weight", 4096, 256}}) {
    const auto values = checkpoint->load(name, std::vector<int64_t>{rows, columns});
    ASSERT_TRUE(values.ok()) << values.error().message;
    double sum_of_squares = 0;
    for (float value : *values) sum_of_squares += double{value} * value;
    const double rms = std::sqrt(sum_of_squares / static_cast<double>(values->size()));
    EXPECT_GT(rms, 1e-3) << name;
    EXPECT_LT(rms, 1) << name;
  }
  EXPECT_TRUE(
      checkpoint->load_ids("layers.0.ffn.gate.tid2eid", std::vector<int64_t>{4096, 6}, 64).ok());
}

TEST(Checkpoint, OpensTheTinyModelWithYarn) {
  const auto checkpoint = Checkpoint::open(kSource + "/testdata/tiny-v4");
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message;
  ASSERT_TRUE(checkpoint->config().rope_scaling.has_value());
  EXPECT_EQ(checkpoint->config().rope_scaling->factor, 16);
}

TEST(Checkpoint, NamesMissingAndMisshapenTensors) {
  const auto checkpoint = Checkpoint::open(kSource + "/testdata/tiny-v4");
  EXPECT_EQ(checkpoint->load("layers.9.norm", std::vector<int64_t>{32}).error().message,
            "the checkpoint has no tensor layers.9.norm; expected one of shape [32]");
  EXPECT_EQ(checkpoint->load("norm.weight", std::vector<int64_t>{33}).error().message,
            "tensor norm.weight is F32 [32], expected shape [33]");
}

TEST(Checkpoint, SummaryFindsAllThatTheModelNeeds) {
  const auto demo = Checkpoint::open(kSource + "/demo/model");
  const CheckpointSummary summary = summarize(*demo);
  EXPECT_EQ(summary.problems, std::vector<std::string>());
  EXPECT_EQ(summary.unused, std::vector<std::string>());
  EXPECT_GT(summary.num_parameters, 23'000'000);
  EXPECT_LT(summary.num_parameters, 24'000'000);
  EXPECT_EQ(summary.by_dtype.at("I8").num_tensors, 6 * 64 * 3);
  EXPECT_EQ(summary.by_dtype.at("I8").num_bytes, 6 * 64 * 3 * 64 * 256 / 2);

  const auto tiny = Checkpoint::open(kSource + "/testdata/tiny-v4");
  EXPECT_EQ(summarize(*tiny).problems, std::vector<std::string>());
  EXPECT_EQ(summarize(*tiny).unused, std::vector<std::string>());
}

TEST_F(CheckpointTest, SummaryNamesWhatIsMissingMisshapenOrUnused) {
  write_tensors(R"({"mtp.0.norm":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
                R"("embed.weight":{"dtype":"F32","shape":[1],"data_offsets":[4,8]},)"
                R"("layers.0.ffn_norm.weight":{"dtype":"I8","shape":[8],"data_offsets":[8,16]}})",
                std::string(16, 'x'));
  const auto checkpoint = Checkpoint::open(folder_);
  const CheckpointSummary summary = summarize(*checkpoint);
  EXPECT_EQ(summary.unused, std::vector<std::string>{"mtp.0.norm"});
  int64_t num_tensors = 0;
  for_each_tensor(checkpoint->config(), [&](const ExpectedTensor&) { ++num_tensors; });
  EXPECT_EQ(summary.num_problems, num_tensors);
  EXPECT_EQ(static_cast<int>(summary.problems.size()), CheckpointSummary::kMaxProblems);
  const auto holds = [&](const char* problem) {
    return std::ranges::find(summary.problems, problem) != summary.problems.end();
  };
  EXPECT_TRUE(holds("tensor embed.weight is F32 [1], expected shape [96, 32]"));
  EXPECT_TRUE(
      holds("the checkpoint has no tensor layers.0.hc_attn_scale; expected one of shape [3]"));
  EXPECT_TRUE(holds("tensor layers.0.ffn_norm.weight is quantised, but not a matrix"));
}

TEST_F(CheckpointTest, QuantisedTensorsNeedTheirScales) {
  write_tensors(R"({"a.weight":{"dtype":"F8_E4M3","shape":[2,2],"data_offsets":[0,4]}})", "1234");
  const std::vector<int64_t> shape = {2, 2};
  EXPECT_EQ(Checkpoint::open(folder_)->check("a.weight", shape).error().message,
            "the checkpoint has no tensor a.scale; expected one of shape [1, 1]");
  write_tensors(R"({"a.weight":{"dtype":"F8_E4M3","shape":[2,2],"data_offsets":[0,4]},)"
                R"("a.scale":{"dtype":"F8_E8M0","shape":[1,1],"data_offsets":[4,5]}})",
                std::string("\x38\x38\x38\x38\x80", 5));
  EXPECT_EQ(*Checkpoint::open(folder_)->load("a.weight", shape), std::vector<float>(4, 2));
  write_tensors(R"({"a.weight":{"dtype":"F8_E4M3","shape":[2,2],"data_offsets":[0,4]},)"
                R"("a.scale":{"dtype":"F8_E8M0","shape":[1,1],"data_offsets":[4,5]}})",
                std::string("\x38\x38\x38\x38\xFF", 5));
  EXPECT_NE(Checkpoint::open(folder_)->load("a.weight", shape).error().message.find("not finite"),
            std::string::npos);
}

TEST_F(CheckpointTest, RefusesValuesThatAreNotFinite) {
  write_tensors(R"({"a":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}})",
                std::string("\x80\x3f\x80\x7f", 4));
  const auto checkpoint = Checkpoint::open(folder_);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message;
  const auto values = checkpoint->load("a", std::vector<int64_t>{2});
  ASSERT_FALSE(values.ok());
  EXPECT_NE(values.error().message.find("not finite, at element 1"), std::string::npos);
}

TEST_F(CheckpointTest, RefusesHostileHeaders) {
  const std::string data(16, 'x');
  const std::pair<const char*, const char*> cases[] = {
      {R"([])", "not a JSON object"},
      {R"({"a":)", "not JSON: bad syntax at byte 6"},
      {R"({"a":{"dtype":"F33","shape":[4],"data_offsets":[0,16]}})", "unknown dtype"},
      {R"({"a":{"dtype":"F32","shape":[4],"data_offsets":[0,17]}})", "data_offsets"},
      {R"({"a":{"dtype":"F32","shape":[4],"data_offsets":[8,0]}})", "data_offsets"},
      {R"({"a":{"dtype":"F32","shape":[4],"data_offsets":[-4,12]}})", "data_offsets"},
      {R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,16]}})", "needs 12"},
      {R"({"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,16]}})",
       "more than the file holds"},
      {R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,16]}})", "more than the file holds"},
      {R"({"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},)"
       R"("a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}})",
       "twice"},
      {R"({"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},)"
       R"("b":{"dtype":"F32","shape":[1],"data_offsets":[12,16]}})",
       "overlap"},
  };
  for (const auto& [header, complaint] : cases) {
    write_tensors(header, data);
    const auto checkpoint = Checkpoint::open(folder_);
    ASSERT_FALSE(checkpoint.ok()) << header;
    EXPECT_NE(checkpoint.error().message.find(complaint), std::string::npos)
        << header << " said: " << checkpoint.error().message;
  }
}

TEST_F(CheckpointTest, RefusesTruncatedFiles) {
  std::ofstream(folder_ / "model.safetensors") << "abc";
  EXPECT_NE(Checkpoint::open(folder_).error().message.find("too few"), std::string::npos);
  std::ofstream(folder_ / "model.safetensors") << std::string(7, '\xff') + "\x7f{}";
  EXPECT_NE(Checkpoint::open(folder_).error().message.find("truncated"), std::string::npos);
  std::ofstream(folder_ / "model.safetensors").flush();
  EXPECT_FALSE(Checkpoint::open(folder_).ok());
}

TEST_F(CheckpointTest, IndexListsOnlyWhatItsShardsHold) {
  write_tensors(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", "1234");
  std::ofstream(folder_ / "model.safetensors.index.json")
      << R"({"weight_map":{"a":"model.safetensors","b":"model.safetensors"}})";
  EXPECT_NE(Checkpoint::open(folder_).error().message.find("lists tensor b, which no shard holds"),
            std::string::npos);
}

TEST_F(CheckpointTest, IndexCannotLeaveItsFolder) {
  std::ofstream(folder_ / "model.safetensors.index.json")
      << R"({"weight_map":{"a":"../../etc/passwd"}})";
  EXPECT_NE(Checkpoint::open(folder_).error().message.find("no file beside the index"),
            std::string::npos);
}

}  // namespace
}  // namespace plimsoll
