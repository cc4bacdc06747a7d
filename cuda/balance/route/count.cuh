// Counting: how often the tokens of a source chose each expert, and, for experts with copies on
// several ranks, which occurrence of its expert each choice is, in token order. Every warp of a
// cluster has a run of tokens, in order; every block puts a slice of the experts together.
#pragma once

#include "cuda/balance/route/gpu_route.h"
#include "cuda/balance/route/mailbox.cuh"

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
  Divisor per_token;
  int begin, end;   // tokens of this warp
  int block_begin;  // the block's first token

  __device__ WarpTokens(const Batch<Id>& batch, Divisor by_k, const Block& b) {
    k = batch.k;
    m = b.shape.num_shared_experts;
    per_token = by_k;
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

  // Of a chunk of choices.
  __device__ void load(int first, int lane, Id (&id)[kAtOnce]) const {
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      const int i = first + 32 * j + lane;
      id[j] = i < end * k ? ids[i] : -1;
    }
  }
  __device__ void load_weights(int first, int lane, float (&weight)[kAtOnce]) const {
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      const int i = first + 32 * j + lane;
      weight[j] = weights != nullptr && i < end * k ? weights[i] : 0.0f;
    }
  }
  __device__ void store_weights(int first, int lane, const float (&weight)[kAtOnce]) const {
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      const int i = first + 32 * j + lane;
      if (i < end * k) out_weights[cell(i)] = weight[j];
    }
  }
  // Copies the weights of the choices, the first of which are here already; those of shared experts
  // are written with their ranks.
  __device__ void copy_weights(int lane, float (&weight)[kAtOnce]) const {
    if (out_weights == nullptr) return;
    store_weights(begin * k, lane, weight);
#pragma unroll 1
    for (int first = begin * k + kChunk; first < end * k; first += kChunk) {
      load_weights(first, lane, weight);
      store_weights(first, lane, weight);
    }
  }
  __device__ int token_of(int i) const {
    return per_token.divide(i);
  }
  // Where the i-th choice of the source goes.
  __device__ int cell(int i) const {
    return token_of(i) * m + i;
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

// Of a shared expert, in s.offers, before a preference is known.
inline constexpr uint32_t kInactive = UINT32_MAX;     // no token
inline constexpr uint32_t kNoOffer = UINT32_MAX - 1;  // its token visits no rank with a quota

inline constexpr int kMaxKeyBits = 12;

// The lanes with the same key, of num_bits bits: a vote per bit, several times as fast as
// __match_any_sync where keys differ.
__device__ inline unsigned lanes_with(int key, int num_bits) {
  unsigned peers = kFullWarp;
#pragma unroll
  for (int bit = 0; bit < kMaxKeyBits; ++bit) {
    if (bit >= num_bits) break;
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

// The same, with a place for the lanes of every key, 0 before and after.
template <typename T>
__device__ inline int number_among_peers(int key,
                                         SharedArray<uint32_t> lanes_of,
                                         SharedArray<T> counter,
                                         int lane) {
  const int at = max(key, 0);
  if (key >= 0) atomicOr(&lanes_of[at], 1u << lane);
  __syncwarp();
  const unsigned peers = lanes_of[at];
  const int before = counter[at];
  const unsigned lower = peers & ((1u << lane) - 1);
  __syncwarp();
  if (key >= 0 && lower == 0) {
    counter[at] = static_cast<T>(before + __popc(peers));
    lanes_of[at] = 0;
  }
  __syncwarp();
  return before + __popc(lower);
}

// Adds this warp's choices to block_count, leaves its active tokens in warp_active, and with
// kNumber the choices in s.choices, numbered, their counts by item in warp_count, and no offers
// yet. id: its first chunk.
template <Size kSize, bool kNumber, typename Id>
__device__ void count_tokens(const Block& b,
                             const Tables& t,
                             const WarpTokens<Id>& tokens,
                             Id (&id)[kAtOnce],
                             const Scratch& s) {
  const int num_items = b.shape.max_items();
  const int num_bits = 32 - __clz(num_items);
  const auto counter = s.warp_count.from(b.warp * num_items);
  const auto peers = s.peers.from(b.warp * num_items);
  const auto choices = s.choices.from(-tokens.block_begin * tokens.k);
  const auto is_active = s.is_active.from(-tokens.block_begin);
  const auto offers = s.offers.from(-tokens.block_begin * tokens.m);
  const int end = tokens.end * tokens.k;
#pragma unroll 1
  for (int first = tokens.begin * tokens.k; first < end; first += kChunk) {
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      if (first + 32 * j >= end) break;
      const int i = first + 32 * j + b.lane;
      const bool is_chosen = id[j] >= 0 && id[j] < b.shape.num_experts;
      const int expert = is_chosen ? static_cast<int>(id[j]) : -1;
      if (is_chosen) {
        atomicAdd(&s.block_count[expert], 1);
        is_active[tokens.token_of(i)] = 1;
      }
      if (!kNumber) continue;
      int number = 0;
      if constexpr (kSize != Size::kPlain) {
        const int entry = t.expert_item[max(expert, 0)];
        const int item = is_chosen && entry != kNone ? entry : -1;
        number = kSize != Size::kLarge || b.shape.has_few_items()
                     ? number_among_peers(item, peers, counter, b.lane)
                     : number_among_equals(item, num_bits, counter, b.lane);
      }
      if (i < end) choices[i] = pack_choice(expert, number);
    }
    if (first + kChunk < end) tokens.load(first + kChunk, b.lane, id);
  }
  __syncwarp();
  int num_active = 0;
  for (int token = tokens.begin + b.lane; token < tokens.end; token += 32) {
    const bool active = is_active[token] != 0;
    num_active += active ? 1 : 0;
    for (int j = 0; kNumber && j < tokens.m; ++j) {
      offers[token * tokens.m + j] = active ? kNoOffer : kInactive;
    }
  }
  num_active = sum_of_warp(num_active);
  if (b.lane == 0) s.warp_active[b.warp] = num_active;
}

// What starts at zero.
__device__ inline void clear(const Block& b, const Memory& memory) {
  const SharedArray<uint4> cleared{memory.cleared_at};
#pragma unroll 1
  for (int i = b.thread; i < (memory.num_bytes - memory.cleared_at) / 16; i += kThreads) {
    cleared[i] = {0, 0, 0, 0};
  }
}

// The cells of this block's slice of the count matrix, a thread's share of them.
struct SliceCells {
  static constexpr int kFirst = 2;  // cells of a thread that are loaded early
  Divisor per_slice;
  int size, rest;
  bool has_own_row;

  __device__ SliceCells(const Block& b, Divisor by_size, bool has_own)
      : per_slice(by_size),
        size(b.shape.slice_size()),
        rest(b.shape.num_experts - b.index * size),
        has_own_row(has_own) {}

  __device__ int load(const Block& b, const int32_t* counts, int i) const {
    const int r = per_slice.divide(i);
    const int c = i - r * size;
    if (r >= b.shape.num_ranks || c >= rest || (r == b.source && !has_own_row)) return 0;
    return counts[static_cast<size_t>(r) * b.shape.row_size() + b.index * size + c];
  }
  __device__ void add(const Block& b, const Scratch& s, int i, int count) const {
    if (count == 0) return;
    const int r = per_slice.divide(i);
    const int c = i - r * size;
    if (r == b.source) {
      s.slice_own[c] = count;
      return;
    }
    atomicAdd(&s.slice_total[c], count);
    if (r < b.source) atomicAdd(&s.slice_before[c], count);
  }

  __device__ void load_first(const Block& b, const int32_t* counts, int (&cell)[kFirst]) const {
#pragma unroll
    for (int j = 0; j < kFirst; ++j) cell[j] = load(b, counts, b.thread + j * kThreads);
  }
  __device__ void add_all(const Block& b,
                          const int32_t* counts,
                          const int (&cell)[kFirst],
                          const Scratch& s) const {
#pragma unroll
    for (int j = 0; j < kFirst; ++j) add(b, s, b.thread + j * kThreads, cell[j]);
#pragma unroll 1
    for (int i = b.thread + kFirst * kThreads; i < size * b.shape.num_ranks; i += kThreads) {
      add(b, s, i, load(b, counts, i));
    }
  }
};

// Tells every block, a warp each, what this one counted of its slice, and its active tokens.
__device__ inline void send_counts(const Block& b, const Scratch& s) {
  static_assert(kWarps == kBlocks && kSlices == kBlocks);
  const int size = b.shape.slice_size();
  const auto row = s.sent_counts.from(b.index * b.shape.slice_row_size());
  const int active = sum_of_warp(b.lane < kWarps ? s.warp_active[b.lane] : 0);
#pragma unroll 1
  for (int c = 4 * b.lane; c <= size; c += 128) {
    uint32_t counts[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      counts[j] = c < size ? s.block_count[b.warp * size + c + j] : active;
    }
    send(s, kCounts, b.warp, row, c, {counts[0], counts[1], counts[2], counts[3]});
  }
}

// What the blocks counted of an expert of this slice, and what the blocks below one did.
struct BlockSums {
  int all, below;
};
__device__ inline BlockSums sum_of_blocks(const Block& b, const Scratch& s, int c, int block) {
  BlockSums sums{0, 0};
#pragma unroll
  for (int i = 0; i < kBlocks; ++i) {
    const int count = s.sent_counts[i * b.shape.slice_row_size() + c];
    sums.all += count;
    sums.below += i < block ? count : 0;
  }
  return sums;
}

// The active tokens of this source, by one warp, which leaves those of the blocks in block_active.
__device__ inline int sum_active(const Block& b, const Scratch& s) {
  const int active = b.lane < kBlocks
                         ? s.sent_counts[b.lane * b.shape.slice_row_size() + b.shape.slice_size()]
                         : 0;
  if (b.lane < kBlocks) s.block_active[b.lane] = active;
  return sum_of_warp(active);
}

// Puts this slice's columns together and tells every block, a warp each. own_row: where this
// source's row goes; null if it was there before.
__device__ inline void send_columns(const Block& b, const Scratch& s, int32_t* own_row) {
  const int size = b.shape.slice_size();
  const int begin = b.index * size;
#pragma unroll 1
  for (int c = b.lane; c < size; c += 32) {
    const BlockSums sums = sum_of_blocks(b, s, c, b.warp);
    const int own = own_row == nullptr ? s.slice_own[c] : sums.all;
    if (own_row != nullptr && b.warp == 0 && begin + c < b.shape.num_experts) {
      own_row[begin + c] = own;
    }
    send(s, kColumns, b.warp, s.column, begin + c,
         {static_cast<uint32_t>(s.slice_total[c] + own), static_cast<uint32_t>(own),
          static_cast<uint32_t>(s.slice_before[c]), static_cast<uint32_t>(sums.below)});
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
