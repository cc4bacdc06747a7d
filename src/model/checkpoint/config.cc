#include "model/checkpoint/config.h"

#include <algorithm>
#include <filesystem>

#include "model/checkpoint/config_spelling.h"
#include "model/checkpoint/mapped_file.h"
#include "model/checkpoint/quantised.h"
#include "record/formats/json_text.h"

namespace plimsoll {
namespace {

using nlohmann::json;

// Reads keys one after the other and keeps the first complaint.
class KeyReader {
 public:
  explicit KeyReader(const json& object) : object_(object) {}

  const std::string& complaint() const { return complaint_; }

  template <typename Integer>
  void integer(const char* key, Integer& value, int64_t min, int64_t max) {
    const json* found = find(key);
    if (found == nullptr) return;
    const bool fits = found->is_number_integer() && found->get<int64_t>() >= min &&
                      found->get<int64_t>() <= max &&
                      (!found->is_number_unsigned() || found->get<uint64_t>() <= INT64_MAX);
    if (!fits) {
      return complain(key, *found,
                      "an integer from " + std::to_string(min) + " to " + std::to_string(max));
    }
    value = static_cast<Integer>(found->get<int64_t>());
  }

  void number(const char* key, float& value) {
    const json* found = find(key);
    if (found == nullptr) return;
    const float number = found->is_number() ? found->get<float>() : 0;
    if (!(number > 0) || !(number < 1e30f)) return complain(key, *found, "a positive number");
    value = number;
  }

  void must_be(const char* key, const json& expected) {
    const json* found = find(key);
    if (found != nullptr && *found != expected) complain(key, *found, excerpt(expected));
  }

  void may_only_be(const char* key, const json& expected) {
    if (object_.contains(key)) must_be(key, expected);
  }

  const json* find(const char* key) {
    const auto found = object_.find(key);
    if (found != object_.end()) return &*found;
    if (complaint_.empty()) complaint_ = std::string("key ") + key + " is missing";
    return nullptr;
  }

  void complain(const char* key, const json& found, const std::string& expected) {
    if (!complaint_.empty()) return;
    complaint_ = std::string("key ") + key + " is " + excerpt(found) + ", expected " + expected;
  }

 private:
  const json& object_;
  std::string complaint_;
};

// What the forward pass is written for; a checkpoint that says otherwise would be computed wrongly.
void check_architecture(KeyReader& read) {
  read.must_be("model_type", "deepseek_v4");
  read.must_be("scoring_func", "sqrtsoftplus");
  read.must_be("n_shared_experts", 1);
  read.may_only_be("num_key_value_heads", 1);
  read.may_only_be("norm_topk_prob", true);
  read.may_only_be("topk_method", "noaux_tc");
  read.may_only_be("hidden_act", "silu");
  read.may_only_be("attention_bias", false);
  read.may_only_be("tie_word_embeddings", false);
}

void check_quantization(KeyReader& read, const json& object) {
  const json& quantization = member(object, "quantization_config");
  if (quantization.is_null()) return;
  KeyReader keys(quantization);
  keys.may_only_be("quant_method", "fp8");
  keys.may_only_be("fmt", "e4m3");
  keys.may_only_be("weight_block_size", json::array({kFp8BlockSize, kFp8BlockSize}));
  if (!keys.complaint().empty()) {
    read.complain("quantization_config", quantization, "FP8 in blocks (" + keys.complaint() + ")");
  }
}

void read_sizes(KeyReader& read, ModelConfig& config) {
  read.integer("vocab_size", config.vocab_size, 1, 1 << 22);
  read.integer("hidden_size", config.hidden_size, 1, 1 << 17);
  read.integer("moe_intermediate_size", config.moe_intermediate_size, 1, 1 << 17);
  read.integer("num_hidden_layers", config.num_hidden_layers, 1, 1024);
  read.integer("num_attention_heads", config.num_attention_heads, 1, 4096);
  read.integer("head_dim", config.head_dim, 2, 8192);
  read.integer("qk_rope_head_dim", config.qk_rope_head_dim, 2, 8192);
  read.integer("q_lora_rank", config.q_lora_rank, 1, 1 << 17);
  read.integer("o_groups", config.o_groups, 1, 4096);
  read.integer("o_lora_rank", config.o_lora_rank, 1, 1 << 17);
  read.integer("n_routed_experts", config.n_routed_experts, 1, 4096);
  read.integer("num_experts_per_tok", config.num_experts_per_tok, 1, 64);
  read.integer("num_hash_layers", config.num_hash_layers, 0, 1024);
  read.integer("hc_mult", config.hc_mult, 1, 16);
  read.integer("hc_sinkhorn_iters", config.hc_sinkhorn_iters, 1, 1000);
  read.integer("sliding_window", config.sliding_window, 1, 1 << 16);
  read.integer("index_n_heads", config.index_n_heads, 1, 4096);
  read.integer("index_head_dim", config.index_head_dim, 2, 8192);
  read.integer("index_topk", config.index_topk, 1, 1 << 24);
  read.integer("max_position_embeddings", config.max_position_embeddings, 1, int64_t{1} << 32);
  read.integer("bos_token_id", config.bos_token_id, 0, 1 << 22);
}

void read_numbers(KeyReader& read, ModelConfig& config) {
  read.number("routed_scaling_factor", config.routed_scaling_factor);
  read.number("swiglu_limit", config.swiglu_limit);
  read.number("hc_eps", config.hc_eps);
  read.number("rms_norm_eps", config.rms_norm_eps);
  read.number("rope_theta", config.rope_theta);
  read.number("compress_rope_theta", config.compress_rope_theta);
}

void read_compress_ratios(KeyReader& read, ModelConfig& config) {
  const json* ratios = read.find("compress_ratios");
  if (ratios == nullptr) return;
  const auto is_ratio = [](const json& ratio) {
    return ratio.is_number_integer() && ratio.get<int64_t>() >= 0 &&
           ratio.get<int64_t>() <= (1 << 20);
  };
  bool fits = ratios->is_array() && ratios->size() <= 4096 &&
              ratios->size() >= static_cast<size_t>(config.num_hidden_layers);
  for (const json& ratio : fits ? *ratios : json::array()) fits = fits && is_ratio(ratio);
  if (!fits) return read.complain("compress_ratios", *ratios, "an integer for every layer");
  for (const json& ratio : *ratios) config.compress_ratios.push_back(ratio.get<int>());
}

// One id, or several that all end an answer. Those that are there already stay.
void read_eos_tokens(KeyReader& read, std::vector<int32_t>& ids) {
  const json* found = read.find("eos_token_id");
  if (found == nullptr) return;
  const json list = found->is_array() ? *found : json::array({*found});
  for (const json& id : list) {
    const bool fits = id.is_number_integer() && id >= 0 && id <= (1 << 22);
    if (!fits) return read.complain("eos_token_id", *found, "a token id, or a list of them");
    const auto token = id.get<int32_t>();
    if (std::ranges::find(ids, token) == ids.end()) ids.push_back(token);
  }
  if (ids.empty()) read.complain("eos_token_id", *found, "at least one token id");
}

// A file that is not there says nothing.
Status read_generation_config(const std::string& path, ModelConfig& config) {
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) return ok_status();
  const Result<MappedFile> file = MappedFile::open(path);
  if (!file.ok()) return file.error();
  const Result<json> parsed = parse_json(file->text());
  if (!parsed.ok()) return Error{parsed.error().code, path + " " + parsed.error().message};
  if (member(*parsed, "eos_token_id").is_null()) return ok_status();
  KeyReader read(*parsed);
  read_eos_tokens(read, config.eos_token_ids);
  if (std::ranges::any_of(config.eos_token_ids,
                          [&](int32_t id) { return id >= config.vocab_size; })) {
    read.complain("eos_token_id", (*parsed)["eos_token_id"], "ids below vocab_size");
  }
  if (read.complaint().empty()) return ok_status();
  return invalid_argument(path + ": " + read.complaint());
}

void read_rope_scaling(KeyReader& read, const json& object, ModelConfig& config) {
  const json& found = member(object, "rope_scaling");
  if (found.is_null()) return;
  KeyReader scaling(found);
  scaling.must_be(found.contains("rope_type") ? "rope_type" : "type", "yarn");
  YarnScaling yarn;
  scaling.number("factor", yarn.factor);
  scaling.integer("original_max_position_embeddings", yarn.original_max_position_embeddings, 1,
                  int64_t{1} << 32);
  scaling.number("beta_fast", yarn.beta_fast);
  scaling.number("beta_slow", yarn.beta_slow);
  if (!scaling.complaint().empty()) {
    return read.complain("rope_scaling", found, "YaRN parameters (" + scaling.complaint() + ")");
  }
  config.rope_scaling = yarn;
}

// What no single key can tell.
std::string inconsistency(const ModelConfig& config) {
  if (config.qk_rope_head_dim % 2 != 0 || config.qk_rope_head_dim > config.head_dim ||
      config.qk_rope_head_dim > config.index_head_dim) {
    return "qk_rope_head_dim must be even and at most head_dim and index_head_dim";
  }
  if (config.num_attention_heads % config.o_groups != 0) {
    return "num_attention_heads must be a multiple of o_groups";
  }
  if (config.num_experts_per_tok > config.n_routed_experts) {
    return "num_experts_per_tok must not exceed n_routed_experts";
  }
  if (std::ranges::max(config.eos_token_ids) >= config.vocab_size ||
      config.bos_token_id >= config.vocab_size) {
    return "bos_token_id and eos_token_id must be below vocab_size";
  }
  return "";
}

}  // namespace

Result<ModelConfig> parse_config(std::string_view text) {
  Result<json> parsed = parse_json(text);
  if (!parsed.ok()) return Error{parsed.error().code, "config.json " + parsed.error().message};
  if (!parsed->is_object()) return corrupt_file("config.json is not a JSON object");
  if (Status status = add_official_keys(*parsed); !status.ok()) return status.error();
  const json& object = *parsed;
  KeyReader read(object);
  check_architecture(read);
  check_quantization(read, object);
  ModelConfig config;
  config.model_type = "deepseek_v4";
  read_sizes(read, config);
  read_numbers(read, config);
  read_compress_ratios(read, config);
  read_rope_scaling(read, object, config);
  read_eos_tokens(read, config.eos_token_ids);
  std::string complaint = read.complaint();
  if (complaint.empty()) complaint = inconsistency(config);
  if (!complaint.empty()) return invalid_argument("config.json: " + complaint);
  return config;
}

Result<ModelConfig> load_config(const std::string& model_dir) {
  const std::string path = model_dir + "/config.json";
  const Result<MappedFile> file = MappedFile::open(path);
  if (!file.ok()) {
    return io_error(file.error().message +
                    "; expected a model folder with config.json, "
                    "model.safetensors (or its index and shards) and tokenizer.json");
  }
  Result<ModelConfig> config = parse_config(file->text());
  if (!config.ok()) return Error{config.error().code, model_dir + "/" + config.error().message};
  if (Status status = read_generation_config(model_dir + "/generation_config.json", *config);
      !status.ok()) {
    return status.error();
  }
  return config;
}

}  // namespace plimsoll
