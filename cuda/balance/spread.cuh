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
  for (int a = kThreads - 1 - b.thread; a < t.num_arcs; a += kThreads) {  // mostly other warps
    const int r = t.arc_rank[a];
    const int item = t.arc_item[a];
    const int expert = t.item_expert[item];
    int local = s.local[a];
    if (r == b.source) {
      local = expert == kNone ? b.shape.num_shared_experts * s.tokens[r] : s.column[expert].own;
      s.local[a] = local;
    }
    int share = local;
    if (expert != kNone) {
      share = equal_share(t, s, a, item);
      atomicAdd(&s.item_home[item], local);
    }
    s.amount[a] = share;
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

// Pours the free units of an item over its ranks, by one warp, kArcs of them a lane: the lowest
// take them, the odd ones go to the first ranks. Keeps up what the ranks hold.
//
// A rank that is as high as h is reached if filling all ranks up to h takes no more than there is;
// the surface is the lowest that any rank and those below it could be filled to.
template <int kArcs>
__device__ inline void pour(
    const Block& b, const Tables& t, const Scratch& s, int begin, int num_arcs, unsigned num_free) {
  constexpr int kMost = static_cast<int>(kMaxHeight);
  constexpr int kFew = 4;  // heights that are under way from lane to lane at a time
  unsigned height[kArcs], sum[kArcs], below[kArcs] = {};
  int rank[kArcs], local[kArcs], amount[kArcs];
#pragma unroll
  for (int j = 0; j < kArcs; ++j) {
    const bool is_arc = 32 * j + b.lane < num_arcs;
    const int a = is_arc ? begin + 32 * j + b.lane : begin;
    rank[j] = t.arc_rank[a];
    local[j] = s.local[a];
    amount[j] = s.amount[a];
    height[j] = is_arc ? min(local[j], kMost) + s.potential[rank[j]] + kMost : UINT_MAX;
    sum[j] = num_free;
  }
#pragma unroll
  for (int i = 0; i < kArcs; ++i) {
#pragma unroll 1
    for (int first = 0; first < min(num_arcs - 32 * i, 32); first += kFew) {
#pragma unroll
      for (int lane = first; lane < first + kFew; ++lane) {
        const unsigned other = __shfl_sync(kFullWarp, height[i], lane);
#pragma unroll
        for (int j = 0; j < kArcs; ++j) {
          below[j] += other <= height[j] ? 1 : 0;
          sum[j] += other <= height[j] ? other : 0;
        }
      }
    }
  }
  unsigned surface = UINT_MAX;
#pragma unroll
  for (int j = 0; j < kArcs; ++j) {
    if (height[j] != UINT_MAX) surface = min(surface, sum[j] / below[j]);
  }
  surface = __reduce_min_sync(kFullWarp, surface);
  unsigned filled = 0;
#pragma unroll
  for (int j = 0; j < kArcs; ++j) filled += height[j] <= surface ? surface - height[j] : 0;
  unsigned odd = num_free - __reduce_add_sync(kFullWarp, filled);
#pragma unroll
  for (int j = 0; j < kArcs; ++j) {
    const bool is_taker = height[j] <= surface;
    const unsigned takers = __ballot_sync(kFullWarp, is_taker);
    const unsigned before = __popc(takers & ((1u << b.lane) - 1));
    const int taken = is_taker ? surface - height[j] + (before < odd ? 1 : 0) : 0;
    odd -= min(odd, __popc(takers));
    if (32 * j + b.lane < num_arcs) {
      atomicAdd(&s.load[rank[j]], local[j] + taken - amount[j]);
      s.amount[begin + 32 * j + b.lane] = local[j] + taken;
    }
  }
}

__device__ inline void pour_items(const Block& b, const Tables& t, const Scratch& s) {
#pragma unroll 1
  for (int i = first_routed_item(b) + b.warp; i < t.num_items; i += kWarps) {
    const int begin = t.item_begin[i];
    const int num_arcs = t.item_begin[i + 1] - begin;
    const unsigned num_free = s.column[t.item_expert[i]].total - s.item_home[i];
    if (num_arcs <= 32) {
      pour<1>(b, t, s, begin, num_arcs, num_free);
    } else {
      pour<kMaxRanks / 32>(b, t, s, begin, num_arcs, num_free);
    }
  }
  __syncthreads();
}

// What the first places of a tree should have too much: the odd units stay with the first of all.
__device__ inline int share_of(int each, int odd, int num_places) {
  return each * num_places + min(odd, num_places);
}

// Units that go from a place to its parent, or come from there if negative: the surplus of its
// subtree, between what can come down and what can go up.
__device__ inline int units_to_parent(
    const Tables& t, const Scratch& s, int place, int down, int up) {
  const int begin = t.tree_begin[place];
  const int num_ranks = t.tree_end[place] - begin;
  const int end = t.subtree_end[place];
  const int of_tree = s.surplus_before[begin + num_ranks] - s.surplus_before[begin];
  int each = of_tree / num_ranks;
  int odd = of_tree - each * num_ranks;
  if (odd < 0) --each, odd += num_ranks;
  const int wanted = s.surplus_before[end] - s.surplus_before[place] -
                     (share_of(each, odd, end - begin) - share_of(each, odd, place - begin));
  return max(min(wanted, up), -down);
}

// Levels along the trees what rounding left, as far as free units are there; a thread a place.
__device__ inline void level_trees(const Block& b, const Tables& t, const Scratch& s) {
  const int num_ranks = b.shape.num_ranks;
  const int place = b.thread;
  const bool is_place = place < num_ranks;
  int out = kNone;
  int in = 0;
  int up = 0;
  unsigned down = 0;
  if (b.warp * 32 < num_ranks) {
    if (is_place) out = t.arc_out[place];
    in = out == kNone ? 0 : t.arc_in[place];
    const int from = out == kNone ? 0 : out;
    const int item = t.arc_item[in];
    const unsigned num_children = t.item_begin[item + 1] - t.item_begin[item] - 1;
    up = s.amount[from] - s.local[from];
    down = static_cast<unsigned>(s.amount[in] - s.local[in]) / max(num_children, 1u);
    int lower = 0;
#pragma unroll 1
    for (int p = b.lane; p < b.warp * 32; p += 32) lower += surplus(s, t.place_rank[p]);
    const int own = is_place ? surplus(s, t.place_rank[place]) : 0;
    const int up_to = sum_of_warp(lower) + scan_lanes(own, b.lane);
    if (is_place) s.surplus_before[place + 1] = up_to;
    if (place == 0) s.surplus_before[0] = 0;
  }
  __syncthreads();
  if (out != kNone) {
    const int moved = units_to_parent(t, s, place, static_cast<int>(down), up);
    atomicSub(&s.amount[out], moved);
    atomicAdd(&s.amount[in], moved);
    atomicSub(&s.load[t.arc_rank[out]], moved);
    atomicAdd(&s.load[t.arc_rank[in]], moved);
  }
  __syncthreads();
}

// Fills s.amount and s.load, from potentials or, once all rounds are done, from those there are.
// Returns the rounds done.
__device__ inline int spread(const Block& b, const Tables& t, const Scratch& s, int round) {
#pragma unroll 1
  do {
    if (round < kSpreadRounds) add_potentials(b, t, s);
    pour_items(b, t, s);
  } while (++round < kSpreadRounds);
  level_trees(b, t, s);
  return round;
}

}  // namespace plimsoll::gpu
