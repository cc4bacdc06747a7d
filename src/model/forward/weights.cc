#include "model/forward/weights.h"

#include <optional>
#include <string>
#include <utility>

#include "model/checkpoint/checkpoint.h"
#include "model/checkpoint/layer_shape.h"

namespace plimsoll {
namespace {

// Loads tensor after tensor under a prefix and keeps the first error; later loads then do nothing.
class Loader {
 public:
  explicit Loader(const Checkpoint& checkpoint) : checkpoint_(checkpoint) {}

  const std::optional<Error>& error() const { return error_; }
  void set_prefix(std::string prefix) { prefix_ = std::move(prefix); }

  std::vector<float> floats(const std::string& name, std::vector<int64_t> shape) {
    if (error_) return {};
    Result<std::vector<float>> loaded = checkpoint_.load(prefix_ + name, shape);
    if (loaded.ok()) return std::move(loaded).value();
    error_ = loaded.error();
    return {};
  }

  PackedMatrix matrix(const std::string& name, int num_outputs, int num_inputs) {
    const std::vector<float> weight = floats(name, {num_outputs, num_inputs});
    return error_ ? PackedMatrix{} : pack_matrix(weight, num_outputs, num_inputs);
  }

  std::vector<int32_t> ids(const std::string& name, std::vector<int64_t> shape, int64_t limit) {
    if (error_) return {};
    Result<std::vector<int32_t>> loaded = checkpoint_.load_ids(prefix_ + name, shape, limit);
    if (loaded.ok()) return std::move(loaded).value();
    error_ = loaded.error();
    return {};
  }

 private:
  const Checkpoint& checkpoint_;
  std::string prefix_;
  std::optional<Error> error_;
};

HyperConnectionWeights load_mix(Loader& load, const ModelConfig& config, const std::string& name) {
  const int n = config.hc_mult;
  const bool head = name == "hc_head";
  const int num_mixes = head ? n : (2 + n) * n;
  HyperConnectionWeights mix;
  mix.mix = load.matrix(name + "_fn", num_mixes, n * config.hidden_size);
  mix.scale = load.floats(name + "_scale", {head ? 1 : 3});
  mix.base = load.floats(name + "_base", {num_mixes});
  return mix;
}

CompressorWeights load_compressor(Loader& load,
                                  const ModelConfig& config,
                                  const CompressorShape& shape,
                                  const std::string& name) {
  CompressorWeights weights;
  weights.kv = load.matrix(name + ".wkv.weight", shape.kv_dim(), config.hidden_size);
  weights.gate = load.matrix(name + ".wgate.weight", shape.kv_dim(), config.hidden_size);
  weights.position_bias = load.floats(name + ".ape", {shape.ratio, shape.kv_dim()});
  weights.norm = load.floats(name + ".norm.weight", {shape.dim});
  return weights;
}

// The grouped projection: group g's rows read group g's heads only.
std::vector<PackedMatrix> load_output_down(Loader& load, const ModelConfig& config) {
  const int inputs = config.num_attention_heads / config.o_groups * config.head_dim;
  const int rank = config.o_lora_rank;
  const std::vector<float> weight =
      load.floats("attn.wo_a.weight", {int64_t{config.o_groups} * rank, inputs});
  std::vector<PackedMatrix> groups;
  if (load.error()) return groups;
  const size_t group_size = static_cast<size_t>(rank) * static_cast<size_t>(inputs);
  for (int g = 0; g < config.o_groups; ++g) {
    const auto rows = std::span(weight).subspan(static_cast<size_t>(g) * group_size, group_size);
    groups.push_back(pack_matrix(rows, rank, inputs));
  }
  return groups;
}

AttentionWeights load_attention(Loader& load, const ModelConfig& config, const LayerShape& shape) {
  const int dim = config.hidden_size;
  const int heads_dim = config.num_attention_heads * config.head_dim;
  AttentionWeights attention;
  attention.norm = load.floats("attn_norm.weight", {dim});
  attention.query_down = load.matrix("attn.wq_a.weight", config.q_lora_rank, dim);
  attention.query_norm = load.floats("attn.q_norm.weight", {config.q_lora_rank});
  attention.query_up = load.matrix("attn.wq_b.weight", heads_dim, config.q_lora_rank);
  attention.kv = load.matrix("attn.wkv.weight", config.head_dim, dim);
  attention.kv_norm = load.floats("attn.kv_norm.weight", {config.head_dim});
  attention.sink = load.floats("attn.attn_sink", {config.num_attention_heads});
  attention.output_down = load_output_down(load, config);
  attention.output_up = load.matrix("attn.wo_b.weight", dim, config.o_groups * config.o_lora_rank);
  if (shape.has_compressor) {
    attention.compressor = load_compressor(load, config, shape.compressor, "attn.compressor");
  }
  if (shape.has_indexer) {
    attention.indexer.compressor =
        load_compressor(load, config, shape.indexer, "attn.indexer.compressor");
    attention.indexer.query =
        load.matrix("attn.indexer.wq_b.weight", config.index_n_heads * config.index_head_dim,
                    config.q_lora_rank);
    attention.indexer.head_weights =
        load.matrix("attn.indexer.weights_proj.weight", config.index_n_heads, dim);
  }
  return attention;
}

GateWeights load_gate(Loader& load, const ModelConfig& config, bool hash_layer) {
  GateWeights gate;
  gate.weight = load.matrix("ffn.gate.weight", config.n_routed_experts, config.hidden_size);
  if (hash_layer) {
    gate.token_experts =
        load.ids("ffn.gate.tid2eid", {config.vocab_size, config.num_experts_per_tok},
                 config.n_routed_experts);
  } else {
    gate.bias = load.floats("ffn.gate.bias", {config.n_routed_experts});
  }
  return gate;
}

ExpertWeights read_expert(Loader& load, const ModelConfig& config, const std::string& name) {
  const int dim = config.hidden_size;
  const int hidden = config.moe_intermediate_size;
  ExpertWeights expert;
  const std::vector<float> gate = load.floats(name + ".w1.weight", {hidden, dim});
  const std::vector<float> up = load.floats(name + ".w3.weight", {hidden, dim});
  if (!load.error()) expert.gate_up = pack_interleaved(gate, up, hidden, dim);
  expert.down = load.matrix(name + ".w2.weight", dim, hidden);
  return expert;
}

std::string layer_prefix(int layer_idx) {
  return "layers." + std::to_string(layer_idx) + ".";
}

std::string expert_name(int expert) {
  return "ffn.experts." + std::to_string(expert);
}

LayerWeights load_layer(Loader& load,
                        const ModelConfig& config,
                        int layer_idx,
                        const ExpertFilter& wanted) {
  load.set_prefix(layer_prefix(layer_idx));
  LayerWeights layer;
  layer.attention_mix = load_mix(load, config, "hc_attn");
  layer.attention = load_attention(load, config, layer_shape(config, layer_idx));
  layer.moe_mix = load_mix(load, config, "hc_ffn");
  layer.moe_norm = load.floats("ffn_norm.weight", {config.hidden_size});
  layer.gate = load_gate(load, config, config.is_hash_layer(layer_idx));
  layer.experts.resize(config.n_routed_experts);
  for (int e = 0; e < config.n_routed_experts; ++e) {
    if (wanted(layer_idx, e)) layer.experts[e] = read_expert(load, config, expert_name(e));
  }
  layer.shared_expert = read_expert(load, config, "ffn.shared_experts");
  return layer;
}

}  // namespace

Result<ModelWeights> load_weights(const Checkpoint& checkpoint,
                                  const ModelConfig& config,
                                  const ExpertFilter& wanted) {
  ModelWeights weights;
  weights.config = config;
  Loader load(checkpoint);
  const auto embedding = load.floats("embed.weight", {config.vocab_size, config.hidden_size});
  if (!load.error()) weights.embedding = make_row_table(embedding, config.hidden_size);
  for (int l = 0; l < config.num_hidden_layers && !load.error(); ++l) {
    weights.layers.push_back(load_layer(load, config, l, wanted));
  }
  load.set_prefix("");
  weights.head_mix = load_mix(load, config, "hc_head");
  weights.norm = load.floats("norm.weight", {config.hidden_size});
  weights.head = load.matrix("head.weight", config.vocab_size, config.hidden_size);
  if (load.error()) return *load.error();
  return weights;
}

Result<ExpertWeights> load_expert(const Checkpoint& checkpoint,
                                  const ModelConfig& config,
                                  int layer_idx,
                                  int expert) {
  Loader load(checkpoint);
  load.set_prefix(layer_prefix(layer_idx));
  ExpertWeights weights = read_expert(load, config, expert_name(expert));
  if (load.error()) return *load.error();
  return weights;
}

}  // namespace plimsoll
