// The assignment levelling starts from, as src/balance/local_start.cc makes it: by one thread
// block, all ranks and all arcs side by side, a thread each.
#pragma once

#include "balance/local_start.h"
#include "cuda/balance/scratch.cuh"

namespace plimsoll::gpu {

__device__ inline int first_routed_item(const Block& b) {
  return b.shape.shared_is_item ? 1 : 0;
}
__device__ inline int first_routed_arc(const Block& b) {
  return b.shape.shared_is_item ? b.shape.num_ranks : 0;
}

__device__ inline int equal_share(const Tables& t, const Scratch& s, int arc, int item) {
  const unsigned begin = t.item_begin[item];
  const unsigned copies = t.item_begin[item + 1] - begin;
  const unsigned total = s.column[t.item_expert[item]].total;
  const unsigned each = total / copies;
  return static_cast<int>(each + (arc - begin < total - each * copies ? 1 : 0));
}

// What every rank holds in any case, at home, and in equal shares. Fills in what this source asks
// of the items it holds.
__device__ inline void sum_ranks(const Block& b,
                                 const Tables& t,
                                 const Scratch& s,
                                 Divisor per_round) {
  const int per_rank = b.shape.slots_per_rank();
#pragma unroll 1
  for (int i = b.thread; i < b.shape.num_slots; i += kThreads) {  // the ranks in turn
    const int place = per_round.divide(i);
    const int r = i - place * b.shape.num_ranks;
    const int expert = t.slot_expert[r * per_rank + place];
    if (expert != kNone) atomicAdd(&s.fixed_load[r], s.column[expert].total);
  }
#pragma unroll 1
  for (int a = b.thread; a < t.num_arcs; a += kThreads) {
    const int r = t.arc_rank[a];
    const int item = t.arc_item[a];
    const int expert = t.item_expert[item];
    int local = s.local[a];
    if (r == b.source) {
      local = expert == kNone ? b.shape.num_shared_experts * s.tokens[r] : s.column[expert].own;
      s.local[a] = local;
    }
    int share = local;
    if (expert == kNone) {
      s.amount[a] = local;
    } else {
      share = equal_share(t, s, a, item);
      atomicAdd(&s.item_home[item], local);
    }
    atomicAdd(&s.home_load[r], local);
    atomicAdd(&s.share_load[r], share);
  }
  __syncthreads();
}

// The bounds that need no search, a rank's own fixed load and the mean; and what follows from them
// for every rank. By one warp.
__device__ inline void set_bound(const Block& b, const Scratch& s, Divisor per_round) {
  const int m = b.shape.num_shared_experts;
  int fullest = 0;
  int sum = 0;
#pragma unroll 1
  for (int r = b.lane; r < b.shape.num_ranks; r += 32) {
    const int home_cost = b.shape.shared_is_item ? 0 : m * s.tokens[r];
    const int fixed = s.fixed_load[r];
    fullest = max(fullest, fixed + home_cost);
    sum += fixed + s.share_load[r] + home_cost;
  }
  fullest = __reduce_max_sync(kFullWarp, fullest);
  const int total = sum_of_warp(sum);
  // Rounded up; the sum may be 2^31 - 1.
  const int bound = max(fullest, total == 0 ? 0 : per_round.divide(total - 1) + 1);
#pragma unroll 1
  for (int r = b.lane; r < b.shape.num_ranks; r += 32) {
    const int shared = m * s.tokens[r];
    const int fixed = s.fixed_load[r];
    const int capacity = bound - (b.shape.shared_is_item ? 0 : shared);
    s.home_cost[r] = bound - capacity;
    s.capacity[r] = capacity;
    s.target[r] = max(fixed + s.home_load[r], capacity);
    s.base_load[r] = fixed + (b.shape.shared_is_item ? shared : 0);
    s.load[r] = fixed + s.share_load[r];
    s.potential[r] = 0;
  }
  if (b.lane == 0) s.bound[0] = bound;
}

__device__ inline int clamped(int value, int most) {
  return max(min(value, most), -most);
}

__device__ inline int surplus(const Scratch& s, int r) {
  return clamped(s.load[r] - s.target[r], static_cast<int>(kMaxSurplus));
}

inline constexpr int kGroup = 8;  // lanes working for one rank

// Adds to the potentials what would level the surpluses if no item ran out.
__device__ inline void add_potentials(const Block& b, const Tables& t, const Scratch& s) {
  const int num_ranks = b.shape.num_ranks;
  const int lane = b.lane % kGroup;
  const int32_t* response = t.far_response == nullptr ? &t.near_response[0] : t.far_response;
#pragma unroll 1
  for (int first = b.warp * (32 / kGroup); first < num_ranks; first += kThreads / kGroup) {
    const int r = min(first + b.lane / kGroup, num_ranks - 1);
    long long sum = 0;
#pragma unroll 4
    for (int q = lane; q < num_ranks; q += kGroup) {
      sum += static_cast<long long>(response[r * num_ranks + q]) * surplus(s, q);
    }
    sum = sum_of_group<kGroup>(sum) >> kResponseBits;
    constexpr long long kFar = 2 * kMaxHeight;  // from any potential leads out of range
    const int more = static_cast<int>(max(min(sum, kFar), -kFar));
    if (lane == 0 && first + b.lane / kGroup < num_ranks) {
      s.potential[r] = clamped(s.potential[r] + more, static_cast<int>(kMaxHeight));
    }
  }
  __syncthreads();
}

// Pours the free units of every item over its ranks: the lowest take them, the odd ones go to the
// first ranks. Sums up what the ranks hold.
//
// A rank that is as high as h is reached if filling all ranks up to h takes no more than there is;
// the surface is the lowest that any rank and those below it could be filled to.
__device__ inline void pour_items(const Block& b, const Tables& t, const Scratch& s) {
  constexpr int kMost = static_cast<int>(kMaxHeight);
  const int first_arc = first_routed_arc(b);
#pragma unroll 1
  for (int a = first_arc + b.thread; a < t.num_arcs; a += kThreads) {
    s.height[a] = min(s.local[a], kMost) + s.potential[t.arc_rank[a]] + kMost;
  }
#pragma unroll 1
  for (int i = b.thread; i < t.num_items; i += kThreads) s.surface[i] = UINT_MAX;
#pragma unroll 1
  for (int r = b.thread; r < b.shape.num_ranks; r += kThreads) s.load[r] = s.base_load[r];
  __syncthreads();
  const auto num_free = [&](int item) -> unsigned {
    return s.column[t.item_expert[item]].total - s.item_home[item];
  };
#pragma unroll 1
  for (int a = first_arc + b.thread; a < t.num_arcs; a += kThreads) {
    const int item = t.arc_item[a];
    const int end = t.item_begin[item + 1];
    const unsigned own = s.height[a];
    unsigned below = 0;
    unsigned sum = num_free(item);
#pragma unroll 4
    for (int q = t.item_begin[item]; q < end; ++q) {
      const unsigned h = s.height[q];
      if (h <= own) ++below, sum += h;
    }
    atomicMin(&s.surface[item], sum / below);
  }
  __syncthreads();
#pragma unroll 1
  for (int a = first_arc + b.thread; a < t.num_arcs; a += kThreads) {
    const int item = t.arc_item[a];
    const int end = t.item_begin[item + 1];
    const unsigned surface = s.surface[item];
    const unsigned own = s.height[a];
    unsigned takers_before = 0;
    unsigned odd = num_free(item);
#pragma unroll 4
    for (int q = t.item_begin[item]; q < end; ++q) {
      const unsigned h = s.height[q];
      if (h <= surface) odd -= surface - h, takers_before += q < a;
    }
    const int taken = own <= surface ? surface - own + (takers_before < odd) : 0;
    const int amount = s.local[a] + taken;
    s.amount[a] = amount;
    atomicAdd(&s.load[t.arc_rank[a]], amount);
  }
  __syncthreads();
}

// What the first places of a tree should have too much: the odd units stay with the first of all.
__device__ inline int share_of(int each, int odd, int num_places) {
  return each * num_places + min(odd, num_places);
}

// Units that go from a place to its parent, or come from there if negative: the surplus of its
// subtree, as far as free units are there.
__device__ inline int units_to_parent(const Tables& t, const Scratch& s, int place, int out) {
  const int begin = t.tree_begin[place];
  const int num_ranks = t.tree_end[place] - begin;
  const int end = t.subtree_end[place];
  const int of_tree = s.surplus_before[begin + num_ranks] - s.surplus_before[begin];
  int each = of_tree / num_ranks;
  int odd = of_tree - each * num_ranks;
  if (odd < 0) --each, odd += num_ranks;
  const int wanted = s.surplus_before[end] - s.surplus_before[place] -
                     (share_of(each, odd, end - begin) - share_of(each, odd, place - begin));
  const int in = t.arc_in[place];
  const int item = t.arc_item[in];
  const int num_children = t.item_begin[item + 1] - t.item_begin[item] - 1;
  const int up = s.amount[out] - s.local[out];
  int down = s.amount[in] - s.local[in];
  if (num_children > 1) down /= num_children;
  return max(min(wanted, up), -down);
}

// Levels along the trees what rounding left, a thread a place.
__device__ inline void level_trees(const Block& b, const Tables& t, const Scratch& s) {
  const int num_ranks = b.shape.num_ranks;
  const int place = b.thread;
  const bool is_place = place < num_ranks;
  if (b.warp * 32 < num_ranks) {
    int lower = 0;
#pragma unroll 1
    for (int p = b.lane; p < b.warp * 32; p += 32) lower += surplus(s, t.place_rank[p]);
    const int own = is_place ? surplus(s, t.place_rank[place]) : 0;
    const int up_to = sum_of_warp(lower) + scan_lanes(own, b.lane);
    if (is_place) s.surplus_before[place + 1] = up_to;
    if (place == 0) s.surplus_before[0] = 0;
  }
  __syncthreads();
  const int out = is_place ? t.arc_out[place] : kNone;
  const int moved = out == kNone ? 0 : units_to_parent(t, s, place, out);
  __syncthreads();
  if (moved != 0) {
    const int in = t.arc_in[place];
    atomicSub(&s.amount[out], moved);
    atomicAdd(&s.amount[in], moved);
    atomicSub(&s.load[t.arc_rank[out]], moved);
    atomicAdd(&s.load[t.arc_rank[in]], moved);
  }
  __syncthreads();
}

// Fills s.amount, s.load, s.capacity and s.bound, the least bound there is hope for.
__device__ inline void make_start(const Block& b,
                                  const Tables& t,
                                  const Scratch& s,
                                  Divisor per_round) {
  sum_ranks(b, t, s, per_round);
  if (b.warp == 0) set_bound(b, s, per_round);
  if (t.num_items == first_routed_item(b)) return;  // warp 0 goes on
  __syncthreads();
#pragma unroll 1
  for (int round = 0; round < kSpreadRounds; ++round) {
    add_potentials(b, t, s);
    pour_items(b, t, s);
  }
  level_trees(b, t, s);
}

}  // namespace plimsoll::gpu
