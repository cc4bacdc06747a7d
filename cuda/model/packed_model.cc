#include "cuda/model/packed_model.h"

#include <array>
#include <cmath>
#include <cstring>
#include <optional>
#include <string>

#include "cuda/model/hyper_connection.h"
#include "model/checkpoint/layer_shape.h"

namespace plimsoll::gpu {
namespace {

constexpr size_t kAlignment = 256;
constexpr double kMib = 1 << 20;

WeightFormat format_of(Dtype dtype) {
  switch (dtype) {
    case Dtype::kBf16:
      return WeightFormat::kBf16;
    case Dtype::kF8E4m3:
      return WeightFormat::kFp8;
    case Dtype::kI8:
      return WeightFormat::kFp4;
    default:
      return WeightFormat::kF32;
  }
}

template <typename Word>
bool any_word(std::span<const std::byte> bytes, Word mask) {
  for (size_t i = 0; i < bytes.size(); i += sizeof(Word)) {
    Word word;
    std::memcpy(&word, bytes.data() + i, sizeof word);
    if ((word & mask) == mask) return true;
  }
  return false;
}

// Whether a value is infinite or none: all bits of its exponent are set, in e4m3 those of the
// mantissa too. e2m1 has none.
bool all_finite(const TensorView& tensor) {
  switch (tensor.dtype) {
    case Dtype::kF32:
      return !any_word<uint32_t>(tensor.bytes, 0x7F800000u);
    case Dtype::kBf16:
      return !any_word<uint16_t>(tensor.bytes, 0x7F80u);
    case Dtype::kF8E4m3:
      return !any_word<uint8_t>(tensor.bytes, 0x7Fu);
    case Dtype::kF8E8m0:
      return !any_word<uint8_t>(tensor.bytes, 0xFFu);
    default:
      return true;
  }
}

// Takes tensor after tensor under a prefix and keeps the first error. The first pass only counts
// bytes, the second copies into the memory that was made for them.
class Packer {
 public:
  Packer(const Checkpoint& checkpoint, Queue& queue, uint8_t* memory)
      : checkpoint_(checkpoint), queue_(queue), memory_(memory) {}

  const std::optional<Error>& error() const { return error_; }
  size_t num_bytes() const { return num_bytes_; }
  void set_prefix(std::string prefix) { prefix_ = std::move(prefix); }

  PackedWeight weight(const std::string& name, int outputs, int inputs) {
    PackedWeight weight{.outputs = outputs, .inputs = inputs};
    if (error_) return weight;
    const auto stored = checkpoint_.locate(prefix_ + name, std::array<int64_t, 2>{outputs, inputs});
    if (!stored.ok()) return fail(stored.error()), weight;
    weight.format = format_of(stored->values->dtype);
    weight.values = place_tensor(name, *stored->values);
    if (stored->scales == nullptr) return weight;
    weight.e8m0_scales = stored->scales->dtype == Dtype::kF8E8m0;
    weight.scales = place_tensor(scale_name(name), *stored->scales);
    return weight;
  }

  const float* floats(const std::string& name, std::vector<int64_t> shape) {
    int64_t size = 1;
    for (int64_t n : shape) size *= n;
    if (error_ || memory_ == nullptr) return reserve_array<float>(size);
    const Result<std::vector<float>> values = checkpoint_.load(prefix_ + name, shape);
    return values.ok() ? place_array(*values) : (fail(values.error()), nullptr);
  }

  const int32_t* ids(const std::string& name, std::vector<int64_t> shape, int64_t limit) {
    if (error_ || memory_ == nullptr) return reserve_array<int32_t>(shape[0] * shape[1]);
    const Result<std::vector<int32_t>> values = checkpoint_.load_ids(prefix_ + name, shape, limit);
    return values.ok() ? place_array(*values) : (fail(values.error()), nullptr);
  }

 private:
  void fail(const Error& error) {
    if (!error_) error_ = error;
  }

  uint8_t* reserve(size_t size) {
    const size_t at = num_bytes_;
    num_bytes_ += (size + kAlignment - 1) / kAlignment * kAlignment;
    return memory_ == nullptr ? nullptr : memory_ + at;
  }

  template <typename T>
  const T* reserve_array(int64_t size) {
    reserve(static_cast<size_t>(size) * sizeof(T));
    return nullptr;
  }

  template <typename T>
  const T* place_array(const std::vector<T>& values) {
    uint8_t* const to = reserve(values.size() * sizeof(T));
    queue_.copy_in(to, values.data(), values.size() * sizeof(T));
    return reinterpret_cast<const T*>(to);
  }

  const uint8_t* place_tensor(const std::string& name, const TensorView& tensor) {
    uint8_t* const to = reserve(tensor.bytes.size());
    if (to == nullptr) return nullptr;
    if (!all_finite(tensor)) {
      fail(corrupt_file("tensor " + prefix_ + name + " holds a value that is not finite"));
      return nullptr;
    }
    queue_.copy_in(to, tensor.bytes.data(), tensor.bytes.size());
    return to;
  }

  const Checkpoint& checkpoint_;
  Queue& queue_;
  uint8_t* memory_;
  size_t num_bytes_ = 0;
  std::string prefix_;
  std::optional<Error> error_;
};

PackedMix pack_mix(Packer& pack, const ModelConfig& config, const std::string& name) {
  const int n = config.hc_mult;
  const bool head = name == "hc_head";
  const int num_mixes = head ? n : (2 + n) * n;
  PackedMix mix;
  mix.mix = pack.weight(name + "_fn", num_mixes, n * config.hidden_size);
  mix.scale = pack.floats(name + "_scale", {head ? 1 : 3});
  mix.base = pack.floats(name + "_base", {num_mixes});
  return mix;
}

PackedCompressor pack_compressor(Packer& pack,
                                 const ModelConfig& config,
                                 const CompressorShape& shape,
                                 const std::string& name) {
  PackedCompressor weights;
  weights.kv = pack.weight(name + ".wkv.weight", shape.kv_dim(), config.hidden_size);
  weights.gate = pack.weight(name + ".wgate.weight", shape.kv_dim(), config.hidden_size);
  weights.position_bias = pack.floats(name + ".ape", {shape.ratio, shape.kv_dim()});
  weights.norm = pack.floats(name + ".norm.weight", {shape.dim});
  return weights;
}

PackedAttention pack_attention(Packer& pack, const ModelConfig& config, const LayerShape& shape) {
  const int dim = config.hidden_size;
  const int heads_dim = config.num_attention_heads * config.head_dim;
  const int group_dim = heads_dim / config.o_groups;
  const int latent_dim = config.o_groups * config.o_lora_rank;
  PackedAttention attention;
  attention.norm = pack.floats("attn_norm.weight", {dim});
  attention.query_down = pack.weight("attn.wq_a.weight", config.q_lora_rank, dim);
  attention.query_norm = pack.floats("attn.q_norm.weight", {config.q_lora_rank});
  attention.query_up = pack.weight("attn.wq_b.weight", heads_dim, config.q_lora_rank);
  attention.kv = pack.weight("attn.wkv.weight", config.head_dim, dim);
  attention.kv_norm = pack.floats("attn.kv_norm.weight", {config.head_dim});
  attention.sink = pack.floats("attn.attn_sink", {config.num_attention_heads});
  attention.output_down = pack.weight("attn.wo_a.weight", latent_dim, group_dim);
  attention.output_up = pack.weight("attn.wo_b.weight", dim, latent_dim);
  if (shape.has_compressor) {
    attention.compressor = pack_compressor(pack, config, shape.compressor, "attn.compressor");
  }
  if (shape.has_indexer) {
    attention.indexer_compressor =
        pack_compressor(pack, config, shape.indexer, "attn.indexer.compressor");
    attention.indexer_query =
        pack.weight("attn.indexer.wq_b.weight", config.index_n_heads * config.index_head_dim,
                    config.q_lora_rank);
    attention.indexer_head_weights =
        pack.weight("attn.indexer.weights_proj.weight", config.index_n_heads, dim);
  }
  return attention;
}

PackedExpert pack_expert(Packer& pack, const ModelConfig& config, const std::string& name) {
  const int dim = config.hidden_size;
  const int hidden = config.moe_intermediate_size;
  return {pack.weight(name + ".w1.weight", hidden, dim),
          pack.weight(name + ".w3.weight", hidden, dim),
          pack.weight(name + ".w2.weight", dim, hidden)};
}

PackedLayer pack_layer(Packer& pack,
                       const ModelConfig& config,
                       int layer_idx,
                       const ExpertFilter& wanted) {
  const int num_experts = config.n_routed_experts;
  pack.set_prefix("layers." + std::to_string(layer_idx) + ".");
  PackedLayer layer;
  layer.attention_mix = pack_mix(pack, config, "hc_attn");
  layer.attention = pack_attention(pack, config, layer_shape(config, layer_idx));
  layer.moe_mix = pack_mix(pack, config, "hc_ffn");
  layer.moe_norm = pack.floats("ffn_norm.weight", {config.hidden_size});
  layer.gate = pack.weight("ffn.gate.weight", num_experts, config.hidden_size);
  if (config.is_hash_layer(layer_idx)) {
    layer.token_experts =
        pack.ids("ffn.gate.tid2eid", {config.vocab_size, config.num_experts_per_tok}, num_experts);
  } else {
    layer.gate_bias = pack.floats("ffn.gate.bias", {num_experts});
  }
  layer.experts.resize(num_experts);
  for (int e = 0; e < num_experts; ++e) {
    if (!wanted(layer_idx, e)) continue;
    layer.experts[e] = pack_expert(pack, config, "ffn.experts." + std::to_string(e));
  }
  layer.shared_expert = pack_expert(pack, config, "ffn.shared_experts");
  return layer;
}

void pack_all(Packer& pack, const ExpertFilter& wanted, PackedModel& model) {
  const ModelConfig& config = model.config;
  model.layers.clear();
  pack.set_prefix("");
  model.embedding = pack.weight("embed.weight", config.vocab_size, config.hidden_size);
  for (int l = 0; l < config.num_hidden_layers; ++l) {
    model.layers.push_back(pack_layer(pack, config, l, wanted));
  }
  pack.set_prefix("");
  model.head_mix = pack_mix(pack, config, "hc_head");
  model.norm = pack.floats("norm.weight", {config.hidden_size});
  model.head = pack.weight("head.weight", config.vocab_size, config.hidden_size);
}

std::string in_mib(size_t bytes) {
  return std::to_string(std::lround(static_cast<double>(bytes) / kMib)) + " MiB";
}

Status check_fit(size_t num_bytes, Place place) {
  if (place != Place::kGpu) return ok_status();
  const Result<GpuInfo> gpu = find_gpu();
  if (!gpu.ok()) return gpu.error();
  if (num_bytes <= gpu->free_bytes) return ok_status();
  return invalid_argument("the weights need " + in_mib(num_bytes) + " of GPU memory, and " +
                          in_mib(gpu->free_bytes) + " of " + in_mib(gpu->total_bytes) +
                          " are free; free some, or use --device cpu");
}

}  // namespace

Result<std::unique_ptr<PackedModel>> load_packed_model(const Checkpoint& checkpoint,
                                                       Place place,
                                                       const ExpertFilter& wanted) {
  auto model = std::make_unique<PackedModel>();
  model->config = checkpoint.config();
  model->place = place;
  if (model->config.hc_mult > kMostStreams) {
    return unsupported("hc_mult is " + std::to_string(model->config.hc_mult) +
                       "; the GPU's kernels take at most " + std::to_string(kMostStreams) +
                       " residual streams, use --device cpu");
  }
  Queue queue(place);
  queue.set_context("loading the weights");
  Packer count(checkpoint, queue, nullptr);
  pack_all(count, wanted, *model);
  if (count.error()) return *count.error();
  if (Status fits = check_fit(count.num_bytes(), place); !fits.ok()) return fits.error();

  model->num_bytes = count.num_bytes();
  Packer copy(checkpoint, queue, model->memory.at_least(queue, model->num_bytes));
  if (Status status = queue.wait(); !status.ok()) return status.error();
  pack_all(copy, wanted, *model);
  if (copy.error()) return *copy.error();
  if (Status status = queue.wait(); !status.ok()) return status.error();
  return model;
}

}  // namespace plimsoll::gpu
