// Which tiles of rows a batch has: made by one block from the counts of the slots.
#pragma once

#include "cuda/experts/grouped_gemm.h"

namespace plimsoll::gpu {

// Rows of a slot's tiles: as even as multiples of 8 allow.
constexpr int tiles_of(int rows) {
  return (rows + kMaxTileTokens - 1) / kMaxTileTokens;
}
constexpr int tile_tokens(int rows) {
  const int tiles = tiles_of(rows);
  return tiles == 0 ? 0 : ((rows + tiles - 1) / tiles + 7) / 8 * 8;
}
// How large a tile's product is: 0 for 128 tokens, then 96, 64, 32, 16 and 8. Large ones come first
// in the list, so that the blocks that end last end alike.
constexpr int kNumClasses = 6;
constexpr int class_of(int rows) {
  return (rows <= 96) + (rows <= 64) + (rows <= 32) + (rows <= 16) + (rows <= 8);
}

// Sum of `value` over the block's threads before this one; `total` over all. 1,024 threads.
__device__ inline int exclusive_sum(int value, int* warp_sums, int& total) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int sum = value;
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const int below = __shfl_up_sync(~0u, sum, step);
    if (lane >= step) sum += below;
  }
  __syncthreads();
  if (lane == 31) warp_sums[warp] = sum;
  __syncthreads();
  if (warp == 0) {
    int of_warps = warp_sums[lane];
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      const int below = __shfl_up_sync(~0u, of_warps, step);
      if (lane >= step) of_warps += below;
    }
    warp_sums[lane] = of_warps;
  }
  __syncthreads();
  total = warp_sums[31];
  return sum - value + (warp == 0 ? 0 : warp_sums[warp - 1]);
}

// Thread s has slot s, with `count` rows: writes its offset and its tiles.
__device__ inline void list_tiles(
    int count, int num_slots, int* offsets, RowTile* tiles, int* num_tiles, int* warp_sums) {
  const int slot = threadIdx.x;
  int total = 0;
  const int offset = exclusive_sum((count + 7) / 8 * 8, warp_sums, total);
  if (slot < num_slots) offsets[slot] = offset;
  const int mine = tiles_of(count), tokens = tile_tokens(count);
  int first = 0;
  for (int size = 0; size < kNumClasses; ++size) {
    const bool here = mine > 0 && class_of(tokens) == size;
    int at = first + exclusive_sum(here ? mine : 0, warp_sums, total);
    first += total;
    if (!here) continue;
    for (int i = 0; i < count; i += tokens) {
      tiles[at++] = {slot, offset + i, count - i < tokens ? count - i : tokens};
    }
    // Rounding up to 8 may have left the last tiles without rows.
    const int end = at - (count + tokens - 1) / tokens + mine;
    while (at < end) tiles[at++] = {slot, offset, 0};
  }
  if (threadIdx.x == 0) *num_tiles = first;
}

}  // namespace plimsoll::gpu
