// What becomes of a tile's sums: the activation function, quantised into the rows of the next
// product; or rows of float32 on their way home.
#pragma once

#include "cuda/experts/grouped_tile.cuh"
#include "cuda/kernels/operand.h"

namespace plimsoll::gpu {

// Where a thread's share of a tile lies: its four rows of weights are neighbours in the output
// (tile_row), its tokens are 8j + 2t and 8j + 2t + 1.
struct ThreadPlace {
  int group = threadIdx.x / 128;
  int warp = threadIdx.x / 32 % 4;
  int g = threadIdx.x % 32 / 4;
  int t = threadIdx.x % 4;
};

// Scales of the thread's four rows, [product][half].
template <Activation kActivation, WeightFormat kFormat, Projection kProjection>
__device__ float4 row_scales(const GemmArgs& args, const RowTile& rows, int tile) {
  if constexpr (kFormat == WeightFormat::kFp8) return {1, 1, 1, 1};
  const ThreadPlace at;
  const float* scales = reinterpret_cast<const float*>(
                            weights_of<kProjection>(args.slots[rows.slot]) +
                            static_cast<size_t>(args.tiles) * args.blocks * block_bytes(kFormat)) +
                        tile * kTileRows + at.group * 128 + at.warp * 16 + at.g;
  constexpr float kUnit = 1.0f / kCodeScale<kActivation>;
  return {scales[0] * kUnit, scales[8] * kUnit, scales[64] * kUnit, scales[72] * kUnit};
}

__device__ inline float silu(float x) {
  return x / (1.0f + __expf(-x));
}

__device__ inline float gated(float gate, float up, float limit, float weight) {
  return silu(fminf(gate, limit)) * fminf(fmaxf(up, -limit), limit) * weight;
}

// The thread's two channels of a token take the place of its gates: sums[product][4j + i].
template <Activation kActivation, int kTokens>
__device__ void activate(const GemmArgs& args,
                         const RowTile& rows,
                         float4 scale,
                         Sums<kTokens>& sums) {
  const ThreadPlace at;
#pragma unroll
  for (int j = 0; j < kTokens / 8; ++j) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int token = 8 * j + 2 * at.t + i;
      float weight = 0, x_scale = 1;
      if (token < rows.rows) {
        weight = args.rows.weights[rows.first_row + token];
        if constexpr (kActivation == Activation::kFp16) {
          x_scale = args.in.scales[rows.first_row + token];
        }
      }
      float* first = &sums[0][4 * j];
      float* second = &sums[1][4 * j];
      first[i] = gated(first[i] * (scale.x * x_scale), first[2 + i] * (scale.y * x_scale),
                       args.limit, weight);
      second[i] = gated(second[i] * (scale.z * x_scale), second[2 + i] * (scale.w * x_scale),
                        args.limit, weight);
    }
  }
}

template <int kTokens>
__device__ void store_fp16(const GemmArgs& args,
                           const RowTile& rows,
                           int tile,
                           const Sums<kTokens>& h) {
  const ThreadPlace at;
  const int channel = at.group * 64 + at.warp * 16 + at.g * 2;  // of the tile's 128
  const int byte = (channel % 64 / 16 * 16 + paired_place(channel % 16)) * 2;
  uint8_t* chunk =
      args.out.data + (static_cast<size_t>(tile) * 2 + channel / 64) * args.rows.capacity * 128;
#pragma unroll
  for (int j = 0; j < kTokens / 8; ++j) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int token = 8 * j + 2 * at.t + i;
      if (token >= rows.rows) continue;
      const int row = rows.first_row + token;
      *reinterpret_cast<__half2*>(chunk + static_cast<size_t>(row) * 128 +
                                  (byte ^ (row % 8 * 16))) =
          __floats2half2_rn(h[0][4 * j + i] * kHiddenScale, h[1][4 * j + i] * kHiddenScale);
    }
  }
}

// A tile's 128 channels are one group of the quantisation: both warpgroups look for its peak.
template <int kTokens, typename Barrier>
__device__ void store_e4m3(const GemmArgs& args,
                           const RowTile& rows,
                           int tile,
                           const Sums<kTokens>& h,
                           Barrier& barriers,
                           int turn) {
  const ThreadPlace at;
  float(&peaks)[8][kMaxTileTokens] = barriers.peaks[turn];
#pragma unroll
  for (int j = 0; j < kTokens / 8; ++j) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float peak = fmaxf(fabsf(h[0][4 * j + i]), fabsf(h[1][4 * j + i]));
#pragma unroll
      for (int lanes = 4; lanes < 32; lanes *= 2) {
        peak = fmaxf(peak, __shfl_xor_sync(~0u, peak, lanes));
      }
      if (at.g == 0) peaks[at.group * 4 + at.warp][8 * j + 2 * at.t + i] = peak;
    }
  }
  ptx::named_barrier(1, 256);
  const int byte = at.group * 64 + at.warp * 16 + at.g * 2;
  uint8_t* chunk = args.out.data + static_cast<size_t>(tile) * args.rows.capacity * 128;
#pragma unroll
  for (int j = 0; j < kTokens / 8; ++j) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int token = 8 * j + 2 * at.t + i;
      if (token >= rows.rows) continue;
      float peak = 0;
#pragma unroll
      for (int warp = 0; warp < 8; ++warp) peak = fmaxf(peak, peaks[warp][token]);
      const float scale = e4m3_scale(peak);
      const float inverse = 1.0f / scale;  // exact: a power of two
      const int row = rows.first_row + token;
      const __nv_fp8x2_storage_t two = __nv_cvt_float2_to_fp8x2(
          {h[0][4 * j + i] * inverse, h[1][4 * j + i] * inverse}, __NV_SATFINITE, __NV_E4M3);
      *reinterpret_cast<uint16_t*>(chunk + static_cast<size_t>(row) * 128 +
                                   (byte ^ (row % 8 * 16))) = two;
      if (at.group == 0 && at.warp == 0 && at.g == 0) {
        args.out.scales[static_cast<size_t>(tile) * args.rows.capacity + row] = scale;
      }
    }
  }
}

template <Activation kActivation, int kTokens>
__device__ void store_home(
    const GemmArgs& args, const RowTile& rows, int tile, float4 scale, const Sums<kTokens>& sums) {
  const ThreadPlace at;
  const int channel = tile * kTileRows + at.group * 128 + at.warp * 32 + at.g * 4;
  if (channel >= args.hidden) return;
  constexpr float kUnit = kActivation == Activation::kFp16 ? 1.0f / kHiddenScale : 1.0f;
#pragma unroll
  for (int j = 0; j < kTokens / 8; ++j) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int token = 8 * j + 2 * at.t + i;
      if (token >= rows.rows) continue;
      const size_t home = args.rows.homes[rows.first_row + token];
      *reinterpret_cast<float4*>(args.y + home * args.hidden + channel) = {
          sums[0][4 * j + i] * (scale.x * kUnit), sums[0][4 * j + 2 + i] * (scale.y * kUnit),
          sums[1][4 * j + i] * (scale.z * kUnit), sums[1][4 * j + 2 + i] * (scale.w * kUnit)};
    }
  }
}

}  // namespace plimsoll::gpu
