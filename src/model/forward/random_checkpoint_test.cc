// A checkpoint of random weights for any config.json.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "model/checkpoint/config.h"
#include "model/checkpoint/layer_shape.h"
#include "model/forward/forward_test_support.h"

namespace plimsoll::testing {
namespace {

struct Writer {
  nlohmann::json header = nlohmann::json::object();
  std::string bytes;
  uint64_t state;

  // Uniform in [-1, 1): splitmix64.
  double random() {
    uint64_t z = state += 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return static_cast<double>((z ^ (z >> 31)) >> 11) * 0x1p-52 - 1.0;
  }

  template <typename T, typename Value>
  void add(const std::string& name, const char* dtype, std::vector<int64_t> shape, Value value) {
    int64_t count = 1;
    for (int64_t extent : shape) count *= extent;
    const size_t begin = bytes.size();
    for (int64_t i = 0; i < count; ++i) {
      const T v = static_cast<T>(value());
      bytes.append(reinterpret_cast<const char*>(&v), sizeof v);
    }
    header[name] = {{"dtype", dtype}, {"shape", shape}, {"data_offsets", {begin, bytes.size()}}};
  }

  void floats(const std::string& name, std::vector<int64_t> shape, double centre, double spread) {
    add<float>(name, "F32", std::move(shape), [&] { return centre + spread * random(); });
  }
  // Keeps the length of what it is applied to.
  void linear(const std::string& name, int64_t outputs, int64_t inputs) {
    floats(name + ".weight", {outputs, inputs}, 0, std::sqrt(3.0 / static_cast<double>(inputs)));
  }
  void norm(const std::string& name, int64_t dim) { floats(name + ".weight", {dim}, 1, 0.3); }
  void mix(const std::string& name, int64_t rows, int64_t scales, int64_t inputs) {
    floats(name + "_fn", {rows, inputs}, 0, std::sqrt(3.0 / static_cast<double>(inputs)));
    floats(name + "_scale", {scales}, 0.6, 0.3);
    floats(name + "_base", {rows}, 0, 1);
  }
  void compressor(const std::string& name, const CompressorShape& shape, int64_t dim) {
    linear(name + ".wkv", shape.kv_dim(), dim);
    linear(name + ".wgate", shape.kv_dim(), dim);
    floats(name + ".ape", {shape.ratio, shape.kv_dim()}, 0, 1);
    norm(name + ".norm", shape.dim);
  }
  void expert(const std::string& name, int64_t dim, int64_t hidden) {
    linear(name + ".w1", hidden, dim);
    linear(name + ".w3", hidden, dim);
    linear(name + ".w2", dim, hidden);
  }
};

void add_attention(Writer& writer,
                   const ModelConfig& config,
                   int layer_idx,
                   const std::string& name) {
  const int64_t dim = config.hidden_size;
  const int64_t heads_dim = config.num_attention_heads * config.head_dim;
  const LayerShape shape = layer_shape(config, layer_idx);
  writer.linear(name + "wq_a", config.q_lora_rank, dim);
  writer.norm(name + "q_norm", config.q_lora_rank);
  writer.linear(name + "wq_b", heads_dim, config.q_lora_rank);
  writer.linear(name + "wkv", config.head_dim, dim);
  writer.norm(name + "kv_norm", config.head_dim);
  writer.floats(name + "attn_sink", {config.num_attention_heads}, 0, 1);
  writer.linear(name + "wo_a", config.o_groups * config.o_lora_rank, heads_dim / config.o_groups);
  writer.linear(name + "wo_b", dim, config.o_groups * config.o_lora_rank);
  if (shape.has_compressor) writer.compressor(name + "compressor", shape.compressor, dim);
  if (shape.has_indexer) {
    writer.compressor(name + "indexer.compressor", shape.indexer, dim);
    writer.linear(name + "indexer.wq_b", config.index_n_heads * config.index_head_dim,
                  config.q_lora_rank);
    writer.linear(name + "indexer.weights_proj", config.index_n_heads, dim);
  }
}

void add_layer(Writer& writer, const ModelConfig& config, int layer_idx) {
  const std::string name = "layers." + std::to_string(layer_idx) + ".";
  const int64_t dim = config.hidden_size;
  const int64_t n = config.hc_mult;
  writer.mix(name + "hc_attn", (2 + n) * n, 3, n * dim);
  writer.mix(name + "hc_ffn", (2 + n) * n, 3, n * dim);
  writer.norm(name + "attn_norm", dim);
  writer.norm(name + "ffn_norm", dim);
  add_attention(writer, config, layer_idx, name + "attn.");
  writer.linear(name + "ffn.gate", config.n_routed_experts, dim);
  if (config.is_hash_layer(layer_idx)) {
    writer.add<int64_t>(name + "ffn.gate.tid2eid", "I64",
                        {config.vocab_size, config.num_experts_per_tok},
                        [&, next = 0]() mutable { return next++ % config.n_routed_experts; });
  } else {
    writer.floats(name + "ffn.gate.bias", {config.n_routed_experts}, 0, 0.2);
  }
  for (int e = 0; e < config.n_routed_experts; ++e) {
    writer.expert(name + "ffn.experts." + std::to_string(e), dim, config.moe_intermediate_size);
  }
  writer.expert(name + "ffn.shared_experts", dim, config.moe_intermediate_size);
}

}  // namespace

std::string write_random_checkpoint(const std::string& config_json, uint64_t seed) {
  const auto config = parse_config(config_json);
  EXPECT_TRUE(config.ok()) << config.error().message;
  Writer writer{.state = seed};
  writer.floats("embed.weight", {config->vocab_size, config->hidden_size}, 0, 1);
  for (int l = 0; l < config->num_hidden_layers; ++l) add_layer(writer, *config, l);
  writer.mix("hc_head", config->hc_mult, 1, config->hc_mult * config->hidden_size);
  writer.norm("norm", config->hidden_size);
  writer.linear("head", config->vocab_size, config->hidden_size);

  const std::string folder = ::testing::TempDir() + "plimsoll_random_" + std::to_string(getpid()) +
                             "_" + std::to_string(seed);
  std::filesystem::create_directories(folder);
  const std::string header = writer.header.dump();
  const uint64_t size = header.size();
  std::ofstream file(folder + "/model.safetensors", std::ios::binary);
  file.write(reinterpret_cast<const char*>(&size), sizeof size);
  file << header << writer.bytes;
  std::ofstream(folder + "/config.json") << config_json;
  return folder;
}

std::string odd_config() {
  return R"({
    "model_type": "deepseek_v4", "vocab_size": 77, "hidden_size": 45, "moe_intermediate_size": 21,
    "num_hidden_layers": 5, "num_attention_heads": 6, "head_dim": 22, "qk_rope_head_dim": 6,
    "q_lora_rank": 19, "o_groups": 3, "o_lora_rank": 7, "n_routed_experts": 11,
    "n_shared_experts": 1, "num_experts_per_tok": 3, "num_hash_layers": 2,
    "scoring_func": "sqrtsoftplus", "routed_scaling_factor": 2.5, "swiglu_limit": 0.4,
    "hc_mult": 3, "hc_sinkhorn_iters": 7, "hc_eps": 1e-5, "rms_norm_eps": 1e-5,
    "rope_theta": 500, "compress_rope_theta": 3000, "sliding_window": 13,
    "rope_scaling": {"type": "yarn", "factor": 8, "original_max_position_embeddings": 32,
                     "beta_fast": 4, "beta_slow": 1},
    "compress_ratios": [0, 4, 10, 4, 3], "index_n_heads": 3, "index_head_dim": 10,
    "index_topk": 9, "max_position_embeddings": 4096, "bos_token_id": 0, "eos_token_id": 1})";
}

}  // namespace plimsoll::testing
