// The assignment levelling starts from, as src/balance/local_start.cc makes it: by one thread
// block, all ranks and all experts side by side.
#pragma once

#include "balance/local_start.h"
#include "cuda/balance/scratch.cuh"

namespace plimsoll::gpu {

inline constexpr int kGroup = 8;  // lanes working for one rank or one item
inline constexpr int kGroups = kThreads / kGroup;

// f(rank or item, whether there is one, lane of the group); the warps stay together.
template <typename F>
__device__ inline void for_each_group(const Block& b, int begin, int end, F f) {
  for (int first = begin; first + b.warp * (32 / kGroup) < end; first += kGroups) {
    const int i = first + b.thread / kGroup;
    f(i < end ? i : begin, i < end, b.lane % kGroup);
  }
}

__device__ inline int first_routed_item(const Block& b) {
  return b.shape.shared_is_item ? 1 : 0;
}

__device__ inline int equal_share(const Tables& t, const Scratch& s, int arc) {
  const int item = t.arc_item[arc];
  const unsigned begin = t.item_begin[item];
  const unsigned copies = t.item_begin[item + 1] - begin;
  const unsigned total = s.total[t.item_expert[item]];
  const unsigned each = total / copies;
  return static_cast<int>(each + (arc - begin < total - each * copies ? 1 : 0));
}

// What every rank holds in any case, at least, and in equal shares.
__device__ inline void sum_ranks(const Block& b, const Tables& t, const Scratch& s) {
  const int per_rank = b.shape.slots_per_rank();
  const int num_shared_arcs = b.shape.shared_is_item ? b.shape.num_ranks : 0;
  for_each_group(b, 0, b.shape.num_ranks, [&](int r, bool is_rank, int lane) {
    int fixed = 0;
    int at_home = 0;
    int shares = 0;
#pragma unroll 1
    for (int slot = r * per_rank + lane; slot < (r + 1) * per_rank; slot += kGroup) {
      const int expert = t.slot_expert[slot];
      if (expert != kNone) fixed += s.total[expert];
    }
    const int last = t.rank_arc_begin[r + 1];
#pragma unroll 1
    for (int i = t.rank_arc_begin[r] + lane; i < last; i += kGroup) {
      const int arc = t.rank_arcs[i];
      const int own = s.local[arc];
      const int share = arc < num_shared_arcs ? own : equal_share(t, s, arc);
      at_home += own;
      shares += share;
      if (arc < num_shared_arcs && is_rank) s.amount[arc] = own;
    }
    fixed = sum_of_group<kGroup>(fixed);
    at_home = sum_of_group<kGroup>(at_home);
    shares = sum_of_group<kGroup>(shares);
    if (is_rank && lane == 0) {
      const int shared = b.shape.num_shared_experts * s.tokens[r];
      const int home_cost = b.shape.shared_is_item ? 0 : shared;
      s.home_cost[r] = home_cost;
      s.fixed_cost[r] = fixed + home_cost;
      s.base_load[r] = fixed;
      s.target[r] = fixed + at_home;
      s.load[r] = fixed + shares;
    }
  });
  __syncthreads();
}

// The bounds that need no search: a rank's own fixed load, and the mean. By every warp for itself.
__device__ inline int first_bound(const Block& b, const Scratch& s) {
  int fullest = 0;
  int sum = 0;
#pragma unroll 1
  for (int r = b.lane; r < b.shape.num_ranks; r += 32) {
    fullest = max(fullest, s.fixed_cost[r]);
    sum += s.load[r] + s.home_cost[r];
  }
  fullest = __reduce_max_sync(kFullWarp, fullest);
  const unsigned total = sum_of_warp(sum);
  const int mean = static_cast<int>((total + b.shape.num_ranks - 1) / b.shape.num_ranks);
  return max(fullest, mean);
}

__device__ inline int clamped(long long value, int most) {
  return static_cast<int>(
      max(min(value, static_cast<long long>(most)), -static_cast<long long>(most)));
}

__device__ inline int surplus(const Scratch& s, int bound, int r, int load) {
  return clamped(load - max(s.target[r], bound - s.home_cost[r]), static_cast<int>(kMaxSurplus));
}

// Adds to the potentials what would level the surpluses if no item ran out.
__device__ inline void add_potentials(const Block& b,
                                      const Tables& t,
                                      const Scratch& s,
                                      bool is_first) {
  const int num_ranks = b.shape.num_ranks;
  for_each_group(b, 0, num_ranks, [&](int r, bool is_rank, int lane) {
    long long sum = 0;
#pragma unroll 2
    for (int q = lane; q < num_ranks; q += kGroup) {
      sum += static_cast<long long>(t.response(r, q)) * s.surplus[q];
    }
    sum = sum_of_group<kGroup>(sum);
    if (is_rank && lane == 0) {
      const int before = is_first ? 0 : s.potential[r];
      s.potential[r] = clamped(before + (sum >> kResponseBits), static_cast<int>(kMaxHeight));
    }
  });
  __syncthreads();
}

__device__ inline unsigned height(const Tables& t, const Scratch& s, int arc) {
  constexpr int kMost = static_cast<int>(kMaxHeight);
  return min(s.local[arc], kMost) + s.potential[t.arc_rank[arc]] + kMost;
}

// Pours the free units of every item over its ranks: the lowest take them, the odd ones go to the
// first ranks. Most items have no more ranks than a group has lanes.
__device__ inline void pour_items(const Block& b, const Tables& t, const Scratch& s) {
  for_each_group(b, first_routed_item(b), t.num_items, [&](int item, bool is_item, int lane) {
    const int begin = t.item_begin[item];
    const int end = t.item_begin[item + 1];
    const auto height_at = [&](int a) { return a < end ? height(t, s, a) : UINT_MAX; };
    const unsigned first_height = height_at(begin + lane);
    int own = 0;
#pragma unroll 1
    for (int a = begin + lane; a < end; a += kGroup) own += s.local[a];
    const unsigned num_free = s.total[t.item_expert[item]] - sum_of_group<kGroup>(own);
    unsigned surface = UINT_MAX - 1;
    unsigned odd = 0;
    for (unsigned below = 0, previous = UINT_MAX; __any_sync(kFullWarp, below != previous);) {
      previous = below;
      below = first_height <= surface;
      unsigned sum = below ? first_height : 0;
#pragma unroll 1
      for (int a = begin + lane + kGroup; a < end; a += kGroup) {
        const unsigned h = height(t, s, a);
        if (h <= surface) ++below, sum += h;
      }
      below = sum_of_group<kGroup>(below);
      sum = sum_of_group<kGroup>(sum);
      surface = (num_free + sum) / below;
      odd = num_free + sum - surface * below;
    }
#pragma unroll 1
    for (int first = begin; __any_sync(kFullWarp, first < end); first += kGroup) {
      const int a = first + lane;
      const unsigned h = first == begin ? first_height : height_at(a);
      const bool takes = h <= surface;
      const unsigned takers = __ballot_sync(kFullWarp, takes) >> (b.lane - lane) & 0xFF;
      const bool takes_odd = __popc(takers & ((1u << lane) - 1)) < odd;
      if (a < end && is_item) {
        s.amount[a] = s.local[a] + (takes ? static_cast<int>(surface - h + takes_odd) : 0);
      }
      odd -= min(odd, static_cast<unsigned>(__popc(takers)));
    }
  });
  __syncthreads();
}

// What the ranks hold, and what of it is too much.
__device__ inline void sum_loads(const Block& b, const Tables& t, const Scratch& s, int bound) {
  for_each_group(b, 0, b.shape.num_ranks, [&](int r, bool is_rank, int lane) {
    const int last = t.rank_arc_begin[r + 1];
    int load = 0;
#pragma unroll 1
    for (int i = t.rank_arc_begin[r] + lane; i < last; i += kGroup) {
      load += s.amount[t.rank_arcs[i]];
    }
    load = s.base_load[r] + sum_of_group<kGroup>(load);
    if (is_rank && lane == 0) {
      s.load[r] = load;
      s.surplus[r] = surplus(s, bound, r, load);
    }
  });
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
  const int down = (s.amount[in] - s.local[in]) / num_children;
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
    for (int p = b.lane; p < b.warp * 32; p += 32) lower += s.surplus[t.place_rank[p]];
    const int own = is_place ? s.surplus[t.place_rank[place]] : 0;
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

// Fills s.amount and s.load; returns the least bound there is hope for.
__device__ inline int make_start(const Block& b, const Tables& t, const Scratch& s) {
  sum_ranks(b, t, s);
  const int bound = first_bound(b, s);
  if (t.num_items == first_routed_item(b)) return bound;
  for (int r = b.thread; r < b.shape.num_ranks; r += kThreads) {
    s.surplus[r] = surplus(s, bound, r, s.load[r]);
  }
  __syncthreads();
#pragma unroll 1
  for (int round = 0; round < kSpreadRounds; ++round) {
    add_potentials(b, t, s, round == 0);
    pour_items(b, t, s);
    sum_loads(b, t, s, bound);
  }
  level_trees(b, t, s);
  return bound;
}

}  // namespace plimsoll::gpu
