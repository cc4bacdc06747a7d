// DeepSeek-V4's lightning indexer on Hopper: which compressed entries each query attends to.
//
//   score[i] = sum over 64 heads h of w[h] · max(0, q[h] · k_i), over the entries that are visible
//   selected = the best top_k of them in ascending order of index, equals as the CPU engine chooses
//              them (model/kernels/top_scores.h)
//
// q and keys are bf16 operands of the tensor cores, the rest float32. A score is one chain over the
// 128 channels, then one over the heads: its bits follow from the query and the key alone.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace plimsoll::gpu {

constexpr int kIndexHeads = 64;
constexpr int kIndexDim = 128;
constexpr int kPageEntries = 64;

struct IndexerInput {
  int tokens = 0;
  const __nv_bfloat16* q = nullptr;     // [tokens, 64, 128]; 16-byte aligned
  const float* weights = nullptr;       // [tokens, 64], scaled
  const __nv_bfloat16* keys = nullptr;  // [key_rows, 128]; 16-byte aligned
  int64_t key_rows = 0;
  // [tokens, page_stride]: the row of `keys` where each 64 entries of the token's sequence begin.
  const int32_t* pages = nullptr;
  int64_t page_stride = 0;
  const int32_t* visible = nullptr;  // [tokens], at most max_entries
  // [tokens], visible to max_entries: over how many entries the choice among equals goes, the
  // invisible ones with a score of -infinity.
  const int32_t* row_lengths = nullptr;
  int max_entries = 0;
  int top_k = 0;  // at most 2,048
};

struct Selection {
  int32_t* entries = nullptr;  // [tokens, top_k]
  int32_t* count = nullptr;    // [tokens]: the lesser of top_k and visible
};

// [tokens, max_entries] scores, then what the choice among equals works in. 16-byte aligned.
size_t indexer_workspace_bytes(int tokens, int max_entries);

// Scores come to lie at the beginning of the workspace. cudaErrorInvalidValue where sizes do not
// fit. Can be captured.
cudaError_t index_scores(const IndexerInput& in, void* workspace, cudaStream_t stream);

// From the workspace's scores. Where equals straddle the border, one thread replays the CPU's
// steps, which costs milliseconds on a row of ten thousand.
cudaError_t select_top(const IndexerInput& in,
                       void* workspace,
                       const Selection& to,
                       cudaStream_t stream);

// index_scores by plain sums in float64.
cudaError_t index_scores_reference(const IndexerInput& in, void* workspace, cudaStream_t stream);

}  // namespace plimsoll::gpu
