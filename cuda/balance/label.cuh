// Labels of the flow that levels the ranks: shortest distances to a rank with room, whoever finds
// them.
#pragma once

#include "cuda/balance/scratch.cuh"
#include "plimsoll/level.h"

namespace plimsoll::gpu {

__device__ inline int in_cost(const Scratch& s, int arc) {
  return s.amount[arc] < s.local[arc] ? 0 : kHopsPerMessage;
}
__device__ inline int out_cost(const Scratch& s, int arc) {
  return s.amount[arc] > s.local[arc] ? -kHopsPerMessage : 0;
}

__device__ inline void start_labels(const Block& b, const Tables& t, const Scratch& s) {
  for (int r = b.thread; r < b.shape.num_ranks; r += kThreads) {
    s.rank_label[r] = s.load[r] < s.capacity[r] ? 0 : kUnreachable;
  }
  for (int i = b.thread; i < t.num_items; i += kThreads) s.item_label[i] = kUnreachable;
}

// Shortest distances to a rank with room, by rounds over all arcs until none changes.
__device__ inline void label(const Block& b, const Tables& t, const Scratch& s) {
  start_labels(b, t, s);
  bool has_changed = true;
  while (__syncthreads_or(has_changed)) {
    has_changed = false;
#pragma unroll 1
    for (int a = b.thread; a < t.num_arcs; a += kThreads) {
      const int from = s.rank_label[t.arc_rank[a]];
      if (from != kUnreachable) atomicMin(&s.item_label[t.arc_item[a]], from + in_cost(s, a));
    }
    __syncthreads();
#pragma unroll 1
    for (int a = b.thread; a < t.num_arcs; a += kThreads) {
      const int through = s.item_label[t.arc_item[a]];
      if (s.amount[a] == 0 || through == kUnreachable) continue;
      const int candidate = through + out_cost(s, a) + 1;
      has_changed |= candidate < atomicMin(&s.rank_label[t.arc_rank[a]], candidate);
    }
    __syncthreads();
  }
}

// The ways that cost no message: units of an item that are away from home anyway go from one of its
// ranks to another. Sound as long as no item is short of units at home anywhere, as in the start.
class FreeWays {
 public:
  __device__ FreeWays(const Block& b, const Tables& t, const Scratch& s)
      : b_(b), t_(t), s_(s), num_words_(b.shape.num_words()) {}

  // By one warp: labels the ranks that reach room so, and the items on the way. False, without
  // labels of items, if no rank with excess is among them.
  __device__ bool label() const {
    collect_reach();
    uint32_t met[kMaxWords] = {};
#pragma unroll
    for (int j = 0; j < kMaxWords; ++j) {
      if (j >= num_words_) break;
      const int r = 32 * j + b_.lane;
      const bool has_room = r < b_.shape.num_ranks && s_.load[r] < s_.capacity[r];
      if (r < b_.shape.num_ranks) s_.rank_label[r] = has_room ? 0 : kUnreachable;
      met[j] = __ballot_sync(kFullWarp, has_room);
    }
    bool meets_excess = false;
    uint32_t is_met[kMaxWords];
#pragma unroll
    for (int j = 0; j < kMaxWords; ++j) is_met[j] = met[j];
    for (int hops = 1;; ++hops) {
      uint32_t next[kMaxWords] = {};
      uint32_t any = 0;
#pragma unroll
      for (int j = 0; j < kMaxWords; ++j) {
        if (j >= num_words_) break;
        const int r = 32 * j + b_.lane;
        const bool reaches =
            r < b_.shape.num_ranks && (is_met[j] >> b_.lane & 1) == 0 && meets(r, met);
        next[j] = __ballot_sync(kFullWarp, reaches);
        any |= next[j];
        if (!reaches) continue;
        s_.rank_label[r] = hops;
        meets_excess |= s_.load[r] > s_.capacity[r];
      }
      if (any == 0) break;
#pragma unroll
      for (int j = 0; j < kMaxWords; ++j) met[j] = next[j], is_met[j] |= next[j];
    }
    if (!__any_sync(kFullWarp, meets_excess)) return false;
    label_items();
    return true;
  }

 private:
  static constexpr int kMaxWords = kMaxRanks / 32;

  __device__ int first_arc() const {
    return b_.shape.shared_is_item ? b_.shape.num_ranks : 0;
  }

  // Where the free units on a rank may go.
  __device__ void collect_reach() const {
#pragma unroll 1
    for (int i = b_.lane; i < b_.shape.num_ranks * num_words_; i += 32) s_.reach[i] = 0;
    __syncwarp();
#pragma unroll 1
    for (int a = first_arc() + b_.lane; a < t_.num_arcs; a += 32) {
      if (s_.amount[a] <= s_.local[a]) continue;
      const int to = t_.arc_rank[a] * num_words_;
      const int item = t_.arc_item[a] * num_words_;
#pragma unroll 1
      for (int j = 0; j < num_words_; ++j) atomicOr(&s_.reach[to + j], t_.item_ranks[item + j]);
    }
    __syncwarp();
  }

  __device__ bool meets(int rank, const uint32_t (&met)[kMaxWords]) const {
    uint32_t common = 0;
#pragma unroll
    for (int j = 0; j < kMaxWords; ++j) {
      if (j < num_words_) common |= s_.reach[rank * num_words_ + j] & met[j];
    }
    return common != 0;
  }

  __device__ void label_items() const {
#pragma unroll 1
    for (int i = b_.lane; i < t_.num_items; i += 32) s_.item_label[i] = kUnreachable;
    __syncwarp();
#pragma unroll 1
    for (int a = first_arc() + b_.lane; a < t_.num_arcs; a += 32) {
      const int rank = s_.rank_label[t_.arc_rank[a]];
      if (rank != kUnreachable) {
        atomicMin(&s_.item_label[t_.arc_item[a]], rank + kHopsPerMessage);
      }
    }
    __syncwarp();
  }

  const Block& b_;
  const Tables& t_;
  const Scratch& s_;
  const int num_words_;
};

}  // namespace plimsoll::gpu
