#include "model/forward/indexer.h"

#include <algorithm>
#include <limits>

#include "model/kernels/top_scores.h"

namespace plimsoll {

void append_indexer_key(const float* key,
                        int dim,
                        int64_t entry_idx,
                        AlignedVector<float>& key_panels) {
  const size_t panel_size = static_cast<size_t>(dim) * kPanelLanes;
  const size_t panel = static_cast<size_t>(entry_idx / kPanelLanes) * panel_size;
  if (key_panels.size() < panel + panel_size) key_panels.resize(panel + panel_size, 0.0f);
  float* lane = key_panels.data() + panel + entry_idx % kPanelLanes;
  for (int d = 0; d < dim; ++d) lane[d * kPanelLanes] = key[d];
}

namespace {

// scores [num_visible] of the token's queries.
float* score_entries(ForwardWorkspace& workspace,
                     int row,
                     const AlignedVector<float>& key_panels,
                     int num_visible) {
  const ModelConfig& config = workspace.config;
  const Kernels& kernels = workspace.kernels;
  AttentionBuffers& buffers = workspace.attention;
  const int dim = config.index_head_dim;
  const int num_heads = config.index_n_heads;
  const int stride = round_up(num_visible, kPanelLanes);
  GemmArgs args;
  args.x = buffers.indexer_query.data() + ptrdiff_t{row} * num_heads * dim;
  args.x_row_stride = dim;
  args.num_rows = num_heads;
  args.w.f32 = key_panels.data();
  args.w.panel_stride = ptrdiff_t{dim} * kPanelLanes;
  args.w.num_outputs = num_visible;
  args.w.num_inputs = dim;
  args.y = buffers.dots.at_least(num_heads, stride);
  args.y_row_stride = stride;
  kernels.gemm(args);
  float* scores = buffers.scores.at_least(num_visible, 1);
  kernels.indexer_scores(args.y, stride, buffers.indexer_weight.data() + ptrdiff_t{row} * num_heads,
                         num_heads, num_visible, scores);
  return scores;
}

}  // namespace

std::span<const int32_t> select_entries(ForwardWorkspace& workspace,
                                        int row,
                                        const AlignedVector<float>& key_panels,
                                        int num_visible,
                                        int row_length) {
  AttentionBuffers& buffers = workspace.attention;
  const float* scores = score_entries(workspace, row, key_panels, num_visible);
  const int k = workspace.config.index_topk;
  buffers.select_scratch.resize(static_cast<size_t>(num_visible));
  buffers.selected.resize(static_cast<size_t>(k));
  if (!workspace.kernels.select_top(scores, num_visible, k, buffers.select_scratch.data(),
                                    buffers.selected.data())) {
    buffers.scored_row.clear();
    for (int i = 0; i < row_length; ++i) {
      buffers.scored_row.push_back(
          {i < num_visible ? scores[i] : -std::numeric_limits<float>::infinity(), i});
    }
    select_best(buffers.scored_row, k);
    for (size_t i = 0; i < buffers.selected.size(); ++i) {
      buffers.selected[i] = buffers.scored_row[i].index;
    }
    std::sort(buffers.selected.begin(), buffers.selected.end());
  }
  return buffers.selected;
}

}  // namespace plimsoll
