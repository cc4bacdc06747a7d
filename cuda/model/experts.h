// The experts of a layer over rows that lie anywhere: y = w2 (weight · silu(w1 x) · (w3 x)), the
// gate clamped from above and the other factor on both sides. Plain float32 kernels.
#pragma once

#include "cuda/device/queue.h"
#include "cuda/model/packed_weight.h"
#include "ep/exchange.h"

namespace plimsoll::gpu {

struct PackedExpert {
  PackedWeight gate;  // w1 [intermediate, hidden]
  PackedWeight up;    // w3
  PackedWeight down;  // w2 [hidden, intermediate]
};

// Up to kTileRows rows of one expert.
struct ExpertTile {
  PackedExpert expert;
  int32_t first_row = 0;
  int32_t num_rows = 0;
};

struct ExpertTiles {
  const ExpertTile* tiles = nullptr;
  int num_tiles = 0;
  const ExpertRow* rows = nullptr;  // row and out: of any rank whose memory can be reached
  int hidden_size = 0, intermediate = 0;
  float limit = 0;
  float* scratch = nullptr;  // [all rows, intermediate]
};
void expert_tiles(Queue& queue, const ExpertTiles& args);

}  // namespace plimsoll::gpu
