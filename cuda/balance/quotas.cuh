// From how much of each item every rank takes to what one source sends where.
#pragma once

#include "cuda/balance/gpu_route.h"
#include "cuda/balance/spread.cuh"

namespace plimsoll::gpu {

// Splits one item, by kWidth lanes. Every rank keeps what it can of its own; what is left over lies
// end to end, sources ascending, against the ranks that take more than their own, ascending: the
// source's interval overlaps those of the ranks that serve it. own, before: what this source and
// all lower ones ask of the item.
template <int kWidth>
__device__ inline void split_item(const Block& b,
                                  const Tables& t,
                                  const Scratch& s,
                                  int item,
                                  bool is_item,
                                  int own,
                                  int before) {
  const int lane = b.lane % kWidth;
  const int begin = t.item_begin[item];
  const int end = t.item_begin[item + 1];
  int kept_before = 0;
  int kept_own = 0;
#pragma unroll 1
  for (int a = begin + lane; a < end; a += kWidth) {
    const int kept = min(s.amount[a], s.local[a]);
    if (t.arc_rank[a] < b.source) kept_before += kept;
    if (t.arc_rank[a] == b.source) kept_own += kept;
  }
  const int left_begin = before - sum_of_group<kWidth>(kept_before);
  const int left_end = left_begin + own - sum_of_group<kWidth>(kept_own);
  int taken_sum = 0;
  int quota_sum = 0;
#pragma unroll 1
  for (int first = begin; __any_sync(kFullWarp, first < end); first += kWidth) {
    const int a = first + lane;
    const int kept = a < end ? min(s.amount[a], s.local[a]) : 0;
    const int taken = a < end ? s.amount[a] - kept : 0;
    const int taken_end = taken_sum + scan_lanes<kWidth>(taken, lane);
    int quota = max(min(left_end, taken_end) - max(left_begin, taken_end - taken), 0);
    if (a < end && t.arc_rank[a] == b.source) quota += kept;
    const int quota_end = quota_sum + scan_lanes<kWidth>(quota, lane);
    if (a < end && is_item) s.quota_end[a] = quota_end;
    taken_sum = __shfl_sync(kFullWarp, taken_end, kWidth - 1, kWidth);
    quota_sum = __shfl_sync(kFullWarp, quota_end, kWidth - 1, kWidth);
  }
}

// The shared expert, by one warp; leaves its quotas away from home in s.away_begin.
__device__ inline void split_shared(const Block& b, const Tables& t, const Scratch& s) {
  const int m = b.shape.num_shared_experts;
  int tokens_before = 0;
#pragma unroll 1
  for (int r = b.lane; r < b.source; r += 32) tokens_before += s.tokens[r];
  tokens_before = sum_of_warp(tokens_before);
  split_item<32>(b, t, s, 0, true, m * s.tokens[b.source], m * tokens_before);
  __syncwarp();
  const int home = s.quota_end[b.source] - (b.source > 0 ? s.quota_end[b.source - 1] : 0);
  for (int r = b.lane; r <= b.shape.num_ranks; r += 32) {
    const int quotas_before = r > 0 ? s.quota_end[r - 1] : 0;
    s.away_begin[r] = quotas_before - (r > b.source ? home : 0);
  }
}

__device__ inline void split_items(const Block& b, const Tables& t, const Scratch& s) {
  if (b.shape.shared_is_item && b.warp == kWarps - 1) split_shared(b, t, s);
  for_each_group(b, first_routed_item(b), t.num_items, [&](int item, bool is_item, int) {
    const int expert = t.item_expert[item];
    split_item<kGroup>(b, t, s, item, is_item, s.own[expert], s.column_before[expert]);
  });
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
  if (b.index != 0) return;
  if (out.bound != nullptr && b.thread == 0) out.bound[source_index] = s.bound[0];
  if (out.routed != nullptr) {
    int32_t* routed = out.routed + static_cast<size_t>(source_index) * b.shape.num_slots;
    for (int slot = b.thread; slot < b.shape.num_slots; slot += kThreads) {
      const int expert = t.slot_expert[slot];
      routed[slot] = expert == kNone ? 0 : s.own[expert];
    }
    __syncthreads();
    for (int a = t.item_begin[b.shape.shared_is_item ? 1 : 0] + b.thread; a < t.num_arcs;
         a += kThreads) {
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
