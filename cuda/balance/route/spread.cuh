// The assignment levelling starts from, as src/balance/route/local_start.cc makes it: by one thread
// block, all ranks and all arcs side by side, a thread each. Potentials of a resistor network, then
// water-filling; see "Where the flow starts" in docs/balancing.md.
#pragma once

#include "balance/route/local_start.h"
#include "cuda/balance/route/scratch.cuh"

namespace plimsoll::gpu {

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

__device__ inline int clamped(int value, int most) {
  return max(min(value, most), -most);
}

// What a rank has of experts that have no other, and of shared experts at home.
__device__ inline int base_load(const Block& b, const Scratch& s, int r) {
  return s.fixed_load[r] + (b.shape.shared_is_item ? b.shape.num_shared_experts * s.tokens[r] : 0);
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
    const int target = max(fixed + s.home_load[r], capacity);
    s.target[r] = target;
    s.surplus[r] = clamped(fixed + s.share_load[r] - target, static_cast<int>(kMaxSurplus));
    s.load[r] = base_load(b, s, r);
  }
  if (b.lane == 0) s.bound[0] = bound;
}

// A rank's potential: a row of the response times the surpluses.
__device__ inline int potential_of(long long product) {
  constexpr long long kMost = kMaxHeight;
  return static_cast<int>(max(min(product >> kResponseBits, kMost), -kMost));
}

inline constexpr int kGroup = 8;  // lanes working for one rank

// Potentials that would level the surpluses if no item ran out, a rank a group of lanes.
__device__ inline void set_potentials(const Block& b, const Tables& t, const Scratch& s) {
  const int num_ranks = b.shape.num_ranks;
  const int lane = b.lane % kGroup;
  const int32_t* response = t.far_response == nullptr ? &t.near_response[0] : t.far_response;
#pragma unroll 1
  for (int first = b.warp * (32 / kGroup); first < num_ranks; first += kThreads / kGroup) {
    const int r = min(first + b.lane / kGroup, num_ranks - 1);
    long long sum = 0;
#pragma unroll 4
    for (int q = lane; q < num_ranks; q += kGroup) {
      sum += static_cast<long long>(response[r * num_ranks + q]) * s.surplus[q];
    }
    sum = sum_of_group<kGroup>(sum);
    if (lane == 0 && first + b.lane / kGroup < num_ranks) s.potential[r] = potential_of(sum);
  }
  __syncthreads();
}

// The arcs of an item, kArcs of them a lane, and how its free units are poured over their ranks, by
// one warp.
template <Size kSize, int kArcs>
struct Pouring {
  int begin, num_arcs;
  unsigned num_free;
  int rank[kArcs], local[kArcs], potential[kArcs];

  __device__ Pouring(const Block& b, const Tables& t, const Scratch& s, int item)
      : begin(t.item_begin[item]),
        num_arcs(t.item_begin[item + 1] - begin),
        num_free(s.column[t.item_expert[item]].total - s.item_home[item]) {
#pragma unroll
    for (int j = 0; j < kArcs; ++j) {
      const int a = begin + (is_arc(b, j) ? kWarpSize * j + b.lane : 0);
      rank[j] = t.arc_rank[a];
      local[j] = s.local[a];
    }
    if constexpr (kSize == Size::kSmall) {
      set_potentials_of_ranks(b, t, s);
    } else {
#pragma unroll
      for (int j = 0; j < kArcs; ++j) potential[j] = s.potential[rank[j]];
    }
  }

  __device__ bool is_arc(const Block& b, int j) const {
    return kWarpSize * j + b.lane < num_arcs;
  }

  // For few ranks that is quicker than waiting for others to do it. The response is symmetric.
  __device__ void set_potentials_of_ranks(const Block& b, const Tables& t, const Scratch& s) {
    const int num_ranks = b.shape.num_ranks;
    const int surplus = b.lane < num_ranks ? s.surplus[b.lane] : 0;
    long long sum[kArcs] = {};
#pragma unroll 8
    for (int q = 0; q < num_ranks; ++q) {
      const long long there = __shfl_sync(kFullWarp, surplus, q);
#pragma unroll
      for (int j = 0; j < kArcs; ++j) sum[j] += there * t.near_response[q * num_ranks + rank[j]];
    }
#pragma unroll
    for (int j = 0; j < kArcs; ++j) potential[j] = potential_of(sum[j]);
  }

  // The lowest ranks take the units, the odd ones go to the first of them; adds up what the ranks
  // hold then. A rank takes some if filling all lower ones up to it takes no more than there is.
  __device__ void pour(const Block& b, const Scratch& s) const {
    constexpr int kMost = static_cast<int>(kMaxHeight);
    const auto heights = s.heights.from(b.warp * most_rank_words(kSize) * kWarpSize);
    int height[kArcs];
    unsigned to_fill[kArcs] = {};
#pragma unroll
    for (int j = 0; j < kArcs; ++j) {
      height[j] = is_arc(b, j) ? min(local[j], kMost) + potential[j] + kMost : INT_MAX / 2;
      heights[kWarpSize * j + b.lane] = height[j];
    }
    __syncwarp();
#pragma unroll 1
    for (int first = 0; first < num_arcs; first += 8) {
      const auto* few = reinterpret_cast<const int4*>(&heights[first]);
      const int4 low = few[0];
      const int4 high = few[1];
#pragma unroll
      for (int j = 0; j < kArcs; ++j) {
        const int h = height[j];
        to_fill[j] += max(h - low.x, 0) + max(h - low.y, 0) + max(h - low.z, 0) +
                      max(h - low.w, 0) + max(h - high.x, 0) + max(h - high.y, 0) +
                      max(h - high.z, 0) + max(h - high.w, 0);
      }
    }
    unsigned takers[kArcs];
    unsigned sum = 0;  // of their heights
    int num_takers = 0;
#pragma unroll
    for (int j = 0; j < kArcs; ++j) {
      const bool is_taker = is_arc(b, j) && to_fill[j] <= num_free;
      takers[j] = __ballot_sync(kFullWarp, is_taker);
      num_takers += __popc(takers[j]);
      sum += is_taker ? height[j] : 0;
    }
    sum = __reduce_add_sync(kFullWarp, sum) + num_free;
    const unsigned surface = sum / num_takers;
    int odd = static_cast<int>(sum - surface * num_takers);
#pragma unroll
    for (int j = 0; j < kArcs; ++j) {
      if (is_arc(b, j)) {
        const int before = __popc(takers[j] & ((1u << b.lane) - 1));
        const int taken = static_cast<int>(surface) - height[j] + (before < odd ? 1 : 0);
        const int amount = local[j] + (takers[j] >> b.lane & 1 ? taken : 0);
        atomicAdd(&s.load[rank[j]], amount);
        s.amount[begin + kWarpSize * j + b.lane] = amount;
      }
      odd -= __popc(takers[j]);
    }
  }
};

// Pours all items, a warp each, the first warp the last: fills s.amount and adds to s.load.
template <Size kSize>
__device__ inline void pour_items(const Block& b, const Tables& t, const Scratch& s) {
  constexpr int kMostArcs = most_rank_words(kSize);
#pragma unroll 1
  for (int i = first_routed_item(b) + (b.warp + kWarps - 1) % kWarps; i < t.num_items;
       i += kWarps) {
    if (kMostArcs == 1 || t.item_begin[i + 1] - t.item_begin[i] <= kWarpSize) {
      Pouring<kSize, 1>(b, t, s, i).pour(b, s);
    } else {
      Pouring<kSize, kMostArcs>(b, t, s, i).pour(b, s);
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

// What a rank has above its target, or below.
__device__ inline int surplus_of(const Scratch& s, int r) {
  return clamped(s.load[r] - s.target[r], static_cast<int>(kMaxSurplus));
}

// Levels along the trees what rounding left, as far as free units are there; by one warp, a lane a
// place.
template <Size kSize>
__device__ inline void level_trees(const Block& b, const Tables& t, const Scratch& s) {
  constexpr int kWords = most_rank_words(kSize);
  const int num_ranks = b.shape.num_ranks;
  int out[kWords], in[kWords], up[kWords], down[kWords];
  int lower = 0;
  if (b.lane == 0) s.surplus_before[0] = 0;
#pragma unroll
  for (int i = 0; i < kWords; ++i) {
    const int place = kWarpSize * i + b.lane;
    const bool is_place = place < num_ranks;
    const int own = is_place ? surplus_of(s, t.place_rank[place]) : 0;
    out[i] = is_place ? t.arc_out[place] : kNone;
    in[i] = out[i] == kNone ? 0 : t.arc_in[place];
    const int from = out[i] == kNone ? 0 : out[i];
    const int item = t.arc_item[in[i]];
    const unsigned num_children = t.item_begin[item + 1] - t.item_begin[item] - 1;
    up[i] = s.amount[from] - s.local[from];
    down[i] = static_cast<unsigned>(s.amount[in[i]] - s.local[in[i]]) / max(num_children, 1u);
    const int up_to = lower + scan_lanes(own, b.lane);
    if (is_place) s.surplus_before[place + 1] = up_to;
    if (kWords > 1) lower = __shfl_sync(kFullWarp, up_to, kWarpSize - 1);
  }
  __syncwarp();
#pragma unroll
  for (int i = 0; i < kWords; ++i) {
    if (out[i] == kNone) continue;
    const int moved = units_to_parent(t, s, kWarpSize * i + b.lane, down[i], up[i]);
    atomicSub(&s.amount[out[i]], moved);
    atomicAdd(&s.amount[in[i]], moved);
    atomicSub(&s.load[t.arc_rank[out[i]]], moved);
    atomicAdd(&s.load[t.arc_rank[in[i]]], moved);
  }
  __syncwarp();
}

}  // namespace plimsoll::gpu
