// The first pushes of the flow that levels the ranks: along ways that cost no message. Units of an
// item that are away from home anyway go from one of its ranks to another, for as long as no item
// is short of units at home anywhere, as in the start and after any such push. One warp holds all
// of it in registers, an arc or two a lane, where Pusher would look into shared memory at every
// step; the order, and so the outcome, is the same.
#pragma once

#include <type_traits>

#include "cuda/balance/label.cuh"
#include "cuda/balance/spread.cuh"

namespace plimsoll::gpu {

// kWords: of a set of ranks. kArcs: of a lane.
template <int kWords, int kArcs>
class FreeWays {
  using Set = std::conditional_t<kWords == 1, uint32_t, uint64_t>;

 public:
  __device__ FreeWays(const Block& b, const Tables& t, const Scratch& s) : lane_(b.lane) {
#pragma unroll
    for (int w = 0; w < kWords; ++w) {
      const int r = 32 * w + b.lane;
      over_[w] = r < b.shape.num_ranks ? s.load[r] - s.capacity[r] : 0;
    }
    const int words = b.shape.num_words();
#pragma unroll
    for (int j = 0; j < kArcs; ++j) {
      const int arc = first_routed_arc(b) + 32 * j + b.lane;
      const bool is_arc = arc < t.num_arcs;
      const int a = is_arc ? arc : 0;  // loads that wait for nothing are under way together
      const int units = s.amount[a] - s.local[a];
      const int item = t.arc_item[a];
      rank_[j] = is_arc ? t.arc_rank[a] : 0;
      item_[j] = is_arc ? item : -1;
      free_[j] = is_arc ? units : 0;
      Set ranks = t.item_ranks[item * words];
      if (kWords == 2 && words == 2) ranks |= uint64_t{t.item_ranks[item * words + 1]} << 32;
      ranks_[j] = is_arc ? ranks : 0;
    }
  }

  // Pushes until no rank with excess is left that reaches room so. Returns whether any was pushed.
  __device__ bool level() {
    bool has_pushed = false;
    for (;;) {
      const Set excess = ranks_where([](int over) { return over > 0; });
      if (excess == 0) return has_pushed;
      const Set sources = label() & excess;
      if (sources == 0) return has_pushed;
      has_pushed = true;
#pragma unroll 1
      for (Set left = sources; left != 0; left &= left - 1) {
        const int rank = lowest(left);
        while (over(rank) > 0 && push_path(rank)) {
        }
      }
    }
  }

  // Puts amounts and loads where the others see them.
  __device__ void store(const Block& b, const Tables& t, const Scratch& s) const {
#pragma unroll
    for (int j = 0; j < kArcs; ++j) {
      const int a = first_routed_arc(b) + 32 * j + b.lane;
      if (a < t.num_arcs) s.amount[a] = s.local[a] + free_[j];
    }
#pragma unroll
    for (int w = 0; w < kWords; ++w) {
      const int r = 32 * w + b.lane;
      if (r < b.shape.num_ranks) s.load[r] = s.capacity[r] + over_[w];
    }
    __syncwarp();
  }

 private:
  static constexpr int kFar = 255;

  __device__ static int lowest(Set set) {
    if constexpr (kWords == 1) {
      return __ffs(set) - 1;
    } else {
      const uint32_t low = static_cast<uint32_t>(set);
      return low != 0 ? __ffs(low) - 1 : 31 + __ffs(static_cast<uint32_t>(set >> 32));
    }
  }
  __device__ static Set set_of(int rank) {
    return Set{1} << rank;
  }
  __device__ static bool has(Set set, int rank) {
    return (set >> rank & 1) != 0;
  }
  __device__ static Set united(Set of_lane) {
    Set all = __reduce_or_sync(kFullWarp, static_cast<uint32_t>(of_lane));
    if constexpr (kWords == 2) {
      all |= Set{__reduce_or_sync(kFullWarp, static_cast<uint32_t>(of_lane >> 32))} << 32;
    }
    return all;
  }

  // The ranks whose excess passes.
  template <typename Test>
  __device__ Set ranks_where(Test test) const {
    Set set = __ballot_sync(kFullWarp, test(over_[0]));
    if constexpr (kWords == 2) set |= Set{__ballot_sync(kFullWarp, test(over_[1]))} << 32;
    return set;
  }
  __device__ int over(int rank) const {
    int value = over_[0];
    if constexpr (kWords == 2) {
      value =
          (over_[0] & -static_cast<int>(rank < 32)) | (over_[1] & -static_cast<int>(rank >= 32));
    }
    return __shfl_sync(kFullWarp, value, rank % 32);
  }

  // Hops to a rank with room, of every rank and item that reaches one; returns those ranks.
  __device__ Set label() {
    Set met = ranks_where([](int over) { return over < 0; });
    Set seen = met;
    dead_ = 0;
#pragma unroll
    for (int j = 0; j < kArcs; ++j) {
      rank_label_[j] = has(met, rank_[j]) ? 0 : kFar;
      item_label_[j] = kFar;
    }
#pragma unroll 1
    for (int hops = 0; met != 0; ++hops) {
      Set reaching = 0;
#pragma unroll
      for (int j = 0; j < kArcs; ++j) {
        if (item_label_[j] == kFar && (ranks_[j] & met) != 0) item_label_[j] = hops;
        if (item_label_[j] == hops && free_[j] > 0) reaching |= set_of(rank_[j]);
      }
      met = united(reaching) & ~seen;
      seen |= met;
#pragma unroll
      for (int j = 0; j < kArcs; ++j) {
        if (has(met, rank_[j])) rank_label_[j] = hops + 1;
      }
    }
    return seen;
  }

  // The lowest arc, as 32 times j plus the lane, for which test(j) holds; -1 if there is none.
  template <typename Test>
  __device__ int lowest_arc(Test test) const {
    int found = -1;
#pragma unroll
    for (int j = kArcs - 1; j >= 0; --j) {
      const unsigned passed = __ballot_sync(kFullWarp, test(j));
      if (passed != 0) found = 32 * j + __ffs(passed) - 1;
    }
    return found;
  }
  // The value of an arc.
  __device__ int at(const int (&values)[kArcs], int arc) const {
    int value = 0;  // masked: a choice among the values would put them all in memory
#pragma unroll
    for (int j = 0; j < kArcs; ++j) value |= values[j] & -static_cast<int>(arc / 32 == j);
    return __shfl_sync(kFullWarp, value, arc % 32);
  }

  // One path from the rank with excess, by the lowest arcs that still lead to room; false if there
  // is none any more. What turns out to lead nowhere is dead for the others too.
  __device__ bool push_path(int start) {
    bool is_out[kArcs] = {};
    bool is_in[kArcs] = {};
    int rank = start;
    for (;;) {
      const int out = lowest_arc([&](int j) {
        return rank_[j] == rank && free_[j] > 0 && item_label_[j] == rank_label_[j] - 1;
      });
      if (out < 0) {
        dead_ |= set_of(rank);
        if (rank == start) return false;
        rank = start;
#pragma unroll
        for (int j = 0; j < kArcs; ++j) is_out[j] = is_in[j] = false;
        continue;
      }
      const int item = at(item_, out);
      const int in = lowest_arc([&](int j) {
        return item_[j] == item && rank_label_[j] == item_label_[j] && !has(dead_, rank_[j]);
      });
      if (in < 0) {
#pragma unroll
        for (int j = 0; j < kArcs; ++j) {
          if (item_[j] == item) item_label_[j] = kFar + 1;
        }
        continue;
      }
      const int next = at(rank_, in);
      const bool has_room = at(rank_label_, in) == 0;
#pragma unroll
      for (int j = 0; j < kArcs; ++j) {
        is_out[j] |= 32 * j + lane_ == out;
        is_in[j] |= 32 * j + lane_ == in;
      }
      rank = next;
      if (has_room) break;
    }
    move_units(start, rank, is_out, is_in);
    return true;
  }

  __device__ void move_units(int start,
                             int end,
                             const bool (&is_out)[kArcs],
                             const bool (&is_in)[kArcs]) {
    const int room = -over(end);
    int units = min(over(start), room);
#pragma unroll
    for (int j = 0; j < kArcs; ++j) {
      if (is_out[j]) units = min(units, free_[j]);
    }
    units = __reduce_min_sync(kFullWarp, units);
#pragma unroll
    for (int j = 0; j < kArcs; ++j) {
      free_[j] += (is_in[j] ? units : 0) - (is_out[j] ? units : 0);
    }
#pragma unroll
    for (int w = 0; w < kWords; ++w) {
      const int r = 32 * w + lane_;
      over_[w] += (r == end ? units : 0) - (r == start ? units : 0);
    }
    if (units == room) dead_ |= set_of(end);
  }

  const int lane_;
  int over_[kWords];  // load above the capacity, of rank 32 w + lane
  // Of arc 32 j + lane.
  int free_[kArcs];  // units away from home
  int rank_[kArcs], item_[kArcs];
  Set ranks_[kArcs];  // of its item
  int rank_label_[kArcs], item_label_[kArcs];
  Set dead_;  // ranks that lead nowhere any more
};

template <int kWords, int kArcs>
__device__ inline void push_free_ways(const Block& b, const Tables& t, const Scratch& s) {
  FreeWays<kWords, kArcs> ways(b, t, s);
  if (ways.level()) ways.store(b, t, s);
}

}  // namespace plimsoll::gpu
