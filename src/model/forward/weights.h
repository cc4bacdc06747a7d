// A checkpoint's tensors, packed for the kernels. Read-only once loaded; all rank threads share it.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "model/checkpoint/config.h"
#include "model/forward/experts.h"
#include "model/kernels/packed_matrix.h"
#include "plimsoll/result.h"

namespace plimsoll {

class Checkpoint;

struct HyperConnectionWeights {
  PackedMatrix mix;          // hc_*_fn [(2 + n) n, n D]; the head's [n, n D]
  std::vector<float> scale;  // [3]: pre, post, comb; the head's [1]
  std::vector<float> base;   // one per row of mix
};

struct CompressorWeights {
  PackedMatrix kv, gate;             // [overlap * dim, D]
  std::vector<float> position_bias;  // ape [ratio, overlap * dim]
  std::vector<float> norm;           // [dim]
};

struct IndexerWeights {
  CompressorWeights compressor;
  PackedMatrix query;         // wq_b [heads * dim, q_lora_rank]
  PackedMatrix head_weights;  // weights_proj [heads, D]
};

struct AttentionWeights {
  std::vector<float> norm;  // attn_norm [D]
  PackedMatrix query_down;  // wq_a
  std::vector<float> query_norm;
  PackedMatrix query_up;  // wq_b
  PackedMatrix kv;        // wkv
  std::vector<float> kv_norm;
  std::vector<float> sink;                // [H]
  std::vector<PackedMatrix> output_down;  // wo_a, one per group of heads
  PackedMatrix output_up;                 // wo_b
  CompressorWeights compressor;           // where the layer's ratio is not 0
  IndexerWeights indexer;                 // where it is 4
};

struct GateWeights {
  PackedMatrix weight;                 // [E, D]
  std::vector<float> bias;             // [E]; empty in hash layers
  std::vector<int32_t> token_experts;  // tid2eid [vocab, top_k]; hash layers only
};

struct LayerWeights {
  HyperConnectionWeights attention_mix, moe_mix;
  AttentionWeights attention;
  std::vector<float> moe_norm;  // ffn_norm [D]
  GateWeights gate;
  std::vector<ExpertWeights> experts;  // [E], by logical id; empty ones are not held here
  ExpertWeights shared_expert;
};

struct ModelWeights {
  ModelConfig config;
  RowTable embedding;  // [vocab, D]
  std::vector<LayerWeights> layers;
  HyperConnectionWeights head_mix;
  std::vector<float> norm;
  PackedMatrix head;  // [vocab, D]
};

inline bool is_held(const ExpertWeights& expert) {
  return expert.down.num_outputs != 0;
}

// Which routed experts a process needs.
using ExpertFilter = std::function<bool(int layer_idx, int expert)>;
inline bool every_expert(int, int) {
  return true;
}

// Everything but the routed experts that `wanted` leaves out; shared experts are always loaded.
Result<ModelWeights> load_weights(const Checkpoint& checkpoint,
                                  const ModelConfig& config,
                                  const ExpertFilter& wanted = every_expert);

// One routed expert: what load_weights would have put into its place. May be called on any thread.
Result<ExpertWeights> load_expert(const Checkpoint& checkpoint,
                                  const ModelConfig& config,
                                  int layer_idx,
                                  int expert);

}  // namespace plimsoll
