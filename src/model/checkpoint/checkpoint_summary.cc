#include "model/checkpoint/checkpoint_summary.h"

#include <set>
#include <string>
#include <utility>

#include "model/checkpoint/layer_shape.h"

namespace plimsoll {
namespace {

// Hands out one tensor after the other; names get the prefix in force.
struct TensorList {
  const std::function<void(const ExpectedTensor&)>& visit;
  std::string prefix = "";

  void add(const std::string& name, std::vector<int64_t> shape, int64_t id_limit = 0) {
    visit({prefix + name, std::move(shape), id_limit});
  }
};

void add_mix(TensorList& list, const ModelConfig& config, const std::string& name) {
  const int64_t n = config.hc_mult;
  const bool is_head = name == "hc_head";
  const int64_t num_mixes = is_head ? n : (2 + n) * n;
  list.add(name + "_fn", {num_mixes, n * config.hidden_size});
  list.add(name + "_scale", {is_head ? 1 : 3});
  list.add(name + "_base", {num_mixes});
}

void add_compressor(TensorList& list,
                    const ModelConfig& config,
                    const CompressorShape& shape,
                    const std::string& name) {
  list.add(name + ".wkv.weight", {shape.kv_dim(), config.hidden_size});
  list.add(name + ".wgate.weight", {shape.kv_dim(), config.hidden_size});
  list.add(name + ".ape", {shape.ratio, shape.kv_dim()});
  list.add(name + ".norm.weight", {shape.dim});
}

void add_attention(TensorList& list, const ModelConfig& config, const LayerShape& shape) {
  const int64_t dim = config.hidden_size;
  const int64_t heads_dim = int64_t{config.num_attention_heads} * config.head_dim;
  const int64_t output_rank = int64_t{config.o_groups} * config.o_lora_rank;
  list.add("attn_norm.weight", {dim});
  list.add("attn.wq_a.weight", {config.q_lora_rank, dim});
  list.add("attn.q_norm.weight", {config.q_lora_rank});
  list.add("attn.wq_b.weight", {heads_dim, config.q_lora_rank});
  list.add("attn.wkv.weight", {config.head_dim, dim});
  list.add("attn.kv_norm.weight", {config.head_dim});
  list.add("attn.attn_sink", {config.num_attention_heads});
  list.add("attn.wo_a.weight", {output_rank, heads_dim / config.o_groups});
  list.add("attn.wo_b.weight", {dim, output_rank});
  if (shape.has_compressor) add_compressor(list, config, shape.compressor, "attn.compressor");
  if (shape.has_indexer) {
    add_compressor(list, config, shape.indexer, "attn.indexer.compressor");
    list.add("attn.indexer.wq_b.weight",
             {int64_t{config.index_n_heads} * config.index_head_dim, config.q_lora_rank});
    list.add("attn.indexer.weights_proj.weight", {config.index_n_heads, dim});
  }
}

void add_expert(TensorList& list, const ModelConfig& config, const std::string& name) {
  list.add(name + ".w1.weight", {config.moe_intermediate_size, config.hidden_size});
  list.add(name + ".w3.weight", {config.moe_intermediate_size, config.hidden_size});
  list.add(name + ".w2.weight", {config.hidden_size, config.moe_intermediate_size});
}

void add_moe(TensorList& list, const ModelConfig& config, bool is_hash_layer) {
  list.add("ffn_norm.weight", {config.hidden_size});
  list.add("ffn.gate.weight", {config.n_routed_experts, config.hidden_size});
  if (is_hash_layer) {
    list.add("ffn.gate.tid2eid", {config.vocab_size, config.num_experts_per_tok},
             config.n_routed_experts);
  } else {
    list.add("ffn.gate.bias", {config.n_routed_experts});
  }
  for (int e = 0; e < config.n_routed_experts; ++e) {
    add_expert(list, config, "ffn.experts." + std::to_string(e));
  }
  add_expert(list, config, "ffn.shared_experts");
}

int64_t num_elements(const std::vector<int64_t>& shape) {
  int64_t product = 1;
  for (int64_t size : shape) product *= size;
  return product;
}

Status check(const Checkpoint& checkpoint, const ExpectedTensor& tensor) {
  if (tensor.id_limit == 0) return checkpoint.check(tensor.name, tensor.shape);
  const auto ids = checkpoint.load_ids(tensor.name, tensor.shape, tensor.id_limit);
  if (!ids.ok()) return ids.error();
  return ok_status();
}

}  // namespace

void for_each_tensor(const ModelConfig& config,
                     const std::function<void(const ExpectedTensor&)>& visit) {
  TensorList list{visit};
  list.add("embed.weight", {config.vocab_size, config.hidden_size});
  for (int l = 0; l < config.num_hidden_layers; ++l) {
    list.prefix = "layers." + std::to_string(l) + ".";
    add_mix(list, config, "hc_attn");
    add_attention(list, config, layer_shape(config, l));
    add_mix(list, config, "hc_ffn");
    add_moe(list, config, config.is_hash_layer(l));
  }
  list.prefix = "";
  add_mix(list, config, "hc_head");
  list.add("norm.weight", {config.hidden_size});
  list.add("head.weight", {config.vocab_size, config.hidden_size});
}

CheckpointSummary summarize(const Checkpoint& checkpoint) {
  CheckpointSummary summary;
  std::set<std::string> used;
  for_each_tensor(checkpoint.config(), [&](const ExpectedTensor& tensor) {
    const Status status = check(checkpoint, tensor);
    if (!status.ok()) {
      if (++summary.num_problems <= CheckpointSummary::kMaxProblems)
        summary.problems.push_back(status.error().message);
    } else if (tensor.id_limit == 0) {
      summary.num_parameters += num_elements(tensor.shape);
    }
    if (checkpoint.tensors().find(tensor.name) != nullptr) {
      used.insert({tensor.name, scale_name(tensor.name)});
    }
  });
  for (const auto& [name, tensor] : checkpoint.tensors().tensors()) {
    CheckpointSummary::Total& total = summary.by_dtype[std::string(dtype_name(tensor.dtype))];
    ++total.num_tensors;
    total.num_bytes += static_cast<int64_t>(tensor.bytes.size());
    if (!used.contains(name)) summary.unused.push_back(name);
  }
  return summary;
}

}  // namespace plimsoll
