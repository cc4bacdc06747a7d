// The blocking flow between two labellings, from the labels: pushes along residual arcs that lie on
// cheapest ways, in the order of src/balance/level.cc, by one warp, because the order decides which
// of several best answers is found. See "As a flow" in docs/balancing.md.
#pragma once

#include "cuda/balance/route/label.cuh"

namespace plimsoll::gpu {

__device__ inline int in_room(const Scratch& s, int arc) {
  return s.amount[arc] < s.local[arc] ? s.local[arc] - s.amount[arc] : INT_MAX;
}
__device__ inline int out_room(const Scratch& s, int arc) {
  return s.amount[arc] > s.local[arc] ? s.amount[arc] - s.local[arc] : s.amount[arc];
}

// The usual flow where no rank with excess has a way that costs no message: every one, if there is
// one at all, has shared experts of its own to send, which any rank with room takes, both in
// ascending order. False, and nothing done, if this is not that case.
__device__ inline bool push_shared_directly(const Block& b, const Scratch& s) {
  bool is_direct = true;
  int excess_sum = 0;
#pragma unroll 1
  for (int r = b.lane; r < b.shape.num_ranks; r += 32) {
    const int excess = s.load[r] - s.capacity[r];
    if (excess <= 0) continue;
    excess_sum += excess;
    is_direct &= b.shape.shared_is_item && s.amount[r] >= excess;
  }
  if (!__all_sync(kFullWarp, is_direct)) return false;
  int left = sum_of_warp(excess_sum);
  if (left == 0) return true;
#pragma unroll 1
  for (int first = 0; first < b.shape.num_ranks; first += 32) {
    const int r = first + b.lane;
    const bool is_rank = r < b.shape.num_ranks;
    const int over = is_rank ? s.load[r] - s.capacity[r] : 0;
    const int room = max(-over, 0);
    const int room_end = scan_lanes(room, b.lane);
    const int taken = min(max(left - (room_end - room), 0), room);
    if (is_rank) s.amount[r] += over > 0 ? -over : taken;
    left = max(left - __shfl_sync(kFullWarp, room_end, 31), 0);
  }
  return true;
}

// A blocking flow, one path after the other; the lanes look for the lowest arc.
class Pusher {
 public:
  __device__ Pusher(const Block& b, const Tables& t, const Scratch& s) : b_(b), t_(t), s_(s) {}

  // From the ranks with excess that reach room for the fewest messages.
  __device__ void push_excess() {
#pragma unroll 1
    for (int r = b_.lane; r < b_.shape.num_ranks; r += 32) s_.rank_next[r] = t_.rank_arc_begin[r];
#pragma unroll 1
    for (int i = b_.lane; i < t_.num_items; i += 32) s_.item_next[i] = t_.item_begin[i];
    __syncwarp();
    int fewest = INT_MAX;
#pragma unroll 1
    for (int r = b_.lane; r < b_.shape.num_ranks; r += 32) {
      if (s_.load[r] > s_.capacity[r]) fewest = min(fewest, num_messages(r));
    }
    fewest = __reduce_min_sync(kFullWarp, fewest);
#pragma unroll 1
    for (int first = 0; first < b_.shape.num_ranks; first += 32) {
      const int r = first + b_.lane;
      const bool pushes =
          r < b_.shape.num_ranks && s_.load[r] > s_.capacity[r] && num_messages(r) == fewest;
#pragma unroll 1
      for (unsigned left = __ballot_sync(kFullWarp, pushes); left != 0; left &= left - 1) {
        const int rank = first + __ffs(left) - 1;
        while (s_.load[rank] > s_.capacity[rank] && push_path(rank)) {
        }
      }
    }
  }

 private:
  __device__ int num_messages(int rank) const {
    return s_.rank_label[rank] / kHopsPerMessage;
  }

  // One path from the rank with excess; false if there is none any more.
  __device__ bool push_path(int start) {
    int depth = 0;
    int rank = start;
    for (;;) {
      const int label = s_.rank_label[rank];
      if (label == 0) {
        if (s_.load[rank] < s_.capacity[rank]) break;
      } else if (const int out = lowest_out(rank, label); out >= 0) {
        const int in = lowest_in(t_.arc_item[out]);
        if (in >= 0) {
          __syncwarp();  // a way back has been read
          if (b_.lane == 0) s_.path[2 * depth] = out, s_.path[2 * depth + 1] = in;
          __syncwarp();
          ++depth;
          rank = t_.arc_rank[in];
        } else {
          advance(s_.rank_next[rank]);
        }
        continue;
      }
      if (depth == 0) return false;
      --depth;
      advance(s_.item_next[t_.arc_item[s_.path[2 * depth]]]);
      rank = t_.arc_rank[s_.path[2 * depth]];
    }
    move_units(start, rank, depth);
    return true;
  }

  __device__ void advance(int32_t& next) {
    __syncwarp();
    if (b_.lane == 0) ++next;
    __syncwarp();
  }

  // The lowest arc by which units may leave a rank, at or after rank_next.
  __device__ int lowest_out(int rank, int label) {
    const int end = t_.rank_arc_begin[rank + 1];
    const auto is_admissible = [&](int i) {
      const int arc = t_.rank_arcs[i];
      return s_.amount[arc] > 0 && label == s_.item_label[t_.arc_item[arc]] + out_cost(s_, arc) + 1;
    };
    const int i = lowest(s_.rank_next[rank], end, is_admissible);
    return i == end ? -1 : t_.rank_arcs[i];
  }

  // The lowest arc by which units may enter a rank from an item, at or after item_next.
  __device__ int lowest_in(int item) {
    const int end = t_.item_begin[item + 1];
    const int label = s_.item_label[item];
    const auto is_admissible = [&](int arc) {
      return label == s_.rank_label[t_.arc_rank[arc]] + in_cost(s_, arc);
    };
    const int arc = lowest(s_.item_next[item], end, is_admissible);
    return arc == end ? -1 : arc;
  }

  // Moves `next` on to the first below `end` that passes.
  template <typename Test>
  __device__ int lowest(int32_t& next, int end, Test test) const {
    const int old = next;
    int begin = old;
    for (; begin < end; begin += 32) {
      const int i = begin + b_.lane;
      const unsigned passed = __ballot_sync(kFullWarp, i < end && test(i));
      if (passed == 0) continue;
      begin += __ffs(passed) - 1;
      break;
    }
    begin = min(begin, end);
    if (begin != old) {
      __syncwarp();
      if (b_.lane == 0) next = begin;
      __syncwarp();
    }
    return begin;
  }

  __device__ void move_units(int start, int end, int depth) {
    int room = min(s_.load[start] - s_.capacity[start], s_.capacity[end] - s_.load[end]);
    for (int d = b_.lane; d < depth; d += 32) {
      room = min(room, min(out_room(s_, s_.path[2 * d]), in_room(s_, s_.path[2 * d + 1])));
    }
    room = __reduce_min_sync(kFullWarp, room);
    for (int d = b_.lane; d < depth; d += 32) {
      s_.amount[s_.path[2 * d]] -= room;
      s_.amount[s_.path[2 * d + 1]] += room;
    }
    if (b_.lane == 0) {
      s_.load[start] -= room;
      s_.load[end] += room;
    }
    __syncwarp();
  }

  const Block& b_;
  const Tables& t_;
  const Scratch& s_;
};

}  // namespace plimsoll::gpu
