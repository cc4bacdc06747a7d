// Counting: how often the tokens of a source chose each expert, and, for experts with copies on
// several ranks, which occurrence of its expert each choice is, in token order. Every warp of a
// cluster has a run of tokens, in order.
#pragma once

#include "cuda/balance/gpu_route.h"
#include "cuda/balance/mailbox.cuh"

namespace plimsoll::gpu {

// How many tokens a warp has, the last ones fewer.
PLIMSOLL_HD int tokens_per_warp(int num_tokens) {
  return (num_tokens + kBlocks * kWarps - 1) / (kBlocks * kWarps);
}

inline constexpr int kAtOnce = 4;  // choices a lane has in flight
inline constexpr int kChunk = 32 * kAtOnce;

// The tokens of one source, and the part of them that is a warp's.
template <typename Id>
struct WarpTokens {
  const Id* ids;  // [num_tokens, k], of the source
  const float* weights;
  Id* out;  // [num_tokens, k + m], of the source
  float* out_weights;
  float shared_weight;
  int k, m;
  int begin, end;   // tokens of this warp
  int block_begin;  // the block's first token

  __device__ WarpTokens(const Batch<Id>& batch, const Block& b) {
    k = batch.k;
    m = b.shape.num_shared_experts;
    const size_t first = static_cast<size_t>(b.source - batch.first_source) * batch.num_tokens;
    ids = batch.topk_ids + first * k;
    weights = batch.topk_weights == nullptr ? nullptr : batch.topk_weights + first * k;
    out = batch.physical_ids + first * (k + m);
    out_weights = batch.weights == nullptr ? nullptr : batch.weights + first * (k + m);
    shared_weight = batch.shared_weight;
    const int each = tokens_per_warp(batch.num_tokens);
    block_begin = b.index * kWarps * each;
    begin = min(block_begin + b.warp * each, batch.num_tokens);
    end = min(begin + each, batch.num_tokens);
  }

  // The experts of a chunk of choices, -1 for none.
  __device__ void load(int first, int num_experts, int lane, int (&expert)[kAtOnce]) const {
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      const int i = first + 32 * j + lane;
      const Id id = i < end * k ? ids[i] : -1;
      expert[j] = id >= 0 && id < num_experts ? static_cast<int>(id) : -1;
    }
  }
  // Where the i-th choice of the source goes.
  __device__ size_t cell(int i) const {
    return static_cast<size_t>(static_cast<unsigned>(i) / static_cast<unsigned>(k)) * m + i;
  }
};

// A choice in shared memory, until its slot is known: its expert, or none, and its number among
// those of its warp for the same expert.
inline constexpr int kExpertBits = 11;
__device__ inline uint32_t pack_choice(int expert, int number) {
  return static_cast<uint32_t>(number << kExpertBits | (expert + 1));
}
__device__ inline int expert_of(uint32_t choice) {
  return static_cast<int>(choice & ((1u << kExpertBits) - 1)) - 1;
}
__device__ inline int number_of(uint32_t choice) {
  return static_cast<int>(choice >> kExpertBits);
}

// Which choices of a token come before, for at most 32 a token, as the chunks of a warp go by.
struct Earlier {
  unsigned previous = 0;  // the 32 choices before these, whether each names an expert

  // Of this lane's choice, number `place` of its token: whether any before it names an expert.
  __device__ bool any(unsigned now, int place, int lane) const {
    return place > 0 && __funnelshift_r(previous, now, lane) >> (32 - place) != 0;
  }
};

// The lanes with the same key, of num_bits bits: a vote per bit, several times as fast as
// __match_any_sync where keys differ.
__device__ inline unsigned lanes_with(int key, int num_bits) {
  unsigned peers = kFullWarp;
  for (int bit = 0; bit < num_bits; ++bit) {
    const bool is_set = key >> bit & 1;
    const unsigned votes = __ballot_sync(kFullWarp, is_set);
    peers &= is_set ? votes : ~votes;
  }
  return peers;
}

// Numbers equal keys >= 0 of a warp in lane order, after those that `counter` has seen already.
// Keys lie below 2^num_bits - 1.
template <typename T>
__device__ inline int number_among_equals(int key, int num_bits, SharedArray<T> counter, int lane) {
  const unsigned peers = lanes_with(key, num_bits);
  const unsigned lower = peers & ((1u << lane) - 1);
  const int before = key < 0 ? 0 : counter[key];
  __syncwarp();
  if (key >= 0 && lower == 0) counter[key] = static_cast<T>(before + __popc(peers));
  __syncwarp();
  return key < 0 ? 0 : before + __popc(lower);
}

// Adds this warp's choices to block_count, leaves its active tokens in warp_active, and with
// kNumber the choices in s.choices, numbered, and their counts by item in warp_count. `expert`: its
// first chunk.
template <bool kNumber, typename Id>
__device__ void count_tokens(const Block& b,
                             const Tables& t,
                             const WarpTokens<Id>& tokens,
                             int (&expert)[kAtOnce],
                             const Scratch& s) {
  const int num_items = b.shape.max_items();
  const int num_bits = 32 - __clz(num_items);
  const auto counter = s.warp_count.from(b.warp * num_items);
  const int end = tokens.end * tokens.k;
  int place = b.lane % tokens.k;
  const int step = 32 % tokens.k;
  int num_active = 0;
  Earlier earlier;
  for (int first = tokens.begin * tokens.k; first < end; first += kChunk) {
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      const unsigned now = __ballot_sync(kFullWarp, expert[j] >= 0);
      num_active +=
          __popc(__ballot_sync(kFullWarp, expert[j] >= 0 && !earlier.any(now, place, b.lane)));
      earlier.previous = now;
      place += step;
      if (place >= tokens.k) place -= tokens.k;
      if (expert[j] >= 0) atomicAdd(&s.block_count[expert[j]], 1);
      if (!kNumber) continue;
      const int entry = expert[j] < 0 ? kNone : t.expert_item[expert[j]];
      const int item = entry == kNone ? -1 : entry;
      int number = 0;
      if (__any_sync(kFullWarp, item >= 0)) {
        number = number_among_equals(item, num_bits, counter, b.lane);
      }
      const int i = first + 32 * j + b.lane;
      if (i < end) s.choices[i - tokens.block_begin * tokens.k] = pack_choice(expert[j], number);
    }
    tokens.load(first + kChunk, b.shape.num_experts, b.lane, expert);
  }
  if (b.lane == 0) {
    s.warp_active[b.warp] = num_active;
    atomicAdd(&s.block_count[b.shape.num_experts], num_active);
  }
}

__device__ inline void clear_counts(const Block& b, const Scratch& s) {
  for (int e = b.thread; e < b.shape.count_row_size(); e += kThreads) s.block_count[e] = 0;
  for (int i = b.thread; i < kWarps * b.shape.max_items(); i += kThreads) s.warp_count[i] = 0;
  for (int c = b.thread; c < b.shape.slice_size(); c += kThreads) {
    s.slice_total[c] = s.slice_before[c] = 0;
  }
}

// One cell of this block's slice of the count matrix a thread.
struct SliceCells {
  int size, rest;
  __device__ SliceCells(const Block& b)
      : size(b.shape.slice_size()), rest(b.shape.num_experts - b.index * size) {}

  __device__ int load(const Block& b, const int32_t* counts, int i, bool has_own_row) const {
    const int r = i / size;
    const int c = i - r * size;
    if (r >= b.shape.num_ranks || c >= rest || (r == b.source && !has_own_row)) return 0;
    return counts[static_cast<size_t>(r) * b.shape.row_size() + b.index * size + c];
  }
  __device__ void add(const Block& b, const Scratch& s, int i, int count) const {
    if (count == 0) return;
    const int r = i / size;
    atomicAdd(&s.slice_total[i - r * size], count);
    if (r < b.source) atomicAdd(&s.slice_before[i - r * size], count);
  }
};

// Tells all blocks, a warp each, what this one counted and added up.
__device__ inline void send_counts(const Block& b, const Scratch& s) {
  static_assert(kWarps == kBlocks);
  const int num_vectors = b.shape.count_row_size() / 8;
  const auto row = s.sent_counts.from(b.index * b.shape.count_row_size());
  for (int v = b.lane; v < num_vectors; v += 32) {
    uint32_t pairs[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      pairs[j] = s.block_count[8 * v + 2 * j] | s.block_count[8 * v + 2 * j + 1] << 16;
    }
    send(s, kCounts, b.warp, row, 8 * v, {pairs[0], pairs[1], pairs[2], pairs[3]});
  }
  const int size = b.shape.slice_size();
  for (int c = 4 * b.lane; c < size; c += 128) {
    const auto vector = [&](const SharedArray<int32_t>& from) {
      return uint4{static_cast<unsigned>(from[c]), static_cast<unsigned>(from[c + 1]),
                   static_cast<unsigned>(from[c + 2]), static_cast<unsigned>(from[c + 3])};
    };
    send(s, kCounts, b.warp, s.column_total, b.index * size + c, vector(s.slice_total));
    send(s, kCounts, b.warp, s.column_before, b.index * size + c, vector(s.slice_before));
  }
}

// Turns the counts of the warps into the number of each warp's first: those of lower warps. Returns
// their sum.
template <typename T>
__device__ inline int start_from(SharedArray<T> of_warp, int stride) {
  int counts[kWarps];
#pragma unroll
  for (int w = 0; w < kWarps; ++w) counts[w] = of_warp[w * stride];
  int sum = 0;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) {
    of_warp[w * stride] = static_cast<T>(sum);
    sum += counts[w];
  }
  return sum;
}

}  // namespace plimsoll::gpu
