// What attention's block works with: its items, the gathering of keys into shared memory, and the
// softmax as it goes on over the keys.
#pragma once

#include <cuda_bf16.h>

#include "cuda/kernels/attention.h"
#include "cuda/kernels/attention_output.cuh"
#include "cuda/kernels/ptx/async_copy.cuh"
#include "cuda/kernels/ptx/mbarrier.cuh"

namespace plimsoll::gpu::attending {

constexpr int kHeads = 64;                             // of a block
constexpr int kKeys = 64;                              // of a step
constexpr int kSegments = kHeadDim / 64;               // of a row, 128 bytes each
constexpr int kSegmentBytes = kKeys * 128;             // a segment of all 64 rows
constexpr int kTileBytes = kSegments * kSegmentBytes;  // q, or the keys of a step
constexpr int kBuffers = 2;
constexpr int kThreads = 384;
constexpr int kConsumers = 256;
constexpr int kHalfKeys = kKeys / 2;              // of a consumer warpgroup
constexpr int kWeightBytes = kHeads * kKeys * 2;  // a step's weights in bf16
constexpr float kLog2E = 1.4426950408889634f;

// What a part leaves in the workspace: per (token, part, head) the sums over its keys relative to
// its largest logit (in powers of two), that logit, and the sum of the weights.
struct Parts {
  int count;  // of a token with max_keys
  float* sums;
  float2* peak_and_weight;

  __host__ __device__ int64_t row(int64_t token, int part, int heads) const {
    return (token * count + part) * heads;
  }
};

struct Shared {
  ptx::Mbarrier queries, full[kBuffers], empty[kBuffers];
  float peaks[2][2][kHeads];          // by parity of the step, warpgroup
  float weights[2][2][kHeads];        // by parity of the item, warpgroup
  alignas(16) float sink[2][kHeads];  // by parity of the item
  alignas(16) float2 rotation[2][kRotated / 2];
};
constexpr int kSharedBytes =
    (1 + kBuffers) * kTileBytes + 2 * kWeightBytes + int{sizeof(Shared)} + 1024;

// Part `part` of a token's keys for 64 heads. Items without keys but the first of a token are void.
struct Item {
  int64_t token;
  int part, first_head, first_key, num_keys, all_keys;

  __device__ Item(const AttentionInput& in, const Parts& parts, int index) {
    part = index % parts.count;
    const int blocks = in.heads / kHeads;
    first_head = index / parts.count % blocks * kHeads;
    token = index / parts.count / blocks;
    all_keys = in.num_keys[token];
    first_key = part * kKeysOfPart;
    num_keys = min(kKeysOfPart, all_keys - first_key);
  }
  __device__ bool is_void() const { return part > 0 && num_keys <= 0; }
};

// By the gathering warpgroup: what an item's end needs, then its keys, step after step. `step` and
// `parity`: of all items so far.
__device__ inline void gather(const AttentionInput& in,
                              const Item& item,
                              int& step,
                              int parity,
                              uint8_t* buffers,
                              Shared& shared) {
  const int thread = threadIdx.x % 128;
  const int piece = thread % 8;
  const int32_t* rows = in.key_rows + item.token * in.key_stride + item.first_key;
  for (int first = 0; first < item.num_keys; first += kKeys, ++step) {
    const int buffer = step % kBuffers;
    int64_t from[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int key = first + thread / 8 + 16 * i;
      from[i] = key < item.num_keys ? rows[key] : -1;
    }
    shared.empty[buffer].wait(step / kBuffers % 2 ^ 1);
    if (first == 0 && thread < 16) {
      ptx::copy_16(&shared.sink[parity][thread * 4], in.sink + item.first_head + thread * 4, true);
      if (in.rotation != nullptr) {
        ptx::copy_16(&shared.rotation[parity][thread * 2],
                     in.rotation + item.token * (kRotated / 2) + thread * 2, true);
      }
    }
    uint8_t* tile = buffers + buffer * kTileBytes;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = thread / 8 + 16 * i;
      const auto* key =
          reinterpret_cast<const uint8_t*>(in.keys + max(from[i], int64_t{0}) * kHeadDim);
      uint8_t* to = tile + row * 128 + (piece ^ (row % 8)) * 16;
#pragma unroll
      for (int s = 0; s < kSegments; ++s) {
        ptx::copy_16(to + s * kSegmentBytes, key + s * 128 + piece * 16, from[i] >= 0);
      }
    }
    ptx::arrive_after_copies(&shared.full[buffer]);
  }
}

__device__ inline float largest_of_quad(float x) {
  x = fmaxf(x, __shfl_xor_sync(0xFFFFFFFF, x, 1));
  return fmaxf(x, __shfl_xor_sync(0xFFFFFFFF, x, 2));
}
__device__ inline float sum_of_quad(float x) {
  x += __shfl_xor_sync(0xFFFFFFFF, x, 1);
  return x + __shfl_xor_sync(0xFFFFFFFF, x, 2);
}
__device__ inline uint32_t pack(float x, float y) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(x, y);
  return reinterpret_cast<const uint32_t&>(pair);
}

// The softmax of two rows (heads) of a thread as it goes on over the keys, in powers of two.
struct Running {
  float peak[2] = {-INFINITY, -INFINITY};
  float weight[2] = {0, 0};  // of this thread's columns

  // The largest of this warpgroup's logits of a step; those past the last key become -infinity.
  __device__ void mask(float (&logits)[kHalfKeys / 2], int keys_left, float (&largest)[2]) const {
    const int column = threadIdx.x % 4 * 2;
    largest[0] = largest[1] = -INFINITY;
#pragma unroll
    for (int i = 0; i < kHalfKeys / 2; ++i) {
      if (i / 4 * 8 + column + i % 2 >= keys_left) logits[i] = -INFINITY;
      largest[i / 2 % 2] = fmaxf(largest[i / 2 % 2], logits[i]);
    }
    largest[0] = largest_of_quad(largest[0]);
    largest[1] = largest_of_quad(largest[1]);
  }

  // Turns the logits of a step into weights, given the largest of row r over both warpgroups;
  // returns by what sums so far must be multiplied.
  __device__ float add(float (&logits)[kHalfKeys / 2], int r, float largest, float scale) {
    const float next = fmaxf(peak[r], largest * scale);
    const float shrink = exp2f(peak[r] - next);
    peak[r] = next;
    float sum = 0;
#pragma unroll
    for (int i = 0; i < kHalfKeys / 2; ++i) {
      if (i / 2 % 2 != r) continue;
      logits[i] = exp2f(fmaf(logits[i], scale, -next));
      sum += logits[i];
    }
    weight[r] = fmaf(weight[r], shrink, sum);
    return shrink;
  }
};

}  // namespace plimsoll::gpu::attending
