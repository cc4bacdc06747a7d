// An expert's weights as the grouped GEMM (grouped_gemm.h) reads them: the checkpoint's bytes in
// another order, made once at load on the host.
//
// A matrix is cut into tiles of 256 rows, a tile into blocks of 128 inputs; the blocks of a tile
// follow each other, so that a block is one bulk copy. In a block lie, for each of the two
// warpgroups and their two products of 64 rows, the registers of every thread (wgmma.cuh says who
// holds what). FP4: 4,096 bytes of codes and 256 of scales for each product of 64 rows, 17,408 in
// all: what the checkpoint takes. FP8: 32,768 bytes and four scales, 32,784 in all.
//
// An FP4 word holds the 8 codes of one row and 32 inputs that one thread multiplies: code i's
// magnitude in bits 4i to 4i + 2, its sign in bit 8i + 7 (i < 4) or 8 (i - 4) + 3. A magnitude is a
// selector of the byte permutation that looks it up; four signs come out of a word by one mask.
//
// Scales (E8M0) are powers of two, and e2m1 · 2^-c keeps its bits in e4m3 for c up to 11, in fp16
// for c up to 26. So a row has one scale, its largest, applied to the sum; each 32 inputs keep c,
// how far they are below it, which the look-up applies exactly.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "plimsoll/result.h"

namespace plimsoll::gpu {

inline constexpr int kTileRows = 256;
inline constexpr int kBlockInputs = 128;

enum class WeightFormat { kFp4, kFp8 };
// kGateUp: w1 and w3 as one matrix; a tile has 128 rows of each. kDown: w2.
enum class Projection { kGateUp, kDown };

// A matrix as it lies in the checkpoint. kFp4: codes [rows, columns / 2], the even column in the
// low half of a byte; scales [rows, columns / 32]. kFp8: e4m3 [rows, columns]; scales [ceil(rows /
// 128), ceil(columns / 128)]. Scales are E8M0. Columns: a multiple of 32.
struct CheckpointMatrix {
  std::span<const uint8_t> values;
  std::span<const uint8_t> scales;
  int rows = 0;
  int columns = 0;
};

struct PackedMatrix {
  // The blocks, then kFp4's row scales: a float for each row of the tiles. Both are what a
  // device copy of `bytes` has to hold.
  std::vector<uint8_t> bytes;
  // How far a row's scales lie apart at most, in powers of two: 11 and less suits FP8 activations.
  int scale_span = 0;
};

inline constexpr int kMaxSpanE4m3 = 11;
inline constexpr int kMaxSpanFp16 = 26;

// Tiles of a projection with so many rows (of w1, or of w2), and blocks of a tile.
constexpr int num_tiles(Projection projection, int rows) {
  const int step = projection == Projection::kGateUp ? kTileRows / 2 : kTileRows;
  return (rows + step - 1) / step;
}
constexpr int num_blocks(int columns) {
  return (columns + kBlockInputs - 1) / kBlockInputs;
}
constexpr int block_bytes(WeightFormat format) {
  return format == WeightFormat::kFp4 ? 17408 : 32784;
}

// Row `mma_row` of tile `tile` is row `row` of matrix `matrix` (kGateUp: 0 is w1, 1 is w3).
// mma_row = warpgroup · 128 + product · 64 + warp · 16 + half · 8 + g. A thread's four rows (two
// products, two halves) are neighbours in the output: w1 and w3 of two channels, or four channels.
struct TileRow {
  int matrix = 0;
  int row = 0;
};
constexpr TileRow tile_row(Projection projection, int tile, int mma_row) {
  const int group = mma_row / 128, product = mma_row / 64 % 2, warp = mma_row / 16 % 4;
  const int half = mma_row / 8 % 2, g = mma_row % 8;
  if (projection == Projection::kGateUp) {
    return {half, tile * 128 + group * 64 + warp * 16 + g * 2 + product};
  }
  return {0, tile * 256 + group * 128 + warp * 32 + g * 4 + product * 2 + half};
}

// kGateUp takes w1 and w3, kDown takes w2. Rows and columns that fill up the last tile and block
// are zeros.
Result<PackedMatrix> pack_experts(WeightFormat format,
                                  Projection projection,
                                  std::span<const CheckpointMatrix> matrices);

}  // namespace plimsoll::gpu
