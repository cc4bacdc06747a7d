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
      const Set sources = label(excess) & excess;
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
  static constexpr int kNowhere = -1;
  static constexpr int kHasRoom = 1 << 8;

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
    return __shfl_sync(kFullWarp, value, rank & 31);
  }

  // Hops to a rank with room, of ranks and items that reach one, until all wanted ranks are among
  // them; returns those ranks.
  __device__ Set label(Set wanted) {
    Set met = ranks_where([](int over) { return over < 0; });
    Set seen = met;
    int rank_label[kArcs], item_label[kArcs];
#pragma unroll
    for (int j = 0; j < kArcs; ++j) {
      rank_label[j] = has(met, rank_[j]) ? 0 : kFar;
      item_label[j] = kFar;
    }
#pragma unroll 1
    for (int hops = 0; met != 0 && (wanted & ~seen) != 0; ++hops) {
      Set reaching = 0;
#pragma unroll
      for (int j = 0; j < kArcs; ++j) {
        if (item_label[j] == kFar && (ranks_[j] & met) != 0) item_label[j] = hops;
        if (item_label[j] == hops && free_[j] > 0) reaching |= set_of(rank_[j]);
      }
      met = united(reaching) & ~seen;
      seen |= met;
#pragma unroll
      for (int j = 0; j < kArcs; ++j) {
        if (has(met, rank_[j])) rank_label[j] = hops + 1;
      }
    }
#pragma unroll
    for (int j = 0; j < kArcs; ++j) {
      const bool leads_out = free_[j] > 0 && item_label[j] == rank_label[j] - 1;
      out_of_[j] = leads_out ? rank_[j] : kNowhere;
      in_from_[j] = item_label[j] == rank_label[j] ? item_[j] : kNowhere;
      end_[j] = rank_[j] | (rank_label[j] == 0 ? kHasRoom : 0);
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
    for (int j = 0; j < kArcs; ++j) value |= values[j] & -static_cast<int>(arc >> 5 == j);
    return __shfl_sync(kFullWarp, value, arc & 31);
  }

  // No unit enters a rank any more that leads nowhere.
  __device__ void close(int rank) {
#pragma unroll
    for (int j = 0; j < kArcs; ++j) {
      if (rank_[j] == rank) in_from_[j] = kNowhere;
    }
  }
  // This lane's bit of an arc in a set of its arcs.
  __device__ unsigned bit_of(int arc) const {
    return static_cast<unsigned>((arc & 31) == lane_) << (arc >> 5);
  }

  // One path from the rank with excess, by the lowest arcs that still lead to room; false if there
  // is none any more. What turns out to lead nowhere does so for the others too.
  __device__ bool push_path(int start) {
    unsigned outs = 0;  // arcs of this lane
    unsigned ins = 0;
    int rank = start;
    for (;;) {
      const int out = lowest_arc([&](int j) { return out_of_[j] == rank; });
      if (out < 0) {
        close(rank);
        if (rank == start) return false;
        rank = start;
        outs = ins = 0;
        continue;
      }
      const int item = at(item_, out);
      const int in = lowest_arc([&](int j) { return in_from_[j] == item; });
      if (in < 0) {
#pragma unroll
        for (int j = 0; j < kArcs; ++j) {
          if (item_[j] == item) out_of_[j] = kNowhere;
        }
        continue;
      }
      const int end = at(end_, in);
      outs |= bit_of(out);
      ins |= bit_of(in);
      rank = end & ~kHasRoom;
      if (end != rank) break;
    }
    move_units(start, rank, outs, ins);
    return true;
  }

  __device__ void move_units(int start, int end, unsigned outs, unsigned ins) {
    const int room = -over(end);
    int units = min(over(start), room);
#pragma unroll
    for (int j = 0; j < kArcs; ++j) {
      if (outs >> j & 1) units = min(units, free_[j]);
    }
    units = __reduce_min_sync(kFullWarp, units);
#pragma unroll
    for (int j = 0; j < kArcs; ++j) {
      free_[j] += (ins >> j & 1 ? units : 0) - (outs >> j & 1 ? units : 0);
      if (free_[j] == 0) out_of_[j] = kNowhere;
    }
#pragma unroll
    for (int w = 0; w < kWords; ++w) {
      const int r = 32 * w + lane_;
      over_[w] += (r == end ? units : 0) - (r == start ? units : 0);
    }
    if (units == room) close(end);
  }

  const int lane_;
  int over_[kWords];  // load above the capacity, of rank 32 w + lane
  // Of arc 32 j + lane.
  int free_[kArcs];  // units away from home
  int rank_[kArcs], item_[kArcs];
  Set ranks_[kArcs];  // of its item
  // Ways by which units come nearer to room, once labelled.
  int out_of_[kArcs];   // its rank, if units may leave that for its item
  int in_from_[kArcs];  // its item, if units may enter its rank
  int end_[kArcs];      // its rank, marked if that has room
};

template <int kWords, int kArcs>
__device__ inline void push_free_ways(const Block& b, const Tables& t, const Scratch& s) {
  FreeWays<kWords, kArcs> ways(b, t, s);
  if (ways.level()) ways.store(b, t, s);
}

}  // namespace plimsoll::gpu
