// One block's share of a linear layer: 64 rows of the weight for each consumer warpgroup, kTokens
// rows of x, one split of the channels or all of them in turn.
//
// One warp has the copy engine fill a ring of stages; the warpgroups multiply from it. A stage is
// 128 bytes of every weight row and the same channels of x.
#pragma once

#include <cuda_bf16.h>

#include "cuda/kernels/ptx/bulk.cuh"
#include "cuda/kernels/ptx/mbarrier.cuh"
#include "cuda/kernels/ptx/wgmma.cuh"
#include "cuda/kernels/quantise.h"

namespace plimsoll::gpu {

enum class Product {
  kBfloat16,  // bf16 by bf16
  kWidened,   // e4m3, widened to bf16 and scaled in registers, by bf16
  kE4m3,      // e4m3 by e4m3, scaled every 128 channels
};

constexpr int kStageRow = 128;  // bytes of a row in a stage
constexpr int kMaxChunks = 512;

template <Product kProduct, int kWarpgroups, int kTokens>
struct Tile {
  static constexpr int kRows = 64 * kWarpgroups;
  // A wide tile's copying warp gets a warpgroup of its own, which hands its registers over.
  static constexpr bool kWide = kWarpgroups > 1;
  static constexpr int kThreads = 128 * kWarpgroups + (kWide ? 128 : 32);
  static constexpr int kWeightBytes = kRows * kStageRow;
  static constexpr int kTokenBytes = kTokens * kStageRow * (kProduct == Product::kWidened ? 2 : 1);
  static constexpr int kScaleBytes = kProduct == Product::kE4m3 ? kTokens * 4 : 0;
  static constexpr int kStageBytes = kWeightBytes + kTokenBytes;
  static constexpr int kBudget = 200 << 10;
  static constexpr int kMostStages = kBudget / kStageBytes < 16 ? kBudget / kStageBytes : 16;
  // Few stages leave room for several blocks on a multiprocessor.
  static constexpr int kFewStages =
      kWide ? kMostStages : (kTokens == 16 ? 48 << 10 : 68 << 10) / kStageBytes;
  static constexpr int kSumBytes = kRows * kTokens * 4;  // a split's sums, over the stages
  static_assert(kSumBytes <= kFewStages * kStageBytes);
  // A finished tile of y on its way out: a token's values, and 16 bytes so that tokens start in
  // different banks.
  static constexpr int kRowOut(int element) { return kRows * element + 16; }
  static_assert(kTokens * kRowOut(4) <= kFewStages * kStageBytes || !kWide);
  // Stages, then the rest; 1,024 more to align.
  static constexpr int shared_bytes(int stages) {
    return stages * (kStageBytes + kScaleBytes + 16) +
           (kProduct == Product::kBfloat16 ? 0 : kMaxChunks * 4) + 1024;
  }
};

struct LinearArguments {
  int stages;            // of the ring
  int chunks;            // of 128 weight bytes, in all (times the parts of x)
  int weight_chunks;     // of one weight row
  int chunks_per_split;  // the last may have fewer
  int splits;
  int rows_per_group, columns_per_group;  // of the weight; of x
  int out, tokens;
  const uint8_t* weight_scales;  // [ceil(out / 128), weight_chunks]
  const float* token_scales;     // [chunks of x, token_scale_stride]
  int token_scale_stride;
  void* y;
  int64_t y_stride;
  bool y_bfloat16;
};

// A place in a ring of stages, and the parity of its barriers' phase.
struct Ring {
  int stages;
  int stage = 0;
  uint32_t parity = 0;

  __device__ void next() {
    if (++stage == stages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

__device__ inline void store(const LinearArguments& p, int out, int token, float value) {
  if (out >= p.out || token >= p.tokens) return;
  const int64_t at = token * p.y_stride + out;
  if (p.y_bfloat16) {
    static_cast<__nv_bfloat16*>(p.y)[at] = __float2bfloat16(value);
  } else {
    static_cast<float*>(p.y)[at] = value;
  }
}

// Writes a block's tile of sums through shared memory, so that whole lines of y go out.
template <typename T, typename Element, int kSums>
__device__ void store_tile(const LinearArguments& p,
                           int first_row,
                           int first_token,
                           int tile_row,
                           const float (&sums)[kSums],
                           uint8_t* shared) {
  constexpr int kConsumers = T::kRows * 2, kRowOut = T::kRowOut(sizeof(Element));
  constexpr int kPieces = T::kRows * sizeof(Element) / 16;  // of a token
  ptx::named_barrier(1, kConsumers);                        // all have read their last stage
#pragma unroll
  for (int i = 0; i < kSums; ++i) {
    const int token = i / 4 * 8 + threadIdx.x % 4 * 2 + i % 2;
    reinterpret_cast<Element*>(shared + token * kRowOut)[tile_row + i / 2 % 2 * 8] =
        static_cast<Element>(sums[i]);
  }
  ptx::named_barrier(1, kConsumers);
  for (int i = threadIdx.x; i < 2 * kSums * kPieces; i += kConsumers) {
    const int token = i / kPieces, piece = i % kPieces;
    const int out = first_row + piece * (16 / int{sizeof(Element)});
    if (first_token + token >= p.tokens || out >= p.out) continue;
    Element* to = static_cast<Element*>(p.y) + (first_token + token) * p.y_stride + out;
    *reinterpret_cast<uint4*>(to) =
        *reinterpret_cast<const uint4*>(shared + token * kRowOut + piece * 16);
  }
}

// Two e4m3 in the bytes 1 and 3 of `spread`, widened to bf16 and scaled: the exponent's bits
// shifted into place make the number 2^-120 times too small, and `scale` makes up for that too.
// Exact.
__device__ inline uint32_t widen(uint32_t spread, __nv_bfloat162 scale) {
  const uint32_t bits = (spread & 0x80008000) | ((spread >> 4) & 0x07F007F0);
  const __nv_bfloat162 product = __hmul2(reinterpret_cast<const __nv_bfloat162&>(bits), scale);
  return reinterpret_cast<const uint32_t&>(product);
}

// The left operand of one K = 16 step from a stage of e4m3 weight rows (the order of
// kBfloat16Paired).
__device__ inline void widen_fragment(
    const uint8_t* rows, int row, int t, int step, __nv_bfloat162 scale, uint32_t (&a)[4]) {
  const int piece = (step ^ (row % 8)) * 16 + 4 * t;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const uint32_t four =
        *reinterpret_cast<const uint32_t*>(rows + (row + 8 * half) * kStageRow + piece);
    a[half] = widen(__byte_perm(four, 0, 0x1404), scale);
    a[half + 2] = widen(__byte_perm(four, 0, 0x3424), scale);
  }
}

template <Product kProduct, int kWarpgroups, int kTokens, bool kInTurn>
__global__ void __launch_bounds__(Tile<kProduct, kWarpgroups, kTokens>::kThreads, 1)
    linear_kernel(const __grid_constant__ CUtensorMap weight_map,
                  const __grid_constant__ CUtensorMap token_map,
                  const LinearArguments p) {
  using T = Tile<kProduct, kWarpgroups, kTokens>;
  constexpr int kSums = kTokens / 2;  // of a thread
  extern __shared__ uint8_t unaligned[];
  uint8_t* const stages = unaligned + (1024 - ptx::shared_address(unaligned) % 1024) % 1024;
  uint8_t* const scale_stages = stages + p.stages * T::kStageBytes;
  auto* const full = reinterpret_cast<ptx::Mbarrier*>(scale_stages + p.stages * T::kScaleBytes);
  ptx::Mbarrier* const empty = full + p.stages;
  float* const weight_scales = reinterpret_cast<float*>(empty + p.stages);

  const int warp = __shfl_sync(0xFFFFFFFF, threadIdx.x / 32, 0);
  const int first_row = blockIdx.y * T::kRows;
  const int first_token = blockIdx.z * kTokens;
  const int split = kInTurn ? 0 : static_cast<int>(blockIdx.x);
  const int begin = split * p.chunks_per_split;
  const int end = kInTurn ? p.chunks : min(p.chunks, begin + p.chunks_per_split);

  ptx::let_next_kernel_start();
  if (threadIdx.x == 0) {
    for (int s = 0; s < p.stages; ++s) {
      full[s].init(1);
      empty[s].init(4 * kWarpgroups);
    }
    ptx::fence_mbarrier_init();
  }
  if constexpr (kProduct != Product::kBfloat16) {
    const uint8_t* from = p.weight_scales + int64_t{first_row / 128} * p.weight_chunks;
    for (int i = threadIdx.x; i < p.weight_chunks; i += T::kThreads) {
      weight_scales[i] = e8m0_value(from[i]);
    }
  }
  __syncthreads();

  if (warp >= 4 * kWarpgroups) {
    if constexpr (T::kWide) ptx::shrink_registers<40>();
    if (threadIdx.x == 128 * kWarpgroups) {
      const int first_column = first_row / p.rows_per_group * p.columns_per_group;
      constexpr int kWeightColumns = kProduct == Product::kBfloat16 ? 64 : 128;
      constexpr int kTokenColumns = kProduct == Product::kE4m3 ? 128 : 64;
      const auto load_weight = [&](int c, int stage) {
        full[stage].arrive_and_expect(T::kStageBytes + T::kScaleBytes);
        ptx::load_box(&weight_map, stages + stage * T::kStageBytes, &full[stage],
                      c % p.weight_chunks * kWeightColumns, first_row);
      };
      // Weights are there whatever the kernels before this one do; x is not.
      const int ahead = min(end, begin + p.stages);
      for (int c = begin; c < ahead; ++c) load_weight(c, c - begin);
      ptx::wait_for_previous_kernels();
      Ring ring{p.stages};
      for (int c = begin; c < end; ++c, ring.next()) {
        const int stage = ring.stage;
        if (c >= ahead) {
          empty[stage].wait(ring.parity ^ 1);
          load_weight(c, stage);
        }
        uint8_t* to = stages + stage * T::kStageBytes;
        const int column = first_column + c * kWeightColumns;
        for (int i = 0; i < kWeightColumns / kTokenColumns; ++i) {
          ptx::load_box(&token_map, to + T::kWeightBytes + i * kTokens * kStageRow, &full[stage],
                        column + i * kTokenColumns, first_token);
        }
        if constexpr (kProduct == Product::kE4m3) {
          ptx::load_bytes(
              scale_stages + stage * T::kScaleBytes,
              p.token_scales + int64_t{column / 128} * p.token_scale_stride + first_token,
              T::kScaleBytes, &full[stage]);
        }
      }
    }
    if constexpr (!kInTurn) {
      if (p.splits > 1) {
        __syncwarp();
        ptx::cluster_barrier();
        ptx::cluster_barrier();
      }
    }
    return;
  }

  if constexpr (T::kWide) ptx::grow_registers<232>();
  const int warpgroup = warp / 4;
  const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  const int tile_row = warpgroup * 64 + warp % 4 * 16 + g;
  float sums[kSums], total[kInTurn ? kSums : 1], part[kProduct == Product::kE4m3 ? kSums : 1];
  if constexpr (kProduct == Product::kE4m3) {
#pragma unroll
    for (float& x : sums) x = 0;
  }

  const auto release = [&](int stage) {
    __syncwarp();
    if (threadIdx.x % 32 == 0) empty[stage].arrive();
  };
  int left = p.chunks_per_split;  // of the split that is being summed
  Ring ring{p.stages};
  int before = 0;  // the last stage
  for (int c = begin; c < end; ++c, ring.next()) {
    const int stage = ring.stage;
    const uint8_t* rows = stages + stage * T::kStageBytes;
    const uint8_t* tokens = rows + T::kWeightBytes;
    const bool go_on = left != p.chunks_per_split;
    full[stage].wait(ring.parity);
    const uint64_t weight_at = ptx::smem_descriptor(rows + warpgroup * 64 * kStageRow);
    const uint64_t tokens_at = ptx::smem_descriptor(tokens);
    if constexpr (kProduct == Product::kBfloat16) {
      ptx::wgmma_begin();
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        ptx::wgmma_bf16(sums, weight_at + 2 * k, tokens_at + 2 * k, go_on || k > 0);
      }
      ptx::wgmma_commit();
      ptx::wgmma_wait<1>();
      if (c > begin) release(before);
    } else if constexpr (kProduct == Product::kWidened) {
      // 2^120 · scale, a bf16 by its exponent alone.
      const __nv_bfloat162 scale =
          __float2bfloat162_rn(weight_scales[c % p.weight_chunks] * 0x1p120f);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        uint32_t a[4][4];
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          widen_fragment(rows, tile_row, t, 4 * half + k, scale, a[k]);
        }
        ptx::wgmma_begin();
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          const uint64_t b = tokens_at + half * (kTokens * kStageRow >> 4) + 2 * k;
          ptx::wgmma_bf16(sums, a[k], b, go_on || half + k > 0);
        }
        ptx::wgmma_commit();
        ptx::wgmma_wait<1>();
        if (half == 0 && c > begin) release(before);
      }
    } else {
      ptx::wgmma_begin();
#pragma unroll
      for (int k = 0; k < 4; ++k)
        ptx::wgmma_e4m3(part, weight_at + 2 * k, tokens_at + 2 * k, k > 0);
      ptx::wgmma_commit();
      const float weight_scale = weight_scales[c % p.weight_chunks];
      const float2* scales =
          reinterpret_cast<const float2*>(scale_stages + stage * T::kScaleBytes) + t;
      ptx::wgmma_wait<0>();
      ptx::wgmma_hold(part);
#pragma unroll
      for (int j = 0; j < kSums / 4; ++j) {
        const float2 s = scales[4 * j];
        const float s0 = s.x * weight_scale, s1 = s.y * weight_scale;
        sums[4 * j] = fmaf(part[4 * j], s0, sums[4 * j]);
        sums[4 * j + 1] = fmaf(part[4 * j + 1], s1, sums[4 * j + 1]);
        sums[4 * j + 2] = fmaf(part[4 * j + 2], s0, sums[4 * j + 2]);
        sums[4 * j + 3] = fmaf(part[4 * j + 3], s1, sums[4 * j + 3]);
      }
      release(stage);
    }
    before = stage;
    if constexpr (kInTurn) {
      if (--left == 0 || c + 1 == end) {
        ptx::wgmma_wait<0>();
        ptx::wgmma_hold(sums);
        const bool first = c < p.chunks_per_split;
#pragma unroll
        for (int i = 0; i < kSums; ++i) {
          total[i] = first ? sums[i] : total[i] + sums[i];
          if constexpr (kProduct == Product::kE4m3) sums[i] = 0;
        }
        left = p.chunks_per_split;
      }
    } else {
      left = 0;
    }
  }
  ptx::wgmma_wait<0>();
  ptx::wgmma_hold(sums);

  if (kInTurn || p.splits == 1) {
    const float(&y)[kSums] = *[&] {
      if constexpr (kInTurn) {
        return &total;
      } else {
        return &sums;
      }
    }();
    if constexpr (T::kWide) {
      if (p.y_bfloat16) {
        store_tile<T, __nv_bfloat16>(p, first_row, first_token, tile_row, y, stages);
      } else {
        store_tile<T, float>(p, first_row, first_token, tile_row, y, stages);
      }
    } else {
#pragma unroll
      for (int i = 0; i < kSums; ++i) {
        store(p, first_row + tile_row + i / 2 % 2 * 8, first_token + i / 4 * 8 + 2 * t + i % 2,
              y[i]);
      }
    }
    return;
  }
  if constexpr (!kInTurn) {
    // Each block lays its sums out in its shared memory, four of a thread together; then each adds
    // a share of the tile over all blocks, in order.
    constexpr int kConsumers = 128 * kWarpgroups;
    float4* const mine = reinterpret_cast<float4*>(stages);
    ptx::named_barrier(1, kConsumers);  // all have read their last stage
#pragma unroll
    for (int j = 0; j < kSums / 4; ++j) {
      mine[j * kConsumers + threadIdx.x] =
          make_float4(sums[4 * j], sums[4 * j + 1], sums[4 * j + 2], sums[4 * j + 3]);
    }
    ptx::cluster_barrier();
    constexpr int kFours = kSums / 4 * kConsumers;
    const int share = (kFours + p.splits - 1) / p.splits;
    const int share_end = min(kFours, (split + 1) * share);
    for (int i = split * share + threadIdx.x; i < share_end; i += kConsumers) {
      float4 sum = ptx::load_remote(mine + i, 0);
      for (int s = 1; s < p.splits; ++s) {
        const float4 next = ptx::load_remote(mine + i, s);
        sum.x += next.x;
        sum.y += next.y;
        sum.z += next.z;
        sum.w += next.w;
      }
      const int thread = i % kConsumers, column = i / kConsumers * 8 + thread % 4 * 2;
      const int row = first_row + thread / 128 * 64 + thread / 32 % 4 * 16 + thread % 32 / 4;
      store(p, row, first_token + column, sum.x);
      store(p, row, first_token + column + 1, sum.y);
      store(p, row + 8, first_token + column, sum.z);
      store(p, row + 8, first_token + column + 1, sum.w);
    }
    ptx::cluster_barrier();  // nobody leaves while others read its memory
  }
}

}  // namespace plimsoll::gpu
