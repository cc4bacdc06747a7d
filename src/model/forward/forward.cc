#include "model/forward/forward.h"

#include <algorithm>
#include <string>

#include "model/forward/attention.h"
#include "model/forward/gate.h"
#include "model/forward/hyper_connection.h"
#include "model/forward/rope.h"
#include "model/forward/workspace.h"

namespace plimsoll {
namespace {

Status check_tokens(std::span<const Segment> segments, int vocab_size) {
  for (const Segment& segment : segments) {
    for (int32_t token : segment.tokens) {
      if (token >= 0 && token < vocab_size) continue;
      return invalid_argument("token id " + std::to_string(token) +
                              " is outside the vocabulary, expected 0 to " +
                              std::to_string(vocab_size - 1));
    }
  }
  return ok_status();
}

void place_segments(ForwardWorkspace& workspace, std::span<const Segment> segments) {
  workspace.segments.clear();
  workspace.tokens.clear();
  for (const Segment& segment : segments) {
    if (segment.tokens.empty()) continue;
    workspace.segments.push_back({segment.state, static_cast<int>(workspace.tokens.size()),
                                  static_cast<int>(segment.tokens.size()),
                                  segment.state->num_tokens});
    workspace.tokens.insert(workspace.tokens.end(), segment.tokens.begin(), segment.tokens.end());
  }
  workspace.num_tokens = static_cast<int>(workspace.tokens.size());
}

// Every residual stream starts as the token's embedding.
void embed(ForwardWorkspace& workspace) {
  const int dim = workspace.config.hidden_size;
  const int n = workspace.config.hc_mult;
  float* stream = workspace.streams.at_least(workspace.num_tokens * n, dim);
  for (int32_t token : workspace.tokens) {
    copy_row(workspace.kernels, workspace.weights.embedding, token, stream);
    for (int j = 1; j < n; ++j) std::copy_n(stream, dim, stream + j * dim);
    stream += n * dim;
  }
}

void compute_rotations(ForwardWorkspace& workspace) {
  const int width = workspace.config.qk_rope_head_dim;
  float* main = workspace.main_rotation.at_least(workspace.num_tokens, width);
  float* compress = workspace.compress_rotation.at_least(workspace.num_tokens, width);
  for (const StepSegment& segment : workspace.segments) {
    const int64_t origin = position_origin(*segment.state);
    for (int t = 0; t < segment.num_tokens; ++t) {
      const int64_t position = std::max<int64_t>(segment.start + t - origin, 0);
      rotation_at(workspace.main_frequencies, position, main);
      rotation_at(workspace.compress_frequencies, position, compress);
      main += width;
      compress += width;
    }
  }
}

// The input of a block: the streams collapsed and normed, to the workspace's rows.
void enter_block(ForwardWorkspace& workspace,
                 const HyperConnectionWeights& mix,
                 const std::vector<float>& norm) {
  const int num_tokens = workspace.num_tokens;
  float* rows = workspace.rows.at_least(num_tokens, workspace.config.hidden_size);
  collapse_streams(workspace, mix, workspace.streams.data(), num_tokens, rows);
  norm_rows(workspace, rows, workspace.config.hidden_size, num_tokens, workspace.config.hidden_size,
            norm.data());
}

}  // namespace

RankForward::RankForward(const ModelWeights& weights, const Kernels& kernels)
    : workspace_(std::make_unique<ForwardWorkspace>(weights, kernels)) {
  workspace_->main_frequencies = main_frequencies(weights.config);
  workspace_->compress_frequencies = compress_frequencies(weights.config);
}
RankForward::~RankForward() = default;
RankForward::RankForward(RankForward&&) noexcept = default;

Status RankForward::begin(std::span<const Segment> segments) {
  ForwardWorkspace& workspace = *workspace_;
  const ModelConfig& config = workspace.config;
  if (Status status = check_tokens(segments, config.vocab_size); !status) return status;
  place_segments(workspace, segments);
  embed(workspace);
  compute_rotations(workspace);
  const size_t choices = workspace.tokens.size() * static_cast<size_t>(config.num_experts_per_tok);
  workspace.topk_ids.resize(choices);
  workspace.topk_weights.resize(choices);
  return ok_status();
}

void RankForward::attention(int layer_idx) {
  const LayerWeights& layer = workspace_->weights.layers[static_cast<size_t>(layer_idx)];
  enter_block(*workspace_, layer.attention_mix, layer.attention.norm);
  attend(*workspace_, layer_idx);
  expand_streams(*workspace_, workspace_->block_output.data());
}

GateResult RankForward::gate(int layer_idx) {
  const LayerWeights& layer = workspace_->weights.layers[static_cast<size_t>(layer_idx)];
  enter_block(*workspace_, layer.moe_mix, layer.moe_norm);
  choose_experts(*workspace_, layer_idx);
  return {workspace_->num_tokens, workspace_->rows.data(), workspace_->topk_ids.data(),
          workspace_->topk_weights.data()};
}

void RankForward::finish_moe(int, const float* moe_out) {
  expand_streams(*workspace_, moe_out);
}

void RankForward::logits(std::span<const int32_t> rows, float* out) {
  ForwardWorkspace& workspace = *workspace_;
  const ModelConfig& config = workspace.config;
  const int num_rows = static_cast<int>(rows.size());
  const int width = config.hc_mult * config.hidden_size;
  float* streams = workspace.head_streams.at_least(num_rows, width);
  for (int i = 0; i < num_rows; ++i) {
    std::copy_n(workspace.streams.data() + ptrdiff_t{rows[static_cast<size_t>(i)]} * width, width,
                streams + ptrdiff_t{i} * width);
  }
  float* collapsed = workspace.head_rows.at_least(num_rows, config.hidden_size);
  collapse_streams(workspace, workspace.weights.head_mix, streams, num_rows, collapsed);
  norm_rows(workspace, collapsed, config.hidden_size, num_rows, config.hidden_size,
            workspace.weights.norm.data());
  multiply(workspace.kernels, collapsed, config.hidden_size, num_rows, workspace.weights.head, out,
           config.vocab_size);
}

void RankForward::end() {
  for (const StepSegment& segment : workspace_->segments) {
    segment.state->num_tokens += segment.num_tokens;
  }
  workspace_->segments.clear();
  workspace_->num_tokens = 0;
}

}  // namespace plimsoll
