// Compression of windows of tokens into single key-value entries (and indexer keys).
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "model/checkpoint/layer_shape.h"
#include "model/forward/sequence_state.h"
#include "model/forward/weights.h"
#include "model/kernels/kernels.h"

namespace plimsoll {

// What closing an entry needs besides the state.
struct Compressor {
  const Kernels& kernels;
  const CompressorShape& shape;
  const CompressorWeights& weights;
  const std::vector<float>& frequencies;  // of the compress rotation
  float norm_eps;
};

// Remembers the token at `position`: its raw values and scores, [kv_dim] each.
void remember_token(const Compressor& compressor,
                    int64_t position,
                    const float* kv,
                    const float* score,
                    CompressorState& state);

struct CompressorScratch {
  std::vector<const float*> kv, score;
  std::vector<float> rotation;
};

// The entry that the remembered tokens close, normed and rotated, to out [dim].
void compute_entry(const Compressor& compressor,
                   int64_t entry_idx,
                   const CompressorState& state,
                   CompressorScratch& scratch,
                   float* out);

}  // namespace plimsoll
