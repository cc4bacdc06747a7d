// One tile of a grouped product: 256 rows of weights times up to 128 tokens, all inputs. Two
// warpgroups multiply, 128 rows of weights each; a third one's first thread brings weights and
// activations to shared memory, some stages ahead, also across tiles.
#pragma once

#include <cuda_fp16.h>

#include <algorithm>

#include "cuda/experts/decode.cuh"
#include "cuda/kernels/ptx/bulk.cuh"
#include "cuda/kernels/ptx/wgmma.cuh"
#include "cuda/kernels/quantise.h"

namespace plimsoll::gpu {

struct GemmArgs {
  const ExpertSlot* slots;
  GroupedRows rows;
  ActivationRows in;
  ActivationRows out;  // kGateUp
  float* y;            // kDown
  int blocks;          // of the inputs
  int tiles;           // of the outputs
  int hidden;
  float limit;
};

template <Activation kActivation, WeightFormat kFormat>
struct Stage {
  static constexpr bool kScaledInputs = kActivation == Activation::kE4m3;
  static constexpr int kChunks = chunks_per_block(kActivation);
  static constexpr int kChunkBytes = kMaxTileTokens * 128;
  // Tokens first: their tiles are aligned to 1,024 bytes.
  static constexpr int kScalesAt = kChunks * kChunkBytes;
  static constexpr int kWeightsAt = kScalesAt + (kScaledInputs ? 512 : 0);
  static constexpr int kBytes = (kWeightsAt + block_bytes(kFormat) + 1023) / 1024 * 1024;
  static constexpr int kCount = 220 * 1024 / kBytes;
  static constexpr int kSharedBytes = kCount * kBytes + 1024;
};

template <int kStages>
struct Barriers {
  ptx::Mbarrier full[kStages];
  ptx::Mbarrier empty[kStages];
  float peaks[2][8][kMaxTileTokens];  // of |h|: two tiles in turns, each warp's part
};

// Which stage comes next, and the parity of its barriers.
template <int kStages>
struct Turn {
  int stage = 0;
  uint32_t parity = 0;
  __device__ void advance() {
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

template <Projection kProjection>
__device__ const uint8_t* weights_of(const ExpertSlot& slot) {
  return kProjection == Projection::kGateUp ? slot.gate_up : slot.down;
}

// The copying thread's part of one tile.
template <Activation kActivation, WeightFormat kFormat, Projection kProjection, typename Barrier>
__device__ void load_tile(const GemmArgs& args,
                          const RowTile& rows,
                          int tile,
                          uint8_t* stages,
                          Barrier& barriers,
                          Turn<Stage<kActivation, kFormat>::kCount>& turn) {
  using S = Stage<kActivation, kFormat>;
  constexpr int kBlockBytes = block_bytes(kFormat);
  const uint8_t* weights = weights_of<kProjection>(args.slots[rows.slot]) +
                           static_cast<size_t>(tile) * args.blocks * kBlockBytes;
  const int tokens = (rows.rows + 7) / 8 * 8;
  const uint32_t bytes =
      kBlockBytes + S::kChunks * tokens * 128 + (S::kScaledInputs ? tokens * 4 : 0);
  for (int block = 0; block < args.blocks; ++block) {
    uint8_t* stage = stages + turn.stage * S::kBytes;
    ptx::Mbarrier* full = &barriers.full[turn.stage];
    barriers.empty[turn.stage].wait(turn.parity ^ 1);
    full->arrive_and_expect(bytes);
    ptx::load_bytes(stage + S::kWeightsAt, weights + static_cast<size_t>(block) * kBlockBytes,
                    kBlockBytes, full);
    for (int chunk = 0; chunk < S::kChunks; ++chunk) {
      const size_t row =
          static_cast<size_t>(block * S::kChunks + chunk) * args.rows.capacity + rows.first_row;
      ptx::load_bytes(stage + chunk * S::kChunkBytes, args.in.data + row * 128, tokens * 128, full);
    }
    if constexpr (S::kScaledInputs) {
      ptx::load_bytes(
          stage + S::kScalesAt,
          args.in.scales + static_cast<size_t>(block) * args.rows.capacity + rows.first_row,
          tokens * 4, full);
    }
    turn.advance();
  }
}

// The sums of a warpgroup: two products of 64 rows of weights and kTokens tokens, as wgmma.cuh
// says.
template <int kTokens>
using Sums = float[2][kTokens / 2];

// Steps of a block: both products of a warpgroup, each with all parts of the inputs.
template <Activation kActivation, WeightFormat kFormat>
__device__ void decode(const uint8_t* stage, int step, Fragments<kActivation>& to) {
  constexpr int kParts = Fragments<kActivation>::kParts;
  const uint8_t* weights = stage + Stage<kActivation, kFormat>::kWeightsAt;
  const int product = threadIdx.x / 128 * 2 + step / kParts;
  if constexpr (kFormat == WeightFormat::kFp4) {
    decode_fp4(weights + product * 4352, step % kParts, to);
  } else {
    decode_fp8(weights + product * 8192, step % kParts, to);
  }
}

template <Activation kActivation, WeightFormat kFormat, int kTokens>
__device__ void multiply(const uint8_t* stage,
                         int part,
                         const Fragments<kActivation>& a,
                         float (&d)[kTokens / 2],
                         bool accumulate) {
  const uint64_t b =
      ptx::smem_descriptor(stage) + part * (Stage<kActivation, kFormat>::kChunkBytes / 16);
  ptx::wgmma_hold(d);
  ptx::wgmma_begin();
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if constexpr (kActivation == Activation::kE4m3) {
      ptx::wgmma_e4m3(d, a.a[i], b + i * 2, accumulate || i > 0);
    } else {
      ptx::wgmma_fp16(d, a.a[i], b + i * 2, accumulate || i > 0);
    }
  }
  ptx::wgmma_commit();
}

// sum += chain · scale, for what is scaled every 128 inputs.
template <Activation kActivation, WeightFormat kFormat, int kTokens>
__device__ void add_chain(const uint8_t* stage,
                          float (&chain)[kTokens / 2],
                          float (&sum)[kTokens / 2]) {
  using S = Stage<kActivation, kFormat>;
  float of_half[2] = {1, 1};
  if constexpr (kFormat == WeightFormat::kFp8) {
    const float* scales =
        reinterpret_cast<const float*>(stage + S::kWeightsAt + 32768) + threadIdx.x / 128 * 2;
    of_half[0] = scales[0];
    of_half[1] = scales[1];
  }
  ptx::wgmma_hold(chain);
#pragma unroll
  for (int j = 0; j < kTokens / 8; ++j) {
    float2 of_token{1, 1};
    if constexpr (S::kScaledInputs) {
      of_token = reinterpret_cast<const float2*>(stage + S::kScalesAt)[j * 4 + threadIdx.x % 4];
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float scale = (i % 2 == 0 ? of_token.x : of_token.y) * of_half[i / 2];
      sum[4 * j + i] = fmaf(chain[4 * j + i], scale, sum[4 * j + i]);
    }
  }
}

template <typename Barrier>
__device__ void release(Barrier& barriers, int stage) {
  __syncwarp();
  if (threadIdx.x % 32 == 0) barriers.empty[stage].arrive();
}

// All inputs of one tile. A step's fragments are decoded while the tensor core works on the step
// before.
template <Activation kActivation, WeightFormat kFormat, int kTokens, typename Barrier>
__device__ void multiply_tile(int blocks,
                              const uint8_t* stages,
                              Barrier& barriers,
                              Turn<Stage<kActivation, kFormat>::kCount>& turn,
                              Sums<kTokens>& sums) {
  using S = Stage<kActivation, kFormat>;
  constexpr bool kChained = S::kScaledInputs || kFormat == WeightFormat::kFp8;
  // Two chains at a time where the registers allow it.
  constexpr int kChains = !kChained ? 0 : kTokens <= 64 ? 2 : 1;
  constexpr int kParts = Fragments<kActivation>::kParts, kSteps = 2 * kParts;
  float chains[kChains == 0 ? 1 : kChains][kChains == 0 ? 1 : kTokens / 2];
  Fragments<kActivation> a[2];
#pragma unroll
  for (int i = 0; i < kTokens / 2; ++i) sums[0][i] = sums[1][i] = 0;

  barriers.full[turn.stage].wait(turn.parity);
  decode<kActivation, kFormat>(stages + turn.stage * S::kBytes, 0, a[0]);
  for (int block = 0; block < blocks; ++block) {
    const int current = turn.stage;
    const uint8_t* stage = stages + current * S::kBytes;
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      const int product = step / kParts, part = step % kParts;
      if constexpr (kChained) {
        multiply<kActivation, kFormat, kTokens>(stage, part, a[step % 2],
                                                chains[kChains == 2 ? product : 0], part > 0);
      } else {
        multiply<kActivation, kFormat, kTokens>(stage, part, a[step % 2], sums[product], true);
      }
      // Until the step before is done, where it may not be: then its fragments' registers are free.
      if constexpr (kChains != 1 || kParts > 1) {
        if (step > 0) ptx::wgmma_wait<1>();
      }
      if constexpr (kChains == 2) {
        if (step == kParts) add_chain<kActivation, kFormat, kTokens>(stage, chains[0], sums[0]);
      }
      if (step + 1 < kSteps) {
        decode<kActivation, kFormat>(stage, step + 1, a[(step + 1) % 2]);
      } else {
        turn.advance();
        if (block + 1 < blocks) {
          barriers.full[turn.stage].wait(turn.parity);
          decode<kActivation, kFormat>(stages + turn.stage * S::kBytes, 0, a[0]);
        }
      }
      if constexpr (kChained) {
        if (part == kParts - 1 && (kChains == 1 || product == 1)) {
          ptx::wgmma_wait<0>();
          add_chain<kActivation, kFormat, kTokens>(stage, chains[kChains == 2 ? product : 0],
                                                   sums[product]);
        }
      }
    }
    // Nothing may be in flight where the loop turns: the compiler would serialise every product.
    if constexpr (!kChained) ptx::wgmma_wait<0>();
    release(barriers, current);
  }
  ptx::wgmma_hold(sums[0]);
  ptx::wgmma_hold(sums[1]);
}

}  // namespace plimsoll::gpu
