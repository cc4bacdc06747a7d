// The weights of a DeepSeek-V4 model as the checkpoint packs them, in one block of a GPU's memory.
// All ranks of the GPU read the same; members are named as in model/forward/weights.h.
#pragma once

#include <memory>
#include <vector>

#include "cuda/device/array.h"
#include "cuda/model/experts.h"
#include "cuda/model/packed_weight.h"
#include "model/checkpoint/checkpoint.h"
#include "model/forward/weights.h"
#include "plimsoll/result.h"

namespace plimsoll::gpu {

struct PackedMix {
  PackedWeight mix;
  const float* scale = nullptr;
  const float* base = nullptr;
};

struct PackedCompressor {
  PackedWeight kv, gate;
  const float* position_bias = nullptr;
  const float* norm = nullptr;
};

struct PackedAttention {
  const float* norm = nullptr;
  PackedWeight query_down;
  const float* query_norm = nullptr;
  PackedWeight query_up, kv;
  const float* kv_norm = nullptr;
  const float* sink = nullptr;
  PackedWeight output_down;  // all groups of heads
  PackedWeight output_up;
  PackedCompressor compressor;          // where the layer's ratio is not 0
  PackedCompressor indexer_compressor;  // where it is 4, as what follows
  PackedWeight indexer_query, indexer_head_weights;
};

struct PackedLayer {
  PackedMix attention_mix, moe_mix;
  PackedAttention attention;
  const float* moe_norm = nullptr;
  PackedWeight gate;
  const float* gate_bias = nullptr;        // null in hash layers
  const int32_t* token_experts = nullptr;  // of hash layers
  std::vector<PackedExpert> experts;       // [E], by logical id; empty ones are not held here
  PackedExpert shared_expert;
};

struct PackedModel {
  ModelConfig config;
  Place place = Place::kHost;
  PackedWeight embedding;
  std::vector<PackedLayer> layers;
  PackedMix head_mix;
  const float* norm = nullptr;
  PackedWeight head;
  size_t num_bytes = 0;
  Array<uint8_t> memory;  // what all of the above points into
};

// Refuses, before anything is read, what does not fit into the free memory of a GPU; fails on
// tensors that are missing, of other shapes, or not finite.
Result<std::unique_ptr<PackedModel>> load_packed_model(const Checkpoint& checkpoint,
                                                       Place place,
                                                       const ExpertFilter& wanted = every_expert);

}  // namespace plimsoll::gpu
