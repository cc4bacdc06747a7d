// From how much of each item every rank takes to what one source sends where: quotas.cc of
// src/balance/route, for one source. Its interval of the units left over is found by sums before
// it. See "From amounts to tokens" in docs/balancing.md.
#pragma once

#include "cuda/balance/route/gpu_route.h"
#include "cuda/balance/route/spread.cuh"

namespace plimsoll::gpu {

// How an item is split: every rank keeps what it can of its own; what is left over lies end to end,
// sources ascending, against the ranks that take more than their own, ascending. The source's
// interval there overlaps those of the ranks that serve it.
struct LeftOver {
  int begin, end;

  // What ranks that take units up to `taken_end` serve of it.
  __device__ int served(int taken_end) const { return max(min(end, taken_end) - begin, 0); }
};

// The quota of a routed item's arc, and those before it.
__device__ inline int quota_end_of(const Block& b, const Tables& t, const Scratch& s, int arc) {
  constexpr int kFew = 4;  // arcs whose loads are under way at a time
  const int item = t.arc_item[arc];
  const Column column = s.column[t.item_expert[item]];
  const int end = t.item_begin[item + 1];
  int kept_before = 0;
  int kept_own = 0;
  int taken_end = 0;
#pragma unroll 1
  for (int first = t.item_begin[item]; first < end; first += kFew) {
    int amount[kFew], local[kFew], rank[kFew];
#pragma unroll
    for (int i = 0; i < kFew; ++i) {
      const int q = min(first + i, end - 1);
      amount[i] = s.amount[q];
      local[i] = s.local[q];
      rank[i] = t.arc_rank[q];
    }
#pragma unroll
    for (int i = 0; i < kFew; ++i) {
      const int kept = first + i < end ? min(amount[i], local[i]) : 0;
      kept_before += rank[i] < b.source ? kept : 0;
      kept_own += rank[i] == b.source ? kept : 0;
      taken_end += first + i <= arc ? amount[i] - kept : 0;
    }
  }
  const int begin = column.before - kept_before;
  const LeftOver left{begin, begin + column.own - kept_own};
  return left.served(taken_end) + (t.arc_rank[arc] >= b.source ? kept_own : 0);
}

// The shared expert, whose arcs are the ranks, by one warp; leaves its quotas away from home in
// s.away_begin.
__device__ inline void split_shared(const Block& b, const Scratch& s) {
  int begin = 0;
#pragma unroll 1
  for (int r = b.lane; r < b.source; r += 32) begin += max(s.local[r] - s.amount[r], 0);
  begin = sum_of_warp(begin);
  const int kept_own = min(s.amount[b.source], s.local[b.source]);
  const LeftOver left{begin, begin + s.local[b.source] - kept_own};
  int taken_sum = 0;
#pragma unroll 1
  for (int first = 0; first < b.shape.num_ranks; first += 32) {
    const int r = first + b.lane;
    const bool is_rank = r < b.shape.num_ranks;
    const int taken = is_rank ? max(s.amount[r] - s.local[r], 0) : 0;
    const int taken_end = taken_sum + scan_lanes(taken, b.lane);
    taken_sum = __shfl_sync(kFullWarp, taken_end, 31);
    if (!is_rank) continue;
    s.away_begin[r + 1] = left.served(taken_end);
    s.quota_end[r] = left.served(taken_end) + (r >= b.source ? kept_own : 0);
  }
  if (b.lane == 0) s.away_begin[0] = 0;
}

__device__ inline void split_items(const Block& b, const Tables& t, const Scratch& s) {
  if (b.warp == kWarps - 1) {
    if (b.shape.shared_is_item) split_shared(b, s);
  } else {
#pragma unroll 1
    for (int a = first_routed_arc(b) + b.thread; a < t.num_arcs; a += kThreads - 32) {
      s.quota_end[a] = quota_end_of(b, t, s, a);
    }
  }
  __syncthreads();
}

// What arc a of an item serves of this source.
__device__ inline int quota_of(const Tables& t, const Scratch& s, int a) {
  const bool is_first = a == t.item_begin[t.arc_item[a]];
  return s.quota_end[a] - (is_first ? 0 : s.quota_end[a - 1]);
}

// For those who want to see the decision: by the first block of the cluster.
__device__ inline void write_decision(
    const Block& b, const Tables& t, const Scratch& s, const Decision& out, int source_index) {
  const bool is_wanted = out.bound != nullptr || out.routed != nullptr || out.shared != nullptr;
  if (!is_wanted || b.index != 0) [[likely]]
    return;
  if (out.bound != nullptr && b.thread == 0) out.bound[source_index] = s.bound[0];
  if (out.routed != nullptr) {
    int32_t* routed = out.routed + static_cast<size_t>(source_index) * b.shape.num_slots;
    for (int slot = b.thread; slot < b.shape.num_slots; slot += kThreads) {
      const int expert = t.slot_expert[slot];
      routed[slot] = expert == kNone ? 0 : s.column[expert].own;
    }
    __syncthreads();
    for (int a = first_routed_arc(b) + b.thread; a < t.num_arcs; a += kThreads) {
      routed[t.arc_slot[a]] = quota_of(t, s, a);
    }
  }
  if (out.shared != nullptr) {
    int32_t* shared = out.shared + static_cast<size_t>(source_index) * b.shape.num_ranks;
    for (int r = b.thread; r < b.shape.num_ranks; r += kThreads) {
      const int at_home = r == b.source ? b.shape.num_shared_experts * s.tokens[r] : 0;
      shared[r] = b.shape.shared_is_item ? quota_of(t, s, r) : at_home;
    }
  }
}

}  // namespace plimsoll::gpu
