// A DeepSeek-V4 checkpoint's config.json, with the official keys or transformers' (see
// config_spelling.h), and the tokens that end an answer.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "plimsoll/result.h"

namespace plimsoll {

// rope_scaling of type yarn.
struct YarnScaling {
  float factor = 1;
  int64_t original_max_position_embeddings = 0;
  float beta_fast = 32;
  float beta_slow = 1;
};

// Members are named as the keys of config.json.
struct ModelConfig {
  std::string model_type;
  int vocab_size = 0;
  int hidden_size = 0;
  int moe_intermediate_size = 0;
  int num_hidden_layers = 0;
  int num_attention_heads = 0;
  int head_dim = 0;
  int qk_rope_head_dim = 0;
  int q_lora_rank = 0;
  int o_groups = 0;
  int o_lora_rank = 0;
  int n_routed_experts = 0;
  int num_experts_per_tok = 0;
  int num_hash_layers = 0;
  float routed_scaling_factor = 1;
  float swiglu_limit = 0;
  int hc_mult = 0;
  int hc_sinkhorn_iters = 0;
  float hc_eps = 0;
  float rms_norm_eps = 0;
  float rope_theta = 0;
  float compress_rope_theta = 0;
  std::optional<YarnScaling> rope_scaling;
  int sliding_window = 0;
  std::vector<int> compress_ratios;  // of layer i; may be longer than num_hidden_layers (MTP)
  int index_n_heads = 0;
  int index_head_dim = 0;
  int index_topk = 0;
  int64_t max_position_embeddings = 0;
  int32_t bos_token_id = 0;
  std::vector<int32_t> eos_token_ids;  // each ends an answer; one or a list in the file

  bool is_hash_layer(int layer_idx) const { return layer_idx < num_hash_layers; }
};

// Fails on JSON that is none, a missing key, a value out of range, or values that do not fit
// together; the message names the key, what was found and what was expected.
Result<ModelConfig> parse_config(std::string_view text);
// The folder's; the eos_token_id of its generation_config.json, where there is one, count too.
Result<ModelConfig> load_config(const std::string& model_dir);

}  // namespace plimsoll
