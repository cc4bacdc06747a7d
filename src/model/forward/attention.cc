#include "model/forward/attention.h"

#include <algorithm>

#include "model/forward/attention_projections.h"
#include "model/forward/attention_tile.h"
#include "model/forward/indexer.h"

namespace plimsoll {
namespace {

// Runs the segment's tokens through a compressor; `file` takes each entry it closes.
template <typename File>
void compress_tokens(const AttentionLayer& layer,
                     const StepSegment& segment,
                     const CompressorShape& shape,
                     const CompressorWeights& weights,
                     Buffer& kv,
                     Buffer& score,
                     CompressorState& state,
                     File file) {
  ForwardWorkspace& workspace = layer.workspace;
  AttentionBuffers& buffers = workspace.attention;
  const Compressor compressor{workspace.kernels, shape, weights, workspace.compress_frequencies,
                              workspace.config.rms_norm_eps};
  float* entry = buffers.entry.at_least(1, shape.dim);
  for (int t = 0; t < segment.num_tokens; ++t) {
    const int64_t position = segment.start + t;
    const ptrdiff_t at = ptrdiff_t{segment.first_row + t} * shape.kv_dim();
    remember_token(compressor, position, kv.data() + at, score.data() + at, state);
    if ((position + 1) % shape.ratio != 0) continue;
    const int64_t entry_idx = position / shape.ratio;
    compute_entry(compressor, entry_idx, state, buffers.compressor_scratch, entry);
    file(entry, entry_idx);
  }
}

void compress_segment(const AttentionLayer& layer, const StepSegment& segment, LayerState& state) {
  AttentionBuffers& buffers = layer.workspace.attention;
  const LayerShape& shape = layer.shape;
  if (shape.has_compressor) {
    compress_tokens(layer, segment, shape.compressor, layer.weights.compressor,
                    buffers.compressor_kv, buffers.compressor_score, state.compressor,
                    [&](const float* entry, int64_t entry_idx) {
                      const size_t stride = static_cast<size_t>(shape.row_stride);
                      const size_t at = static_cast<size_t>(entry_idx) * stride;
                      state.compressor.entries.resize(at + stride, 0.0f);
                      std::copy_n(entry, shape.head_dim, state.compressor.entries.data() + at);
                    });
  }
  if (shape.has_indexer) {
    compress_tokens(layer, segment, shape.indexer, layer.weights.indexer.compressor,
                    buffers.indexer_kv, buffers.indexer_score, state.indexer,
                    [&](const float* key, int64_t entry_idx) {
                      append_indexer_key(key, shape.indexer.dim, entry_idx, state.indexer.entries);
                    });
  }
}

// The entries that the query at `position`, the step's token `row`, attends to, copied side by
// side.
KeyRun gather_entries(const AttentionLayer& layer,
                      const SequenceState& sequence,
                      int64_t position,
                      int row) {
  const LayerShape& shape = layer.shape;
  const LayerState& state = sequence.layers[static_cast<size_t>(layer.layer_idx)];
  const size_t stride = static_cast<size_t>(shape.row_stride);
  const int num_visible = visible_entries(shape.indexer, position, position_origin(sequence));
  const int64_t length = std::max(position + 1, sequence.prompt_tokens) / shape.indexer.ratio;
  const auto selected = select_entries(layer.workspace, row, state.indexer.entries, num_visible,
                                       static_cast<int>(length));
  float* gathered = layer.workspace.attention.gathered.at_least(selected.size() * stride);
  for (size_t i = 0; i < selected.size(); ++i) {
    std::copy_n(state.compressor.entries.data() + static_cast<size_t>(selected[i]) * stride, stride,
                gathered + i * stride);
  }
  return {gathered, static_cast<int>(selected.size())};
}

// The keys of positions `first` to `end` - 1: those before the segment lie in the state's ring,
// which may wrap around once, the others among the step's own.
std::array<KeyRun, 3> window_runs(const AttentionLayer& layer,
                                  const StepSegment& segment,
                                  const LayerState& state,
                                  int64_t first,
                                  int64_t end) {
  const LayerShape& shape = layer.shape;
  const int64_t stride = shape.row_stride;
  const int64_t slot = first % shape.window;
  const int64_t num_old = std::max<int64_t>(segment.start - first, 0);
  const int64_t num_before_wrap = std::min(num_old, shape.window - slot);
  const float* own = layer.workspace.attention.kv.data() + segment.first_row * stride;
  const int64_t first_own = std::max(first, segment.start);
  return {{{state.window.data() + slot * stride, static_cast<int>(num_before_wrap)},
           {state.window.data(), static_cast<int>(num_old - num_before_wrap)},
           {own + (first_own - segment.start) * stride, static_cast<int>(end - first_own)}}};
}

// The tile of the segment's tokens from token t on: one that must select, or as many as fit that
// need not.
AttentionTile make_tile(const AttentionLayer& layer, const StepSegment& segment, int t) {
  const LayerShape& shape = layer.shape;
  const SequenceState& sequence = *segment.state;
  const LayerState& state = sequence.layers[static_cast<size_t>(layer.layer_idx)];
  AttentionTile tile;
  tile.first_row = segment.first_row + t;
  tile.num_queries = 1;
  tile.position = segment.start + t;
  tile.padding = sequence.padding_tokens;
  tile.origin = position_origin(sequence);
  tile.selected = must_select(layer, sequence, tile.position);
  const int most = std::min(queries_per_tile(layer.workspace.config.num_attention_heads),
                            segment.num_tokens - t);
  while (!tile.selected && tile.num_queries < most &&
         !must_select(layer, sequence, tile.position + tile.num_queries)) {
    ++tile.num_queries;
  }
  const int64_t end = tile.position + tile.num_queries;
  tile.window_start = std::max<int64_t>(tile.position - (shape.window - 1), 0);
  tile.window = window_runs(layer, segment, state, tile.window_start, end);
  if (tile.selected) {
    tile.entries = gather_entries(layer, sequence, tile.position, tile.first_row);
  } else if (shape.has_compressor) {
    tile.entries = {state.compressor.entries.data(),
                    visible_entries(shape.compressor, end - 1, tile.origin)};
  }
  return tile;
}

// Files the segment's keys in the ring, now that nobody needs those they replace.
void remember_keys(const AttentionLayer& layer, const StepSegment& segment, LayerState& state) {
  const int64_t stride = layer.shape.row_stride;
  const float* own = layer.workspace.attention.kv.data() + segment.first_row * stride;
  for (int t = std::max(segment.num_tokens - layer.shape.window, 0); t < segment.num_tokens; ++t) {
    const int64_t slot = (segment.start + t) % layer.shape.window;
    std::copy_n(own + t * stride, layer.shape.head_dim, state.window.data() + slot * stride);
  }
}

void attend_segment(const AttentionLayer& layer, const StepSegment& segment) {
  LayerState& state = segment.state->layers[static_cast<size_t>(layer.layer_idx)];
  compress_segment(layer, segment, state);
  for (int t = 0; t < segment.num_tokens;) {
    const AttentionTile tile = make_tile(layer, segment, t);
    attend_tile(layer.workspace, layer.shape, layer.weights.sink, tile);
    t += tile.num_queries;
  }
  remember_keys(layer, segment, state);
  state.num_tokens = segment.start + segment.num_tokens;
}

}  // namespace

void attend(ForwardWorkspace& workspace, int layer_idx) {
  const AttentionLayer layer = attention_layer(workspace, layer_idx);
  project_inputs(layer);
  workspace.attention.output.at_least(
      workspace.num_tokens, workspace.config.num_attention_heads * workspace.config.head_dim);
  for (const StepSegment& segment : workspace.segments) attend_segment(layer, segment);
  project_outputs(layer);
}

}  // namespace plimsoll
