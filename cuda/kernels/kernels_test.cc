// What the kernels' launches say without a GPU: the memory they ask for, and what they refuse.
#include <gtest/gtest.h>

#include "cuda/kernels/attention.h"
#include "cuda/kernels/hyper_connection.h"
#include "cuda/kernels/indexer.h"
#include "cuda/kernels/norm.h"

namespace plimsoll::gpu {
namespace {

template <typename T>
T* somewhere() {  // an address that a refused launch does not read
  return reinterpret_cast<T*>(4096);
}

TEST(Attention, TakesWorkspaceOnlyWhereAListHasSeveralParts) {
  EXPECT_EQ(attention_workspace_bytes(100, 64, 640), 0u);
  EXPECT_EQ(attention_workspace_bytes(100, 64, kKeysOfPart), 0u);
  const size_t row = kHeadDim * sizeof(float) + sizeof(float2);
  EXPECT_EQ(attention_workspace_bytes(3, 64, kKeysOfPart + 1), 3 * 64 * 2 * row);
  EXPECT_EQ(attention_workspace_bytes(1, 128, 3 * kKeysOfPart), 128 * 3 * row);
}

TEST(Attention, RefusesWhatDoesNotFit) {
  AttentionInput in;
  in.heads = 64;
  in.max_keys = 640;
  in.key_stride = 640;
  const AttentionOutput plain{{}, somewhere<float>()};
  EXPECT_EQ(attention(in, plain, nullptr, nullptr), cudaSuccess);  // no tokens: nothing to do
  EXPECT_EQ(attention(in, {}, nullptr, nullptr), cudaErrorInvalidValue);  // o goes nowhere
  AttentionInput off = in;
  off.heads = 96;
  EXPECT_EQ(attention(off, plain, nullptr, nullptr), cudaErrorInvalidValue);
  off = in;
  off.max_keys = 641;  // beyond its row of the list
  EXPECT_EQ(attention(off, plain, nullptr, nullptr), cudaErrorInvalidValue);
  off.max_keys = off.key_stride = 2048;  // two parts and no workspace
  EXPECT_EQ(attention(off, plain, nullptr, nullptr), cudaErrorInvalidValue);
  const AttentionOutput other_rows{{OperandType::kBfloat16, 1, 64 * 512, somewhere<void>()}};
  EXPECT_EQ(attention(in, other_rows, nullptr, nullptr), cudaErrorInvalidValue);
}

TEST(HyperConnection, HasTwentyFiveSumsOfEachSliceOf512) {
  EXPECT_EQ(collapse_workspace_bytes(10, 4096), size_t{32} * 10 * 25 * sizeof(float));
  EXPECT_EQ(collapse_workspace_bytes(1, 128), size_t{1} * 25 * sizeof(float));
}

TEST(HyperConnection, RefusesWhatDoesNotFit) {
  HyperConnection site;
  const auto run = [&](int hidden, const Operand& operand) {
    site.hidden = hidden;
    return collapse(site, nullptr, 0, {nullptr, operand}, nullptr, nullptr);
  };
  EXPECT_EQ(run(4096, {}), cudaSuccess);
  EXPECT_EQ(run(4000, {}), cudaErrorInvalidValue);
  EXPECT_EQ(run(8320, {}), cudaErrorInvalidValue);
  EXPECT_EQ(run(4096, {OperandType::kBfloat16, 0, 512, somewhere<void>()}), cudaErrorInvalidValue);
}

TEST(Indexer, RefusesWhatDoesNotFit) {
  IndexerInput in;
  in.key_rows = 64;
  in.page_stride = 1;
  in.max_entries = 64;
  in.top_k = 512;
  EXPECT_EQ(index_scores(in, nullptr, nullptr), cudaSuccess);
  EXPECT_EQ(select_top(in, nullptr, {}, nullptr), cudaSuccess);
  in.max_entries = 65;  // more than its pages hold
  EXPECT_EQ(index_scores(in, nullptr, nullptr), cudaErrorInvalidValue);
  in.top_k = 4096;
  EXPECT_EQ(select_top(in, nullptr, {}, nullptr), cudaErrorInvalidValue);
}

TEST(Norm, RefusesWhatDoesNotFit) {
  Heads heads;
  heads.heads = 64;
  heads.dim = 512;
  heads.rotation = somewhere<float2>();
  EXPECT_EQ(norm_and_rotate({}, heads, nullptr), cudaSuccess);
  heads.rows = somewhere<int32_t>();  // places are for keys, which have one head
  EXPECT_EQ(norm_and_rotate({}, heads, nullptr), cudaErrorInvalidValue);
  heads.heads = 1;
  heads.dim = 256;
  EXPECT_EQ(norm_and_rotate({}, heads, nullptr), cudaErrorInvalidValue);
  EXPECT_EQ(rms_norm({}, nullptr, {OperandType::kBfloat16, 0, 100}, nullptr),
            cudaErrorInvalidValue);
}

}  // namespace
}  // namespace plimsoll::gpu
