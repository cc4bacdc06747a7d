// The first pushes of the flow that levels the ranks, from the start: along ways that cost no
// message. Remote units of an item go from one of its ranks to another. This works as long as no
// rank holds fewer units of an item than its own tokens asked for; that is so in the start, and
// stays so after such a push. It is a blocking flow by breadth-first search: distances are hops.
// One warp holds all sets in registers, where push.cuh would read shared memory at every step; the
// order, and so the outcome, is the same. See "As a flow" in docs/balancing.md.
#pragma once

#include <type_traits>

#include "cuda/balance/route/label.cuh"
#include "cuda/balance/route/spread.cuh"

namespace plimsoll::gpu {

// Arcs are those of routed items, counted from the first of them, and so are items. Sets of arcs
// are the same in all lanes. kWords: registers for a set of ranks, or of items. kArcs: of arcs.
template <int kWords, int kArcs>
class FreeWays {
  using Set = std::conditional_t<kWords == 1, uint32_t, uint64_t>;
  struct Arcs {
    unsigned word[kArcs];
  };

 public:
  __device__ explicit FreeWays(const Block& b)
      : lane_(b.lane), first_arc_(first_routed_arc(b)), first_item_(first_routed_item(b)) {}

  // What the placement says.
  __device__ void load_tables(const Block& b, const Tables& t) {
#pragma unroll
    for (int w = 0; w < kWords; ++w) {
      const int i = kWarpSize * w + lane_;
      arcs_of_rank_[w] = arcs_of_item_[w] = {};
      ranks_of_item_[w] = 0;
      if (i < b.shape.num_ranks) arcs_of_rank_[w] = arcs_in(t.rank_arc_sets, i);
      const int item = first_item_ + i;
      if (item >= t.num_items) continue;
      arcs_of_item_[w] = arcs_in(t.item_arc_sets, item);
#pragma unroll
      for (int v = 0; v < kWords; ++v) {
        ranks_of_item_[w] |= Set{t.item_ranks[item * kWords + v]} << kWarpSize * v;
      }
    }
#pragma unroll
    for (int j = 0; j < kArcs; ++j) {
      const int arc = first_arc_ + kWarpSize * j + lane_;
      const bool is_arc = arc < t.num_arcs;
      rank_[j] = is_arc ? t.arc_rank[arc] : 0;
      item_[j] = is_arc ? t.arc_item[arc] - first_item_ : kNoItem;
    }
  }

  // What ranks hold, and of which items.
  __device__ void load_units(const Block& b, const Tables& t, const Scratch& s) {
#pragma unroll
    for (int w = 0; w < kWords; ++w) {
      const int r = kWarpSize * w + lane_;
      over_[w] = r < b.shape.num_ranks ? s.load[r] - s.capacity[r] : 0;
    }
#pragma unroll
    for (int j = 0; j < kArcs; ++j) {
      const int arc = first_arc_ + kWarpSize * j + lane_;
      free_[j] = arc < t.num_arcs ? s.amount[arc] - s.local[arc] : 0;
    }
  }

  // Whether some rank with excess can give a unit to one with room in one step.
  __device__ bool has_step(const Block&, const Tables&, const Scratch&) const {
    const Set excess = set_where([&](int w) { return over_[w] > 0; });
    const Set room = set_where([&](int w) { return over_[w] < 0; });
    const Set items = set_where([&](int w) { return (ranks_of_item_[w] & room) != 0; });
    bool gives = false;
#pragma unroll
    for (int j = 0; j < kArcs; ++j) {
      gives |= free_[j] > 0 && has(items, item_[j]) && has(excess, rank_[j]);
    }
    return __any_sync(kFullWarp, gives);
  }

  // Pushes until no rank with excess is left that reaches room so. Returns whether any was pushed.
  __device__ bool level(const Tables& t) {
    bool has_pushed = false;
    Set cut_off = 0;  // once a rank reaches no room it never will
    for (;;) {
      const Set excess = set_where([&](int w) { return over_[w] > 0; }) & ~cut_off;
      if (excess == 0) return has_pushed;
      const Set sources = label(excess) & excess;
      cut_off |= excess & ~sources;
      has_pushed |= sources != 0;
#pragma unroll 1
      for (Set left = sources; left != 0; left &= left - 1) {
        const int rank = lowest(left);
        while (has(leading_, rank) && of_rank(over_, rank) > 0) push_path(t, rank);
      }
    }
  }

  // Puts amounts and loads where the others see them.
  __device__ void store(const Block& b, const Tables& t, const Scratch& s) const {
#pragma unroll
    for (int j = 0; j < kArcs; ++j) {
      const int a = first_arc_ + kWarpSize * j + lane_;
      if (a < t.num_arcs) s.amount[a] = s.local[a] + free_[j];
    }
#pragma unroll
    for (int w = 0; w < kWords; ++w) {
      const int r = kWarpSize * w + lane_;
      if (r < b.shape.num_ranks) s.load[r] = s.capacity[r] + over_[w];
    }
    __syncwarp();
  }

 private:
  static constexpr int kFar = 1 << 16;                    // hops, of what does not reach room
  static constexpr int kNoItem = kWarpSize * kWords - 1;  // an item has two arcs at least

  __device__ static int lowest(Set set) {
    if constexpr (kWords == 1) {
      return __ffs(set) - 1;
    } else {
      const uint32_t low = static_cast<uint32_t>(set);
      return low != 0 ? __ffs(low) - 1 : 31 + __ffs(static_cast<uint32_t>(set >> 32));
    }
  }
  __device__ static bool has(Set set, int i) {
    return (set >> i & 1) != 0;
  }
  // The ranks, or items, whose lane passes.
  template <typename Test>
  __device__ static Set set_where(Test test) {
    Set set = __ballot_sync(kFullWarp, test(0));
    if constexpr (kWords == 2) set |= Set{__ballot_sync(kFullWarp, test(1))} << 32;
    return set;
  }

  __device__ static Arcs arcs_in(const SharedArray<uint32_t>& sets, int i) {
    Arcs arcs;
#pragma unroll
    for (int j = 0; j < kArcs; ++j) arcs.word[j] = sets[i * kArcs + j];
    return arcs;
  }
  // The arcs whose lane passes.
  template <typename Test>
  __device__ static Arcs arcs_where(Test test) {
    Arcs arcs;
#pragma unroll
    for (int j = 0; j < kArcs; ++j) arcs.word[j] = __ballot_sync(kFullWarp, test(j));
    return arcs;
  }
  // The lowest arc that is in both, or -1.
  __device__ static int lowest_of(const Arcs& arcs, const Arcs& of) {
    int found = -1;
#pragma unroll
    for (int j = kArcs - 1; j >= 0; --j) {
      const unsigned both = arcs.word[j] & of.word[j];
      if (both != 0) found = kWarpSize * j + __ffs(both) - 1;
    }
    return found;
  }
  __device__ static bool has_common(const Arcs& arcs, const Arcs& of) {
    unsigned common = 0;
#pragma unroll
    for (int j = 0; j < kArcs; ++j) common |= arcs.word[j] & of.word[j];
    return common != 0;
  }
  __device__ static void remove(Arcs& arcs, const Arcs& removed) {
#pragma unroll
    for (int j = 0; j < kArcs; ++j) arcs.word[j] &= ~removed.word[j];
  }
  __device__ static void add(Arcs& arcs, int arc) {
    // No branch: it would put the words in memory.
#pragma unroll
    for (int j = 0; j < kArcs; ++j) {
      arcs.word[j] |= static_cast<unsigned>(arc >> 5 == j) << (arc & 31);
    }
  }

  // The value of a rank, or of an item.
  __device__ static int of_rank(const int (&values)[kWords], int i) {
    int value = __shfl_sync(kFullWarp, values[0], i & 31);
    if constexpr (kWords == 2) {
      const int other = __shfl_sync(kFullWarp, values[1], i & 31);
      if (i >= kWarpSize) value = other;
    }
    return value;
  }

  // Marks the arcs by which units come nearer to room, from the ranks with room outwards, until all
  // wanted ranks are met; returns the ranks met.
  __device__ Set label(Set wanted) {
    room_ = set_where([&](int w) { return over_[w] < 0; });
    Set met = room_;
    Set seen = met;
    Set seen_items = 0;
    int rank_hops[kWords], item_hops[kWords];
#pragma unroll
    for (int w = 0; w < kWords; ++w) {
      rank_hops[w] = over_[w] < 0 ? 0 : kFar;
      item_hops[w] = 2 * kFar;
    }
#pragma unroll 1
    for (int hops = 0; met != 0 && (wanted & ~seen) != 0; ++hops) {
      const Set items =
          set_where([&](int w) { return (ranks_of_item_[w] & met) != 0; }) & ~seen_items;
      seen_items |= items;
      const Arcs leaving = arcs_where([&](int j) { return free_[j] > 0 && has(items, item_[j]); });
      met = set_where([&](int w) { return has_common(leaving, arcs_of_rank_[w]); }) & ~seen;
      seen |= met;
#pragma unroll
      for (int w = 0; w < kWords; ++w) {
        if (has(items, kWarpSize * w + lane_)) item_hops[w] = hops;
        if (has(met, kWarpSize * w + lane_)) rank_hops[w] = hops + 1;
      }
    }
#pragma unroll
    for (int j = 0; j < kArcs; ++j) {
      const int hops = of_rank(item_hops, item_[j]) - of_rank(rank_hops, rank_[j]);
      may_enter_.word[j] = __ballot_sync(kFullWarp, hops == 0);
      may_leave_.word[j] = __ballot_sync(kFullWarp, hops == -1 && free_[j] > 0);
    }
    leading_ = seen;
    return seen;
  }

  // Forgets what leads nowhere.
  __device__ void prune() {
    bool has_changed;
    do {
      const Set items = set_where([&](int w) { return has_common(may_enter_, arcs_of_item_[w]); });
#pragma unroll
      for (int j = 0; j < kArcs; ++j) {
        may_leave_.word[j] &= __ballot_sync(kFullWarp, has(items, item_[j]));
      }
      leading_ = set_where([&](int w) { return has_common(may_leave_, arcs_of_rank_[w]); });
      const Arcs closed = arcs_where([&](int j) { return !has(leading_ | room_, rank_[j]); });
      has_changed = has_common(may_enter_, closed);
      remove(may_enter_, closed);
    } while (has_changed);
  }

  // One path from a rank that leads to room, by the lowest arcs.
  __device__ void push_path(const Tables& t, int start) {
    Arcs outs = {};
    Arcs ins = {};
    int rank = start;
    do {
      const int out = lowest_of(may_leave_, arcs_in(t.rank_arc_sets, rank));
      const int item = t.arc_item[first_arc_ + out];
      const int in = lowest_of(may_enter_, arcs_in(t.item_arc_sets, item));
      add(outs, out);
      add(ins, in);
      rank = t.arc_rank[first_arc_ + in];
    } while (!has(room_, rank));
    move_units(t, start, rank, outs, ins);
  }

  __device__ void move_units(
      const Tables& t, int start, int end, const Arcs& outs, const Arcs& ins) {
    int most = INT_MAX;
#pragma unroll
    for (int w = 0; w < kWords; ++w) {
      const int r = kWarpSize * w + lane_;
      if (r == start) most = over_[w];
      if (r == end) most = -over_[w];
    }
#pragma unroll
    for (int j = 0; j < kArcs; ++j) {
      if (outs.word[j] >> lane_ & 1) most = min(most, free_[j]);
    }
    const int units = __reduce_min_sync(kFullWarp, most);
#pragma unroll
    for (int j = 0; j < kArcs; ++j) {
      free_[j] += (ins.word[j] >> lane_ & 1 ? units : 0) - (outs.word[j] >> lane_ & 1 ? units : 0);
    }
    const Arcs drained = arcs_where([&](int j) { return free_[j] == 0; });
    const bool is_drained = has_common(may_leave_, drained);
    remove(may_leave_, drained);
#pragma unroll
    for (int w = 0; w < kWords; ++w) {
      const int r = kWarpSize * w + lane_;
      over_[w] += (r == end ? units : 0) - (r == start ? units : 0);
    }
    const bool is_full = of_rank(over_, end) == 0;
    if (is_full) {
      room_ &= ~(Set{1} << end);
      remove(may_enter_, arcs_in(t.rank_arc_sets, end));
    }
    if (is_full || is_drained) prune();
  }

  const int lane_, first_arc_, first_item_;
  Set room_;                    // ranks with room, where ways end
  Set leading_;                 // ranks that have a way
  Arcs may_leave_, may_enter_;  // by which units come nearer to room
  // Of rank 32 w + lane.
  int over_[kWords];  // load above the capacity
  Arcs arcs_of_rank_[kWords];
  // Of item 32 w + lane.
  Set ranks_of_item_[kWords];
  Arcs arcs_of_item_[kWords];
  // Of arc 32 j + lane.
  int free_[kArcs];  // units away from home
  int rank_[kArcs], item_[kArcs];
};

// Where a warp has no room for all of it, free ways are left to the pushes by labels.
template <int kWords>
class FreeWays<kWords, 0> {
 public:
  __device__ explicit FreeWays(const Block&) {}
  __device__ void load_tables(const Block&, const Tables&) {}
  __device__ void load_units(const Block&, const Tables&, const Scratch&) {}
  __device__ bool level(const Tables&) { return false; }
  __device__ void store(const Block&, const Tables&, const Scratch&) const {}

  __device__ bool has_step(const Block& b, const Tables& t, const Scratch& s) const {
    bool is_found = false;
    for (int i = first_routed_item(b) + b.lane; i < t.num_items; i += kWarpSize) {
      bool gives = false;
      bool takes = false;
      for (int a = t.item_begin[i]; a < t.item_begin[i + 1]; ++a) {
        const int over = s.load[t.arc_rank[a]] - s.capacity[t.arc_rank[a]];
        gives |= over > 0 && s.amount[a] > s.local[a];
        takes |= over < 0;
      }
      is_found |= gives && takes;
    }
    return __any_sync(kFullWarp, is_found);
  }
};

}  // namespace plimsoll::gpu
