#include "cuda/model/experts.h"

#include "cuda/device/for_each.h"

namespace plimsoll::gpu {
namespace {

struct GateUp {
  ExpertTiles args;

  PLIMSOLL_HD void operator()(int64_t i) const {
    const ExpertTile& tile = args.tiles[i / args.intermediate];
    const int output = static_cast<int>(i % args.intermediate);
    const float* rows[kTileRows];
    for (int t = 0; t < kTileRows; ++t) {
      rows[t] = args.rows[tile.first_row + (t < tile.num_rows ? t : 0)].row;
    }
    float gate[kTileRows], up[kTileRows];
    multiply_tile(tile.expert.gate, output, rows, tile.num_rows, gate);
    multiply_tile(tile.expert.up, output, rows, tile.num_rows, up);
    for (int t = 0; t < kTileRows; ++t) {
      if (t >= tile.num_rows) continue;
      const int64_t row = tile.first_row + t;
      const float g = fminf(gate[t], args.limit);
      const float u = fminf(fmaxf(up[t], -args.limit), args.limit);
      args.scratch[row * args.intermediate + output] =
          args.rows[row].weight * (g / (1.0f + expf(-g))) * u;
    }
  }
};

struct Down {
  ExpertTiles args;

  PLIMSOLL_HD void operator()(int64_t i) const {
    const ExpertTile& tile = args.tiles[i / args.hidden_size];
    const int output = static_cast<int>(i % args.hidden_size);
    const float* rows[kTileRows];
    float sums[kTileRows];
    for (int t = 0; t < kTileRows; ++t) {
      rows[t] = args.scratch + int64_t{tile.first_row + t} * args.intermediate;
    }
    multiply_tile(tile.expert.down, output, rows, tile.num_rows, sums);
    for (int t = 0; t < kTileRows; ++t) {
      if (t < tile.num_rows) args.rows[tile.first_row + t].out[output] = sums[t];
    }
  }
};

}  // namespace

void expert_tiles(Queue& queue, const ExpertTiles& args) {
  for_each(queue, int64_t{args.num_tiles} * args.intermediate, GateUp{args});
  for_each(queue, int64_t{args.num_tiles} * args.hidden_size, Down{args});
}

}  // namespace plimsoll::gpu
