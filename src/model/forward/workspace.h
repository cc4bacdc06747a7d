// What one rank holds while it computes a step; shared by the parts of the forward pass.
#pragma once

#include <cstdint>
#include <vector>

#include "model/forward/compressor.h"
#include "model/forward/forward.h"
#include "model/forward/weights.h"
#include "model/kernels/aligned_vector.h"
#include "model/kernels/kernels.h"
#include "model/kernels/packed_matrix.h"
#include "model/kernels/top_scores.h"

namespace plimsoll {

// A segment's place in the step: its tokens are the rows from `first_row` on.
struct StepSegment {
  SequenceState* state = nullptr;
  int first_row = 0;
  int num_tokens = 0;
  int64_t start = 0;  // position of the first token
};

// A buffer that only grows; what it held is lost when it does.
class Buffer {
 public:
  float* at_least(size_t floats) {
    if (data_.size() < floats) data_.resize(floats);
    return data_.data();
  }
  float* at_least(int rows, int width) {
    return at_least(static_cast<size_t>(rows) * static_cast<size_t>(width));
  }
  float* data() { return data_.data(); }

 private:
  AlignedVector<float> data_;
};

// Widths of a row in brackets; T rows each unless said otherwise.
struct AttentionBuffers {
  Buffer query_latent;                     // [q_lora_rank]
  Buffer query;                            // [heads, head_dim]
  Buffer kv;                               // [LayerShape::row_stride]
  Buffer compressor_kv, compressor_score;  // [CompressorShape::kv_dim()]
  Buffer indexer_kv, indexer_score;
  Buffer indexer_query;   // [index_n_heads, index_head_dim]
  Buffer indexer_weight;  // [index_n_heads]
  Buffer output;          // [heads, head_dim]
  Buffer output_latent;   // [o_groups, o_lora_rank]
  // Of one segment, one query or one tile.
  Buffer gathered;  // the entries a query attends to, [index_topk, row_stride]
  Buffer dots, scores;
  Buffer query_panel, logits;
  std::vector<uint32_t> select_scratch;
  std::vector<int32_t> selected;
  std::vector<ScoredEntry> scored_row;
  CompressorScratch compressor_scratch;
  Buffer entry;  // one, before it is filed
};

struct ForwardWorkspace {
  ForwardWorkspace(const ModelWeights& w, const Kernels& k)
      : weights(w), config(w.config), kernels(k) {}

  const ModelWeights& weights;
  const ModelConfig& config;
  const Kernels& kernels;
  std::vector<float> main_frequencies, compress_frequencies;

  std::vector<StepSegment> segments;
  std::vector<int32_t> tokens;
  int num_tokens = 0;
  Buffer main_rotation, compress_rotation;  // [2, pairs] at each token's position

  Buffer streams;           // [hc_mult, D]
  Buffer mix, inverse_rms;  // hyper-connections: raw coefficients, norms
  Buffer pre, post, comb;   // their coefficients
  Buffer rows;              // [D], input of attention or experts, normed
  Buffer block_output;      // [D], of attention
  AttentionBuffers attention;
  Buffer gate_scores;               // [E]
  std::vector<int32_t> topk_ids;    // [K]
  std::vector<float> topk_weights;  // [K]
  Buffer head_streams, head_rows;   // of the rows whose logits are wanted
};

// y[rows, y_stride] = x[rows, x_stride] times the matrix.
inline void multiply(const Kernels& kernels,
                     const float* x,
                     int x_stride,
                     int num_rows,
                     const PackedMatrix& matrix,
                     float* y,
                     int y_stride) {
  GemmArgs args;
  args.x = x;
  args.x_row_stride = x_stride;
  args.num_rows = num_rows;
  args.w = panels(matrix);
  args.y = y;
  args.y_row_stride = y_stride;
  kernels.gemm(args);
}

// RMS norm in place of rows `stride` apart; `weight` may be null.
inline void norm_rows(ForwardWorkspace& workspace,
                      float* rows,
                      int stride,
                      int num_rows,
                      int dim,
                      const float* weight) {
  float* inverse_rms = workspace.inverse_rms.at_least(num_rows, 1);
  workspace.kernels.inverse_rms(rows, stride, num_rows, dim, workspace.config.rms_norm_eps,
                                inverse_rms);
  workspace.kernels.scale_rows(rows, stride, num_rows, dim, inverse_rms, weight, rows, stride);
}

}  // namespace plimsoll
