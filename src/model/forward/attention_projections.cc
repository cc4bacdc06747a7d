#include "model/forward/attention_projections.h"

#include <algorithm>

namespace plimsoll {
namespace {

// Turns the last dimensions of x [tokens, rows_per_token, stride] by each token's position.
void rotate_rows(
    const AttentionLayer& layer, float* x, int stride, int rows_per_token, int dim, bool inverse) {
  const int width = layer.workspace.config.qk_rope_head_dim;
  for (int t = 0; t < layer.workspace.num_tokens; ++t) {
    layer.workspace.kernels.rotate(x + ptrdiff_t{t} * rows_per_token * stride + dim - width, stride,
                                   rows_per_token, layer.rotation + ptrdiff_t{t} * width, width / 2,
                                   inverse);
  }
}

// The workspace's rows times a matrix, `stride` floats a row.
float* project(const AttentionLayer& layer, const PackedMatrix& matrix, Buffer& out, int stride) {
  ForwardWorkspace& workspace = layer.workspace;
  float* y = out.at_least(workspace.num_tokens, stride);
  multiply(workspace.kernels, workspace.rows.data(), workspace.config.hidden_size,
           workspace.num_tokens, matrix, y, stride);
  return y;
}

void project_query(const AttentionLayer& layer) {
  ForwardWorkspace& workspace = layer.workspace;
  const ModelConfig& config = workspace.config;
  AttentionBuffers& buffers = workspace.attention;
  const int num_tokens = workspace.num_tokens;
  const int rank = config.q_lora_rank;
  const int heads = config.num_attention_heads;
  float* latent = project(layer, layer.weights.query_down, buffers.query_latent, rank);
  norm_rows(workspace, latent, rank, num_tokens, rank, layer.weights.query_norm.data());
  float* query = buffers.query.at_least(num_tokens, heads * config.head_dim);
  multiply(workspace.kernels, latent, rank, num_tokens, layer.weights.query_up, query,
           heads * config.head_dim);
  norm_rows(workspace, query, config.head_dim, num_tokens * heads, config.head_dim, nullptr);
  rotate_rows(layer, query, config.head_dim, heads, config.head_dim, false);
}

void project_kv(const AttentionLayer& layer) {
  ForwardWorkspace& workspace = layer.workspace;
  const LayerShape& shape = layer.shape;
  float* kv = project(layer, layer.weights.kv, workspace.attention.kv, shape.row_stride);
  norm_rows(workspace, kv, shape.row_stride, workspace.num_tokens, shape.head_dim,
            layer.weights.kv_norm.data());
  rotate_rows(layer, kv, shape.row_stride, 1, shape.head_dim, false);
}

void project_for_compression(const AttentionLayer& layer) {
  AttentionBuffers& buffers = layer.workspace.attention;
  const LayerShape& shape = layer.shape;
  if (shape.has_compressor) {
    const CompressorWeights& weights = layer.weights.compressor;
    project(layer, weights.kv, buffers.compressor_kv, shape.compressor.kv_dim());
    project(layer, weights.gate, buffers.compressor_score, shape.compressor.kv_dim());
  }
  if (shape.has_indexer) {
    const CompressorWeights& weights = layer.weights.indexer.compressor;
    project(layer, weights.kv, buffers.indexer_kv, shape.indexer.kv_dim());
    project(layer, weights.gate, buffers.indexer_score, shape.indexer.kv_dim());
  }
}

void project_indexer_queries(const AttentionLayer& layer) {
  ForwardWorkspace& workspace = layer.workspace;
  const ModelConfig& config = workspace.config;
  AttentionBuffers& buffers = workspace.attention;
  const bool needed = std::ranges::any_of(workspace.segments, [&](const StepSegment& s) {
    return must_select(layer, *s.state, s.start + s.num_tokens - 1);
  });
  if (!needed) return;
  const PackedMatrix& matrix = layer.weights.indexer.query;
  float* query = buffers.indexer_query.at_least(workspace.num_tokens, matrix.num_outputs);
  multiply(workspace.kernels, buffers.query_latent.data(), config.q_lora_rank, workspace.num_tokens,
           matrix, query, matrix.num_outputs);
  rotate_rows(layer, query, config.index_head_dim, config.index_n_heads, config.index_head_dim,
              false);
  project(layer, layer.weights.indexer.head_weights, buffers.indexer_weight, config.index_n_heads);
}

}  // namespace

AttentionLayer attention_layer(ForwardWorkspace& workspace, int layer_idx) {
  const LayerShape shape = layer_shape(workspace.config, layer_idx);
  Buffer& rotation = shape.has_compressor ? workspace.compress_rotation : workspace.main_rotation;
  return {workspace, workspace.weights.layers[static_cast<size_t>(layer_idx)].attention, shape,
          layer_idx, rotation.data()};
}

bool must_select(const AttentionLayer& layer, const SequenceState& sequence, int64_t position) {
  return layer.shape.has_indexer &&
         visible_entries(layer.shape.indexer, position, position_origin(sequence)) >
             layer.workspace.config.index_topk;
}

void project_inputs(const AttentionLayer& layer) {
  project_query(layer);
  project_kv(layer);
  project_for_compression(layer);
  project_indexer_queries(layer);
}

void project_outputs(const AttentionLayer& layer) {
  ForwardWorkspace& workspace = layer.workspace;
  const ModelConfig& config = workspace.config;
  AttentionBuffers& buffers = workspace.attention;
  const int num_tokens = workspace.num_tokens;
  const int heads_dim = config.num_attention_heads * config.head_dim;
  const int latent_dim = config.o_groups * config.o_lora_rank;
  rotate_rows(layer, buffers.output.data(), config.head_dim, config.num_attention_heads,
              config.head_dim, true);
  float* latent = buffers.output_latent.at_least(num_tokens, latent_dim);
  for (int g = 0; g < config.o_groups; ++g) {
    multiply(workspace.kernels, buffers.output.data() + g * (heads_dim / config.o_groups),
             heads_dim, num_tokens, layer.weights.output_down[static_cast<size_t>(g)],
             latent + g * config.o_lora_rank, latent_dim);
  }
  multiply(workspace.kernels, latent, latent_dim, num_tokens, layer.weights.output_up,
           workspace.block_output.at_least(num_tokens, config.hidden_size), config.hidden_size);
}

}  // namespace plimsoll
