// Matrix product for the kernel variants: every output element is one chain of fused multiply-adds
// over k, ascending, so its bits depend on nothing but its own row and column.
#pragma once

#include <utility>

#include "model/kernels/kernels.h"
#include "model/kernels/simd.h"

namespace plimsoll::PLIMSOLL_KERNELS {
namespace {

// Rows and 16-lane halves of a panel that one tile keeps in registers.
#if defined(__AVX512F__)
inline constexpr int kTileRows = 12;
inline constexpr int kTileHalves = 2;
#else
inline constexpr int kTileRows = 6;
inline constexpr int kTileHalves = 1;
#endif

struct Tile {
  const float* x[kTileRows];
  ptrdiff_t x_k_stride;
  const void* w;  // the panel at the tile's first lane
  ptrdiff_t w_k_stride;
  int num_inputs;
  float* y[kTileRows];
  int num_lanes;  // that exist in y
  bool accumulate;
  bool high_half;  // of a bfloat16 panel's words, where a tile holds one half
};

template <int kHalves>
inline void load_weights(const float* w, bool, F16 (&out)[kHalves]) {
  for (int h = 0; h < kHalves; ++h) out[h] = load(w + h * kLanes);
}

template <int kHalves>
inline void load_weights(const uint16_t* w, bool high_half, F16 (&out)[kHalves]) {
  const I16 words = load_words(w);
  if constexpr (kHalves == 2) {
    out[0] = widen_low(words);
    out[1] = widen_high(words);
  } else {
    out[0] = high_half ? widen_high(words) : widen_low(words);
  }
}

template <typename Weight, int kHalves, int kRows>
void multiply_tile(const Tile& tile) {
  const float* x[kRows];
  F16 sum[kRows][kHalves];
  for (int r = 0; r < kRows; ++r) {
    x[r] = tile.x[r];
    for (int h = 0; h < kHalves; ++h) {
      const int lanes = tile.num_lanes - h * kLanes;
      sum[r][h] = tile.accumulate ? load_partial(tile.y[r] + h * kLanes, lanes) : zero();
    }
  }
  const Weight* w = static_cast<const Weight*>(tile.w);
  const ptrdiff_t end = tile.num_inputs * tile.x_k_stride;
  for (ptrdiff_t at = 0; at != end; at += tile.x_k_stride, w += tile.w_k_stride) {
    F16 weights[kHalves];
    load_weights(w, tile.high_half, weights);
    for (int r = 0; r < kRows; ++r) {
      const F16 value = broadcast(x[r][at]);
      for (int h = 0; h < kHalves; ++h) sum[r][h] = fma(value, weights[h], sum[r][h]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int h = 0; h < kHalves; ++h) {
      store_partial(tile.y[r] + h * kLanes, sum[r][h], tile.num_lanes - h * kLanes);
    }
  }
}

template <typename Weight, int kHalves, int... kRowsLessOne>
void multiply_rows(const Tile& tile, int num_rows, std::integer_sequence<int, kRowsLessOne...>) {
  using Function = void (*)(const Tile&);
  static constexpr Function kFunctions[] = {multiply_tile<Weight, kHalves, kRowsLessOne + 1>...};
  kFunctions[num_rows - 1](tile);
}

// All rows times the panel's lanes from `lane` on, in tiles of nearly equal height: a short last
// one would leave the multipliers waiting.
template <typename Weight>
void multiply_panel(const GemmArgs& args, Tile& tile, int lane) {
  const auto heights = std::make_integer_sequence<int, kTileRows>();
  const int num_tiles = (args.num_rows + kTileRows - 1) / kTileRows;
  for (int i = 0; i < num_tiles; ++i) {
    const ptrdiff_t first = ptrdiff_t{args.num_rows} * i / num_tiles;
    const ptrdiff_t last = ptrdiff_t{args.num_rows} * (i + 1) / num_tiles;
    for (ptrdiff_t m = first; m < last; ++m) {
      tile.x[m - first] = args.x_rows != nullptr ? args.x_rows[m] : args.x + m * args.x_row_stride;
      tile.y[m - first] =
          (args.y_rows != nullptr ? args.y_rows[m] : args.y + m * args.y_row_stride) + lane;
    }
    if (tile.num_lanes <= kLanes) {
      multiply_rows<Weight, 1>(tile, static_cast<int>(last - first), heights);
    } else {
      multiply_rows<Weight, kTileHalves>(tile, static_cast<int>(last - first), heights);
    }
  }
}

inline void gemm(const GemmArgs& args) {
  Tile tile;
  tile.x_k_stride = args.x_k_stride;
  tile.w_k_stride = args.w.k_stride;
  tile.num_inputs = args.w.num_inputs;
  tile.accumulate = args.accumulate;
  for (int lane = 0; lane < args.w.num_outputs; lane += kTileHalves * kLanes) {
    const ptrdiff_t panel = lane / kPanelLanes * args.w.panel_stride;
    tile.num_lanes = args.w.num_outputs - lane;
    tile.high_half = lane % kPanelLanes != 0;
    if (args.w.bf16 != nullptr) {
      tile.w = args.w.bf16 + panel;
      multiply_panel<uint16_t>(args, tile, lane);
    } else {
      tile.w = args.w.f32 + panel + lane % kPanelLanes;
      multiply_panel<float>(args, tile, lane);
    }
  }
}

}  // namespace
}  // namespace plimsoll::PLIMSOLL_KERNELS
