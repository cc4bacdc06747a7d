// The solver: route() of src/balance, by one thread block. Where the CPU works in a fixed order
// that matters (pushes of the flow) this keeps the order; where it does not matter (sums, pouring,
// labels, which are shortest distances) the threads share the work. Minimum-cost flow under a
// waterline that rises by minimum cuts; see "Routing a batch" in docs/balancing.md.
#pragma once

#include "cuda/balance/route/free_ways.cuh"
#include "cuda/balance/route/push.cuh"
#include "cuda/balance/route/spread.cuh"

namespace plimsoll::gpu {

enum Step { kLevel, kPush, kLookFarther, kCutOff };

__device__ inline bool has_excess(const Block& b, const Scratch& s) {
  bool is_over = false;
#pragma unroll 1
  for (int r = b.lane; r < b.shape.num_ranks; r += 32) is_over |= s.load[r] > s.capacity[r];
  return __any_sync(kFullWarp, is_over);
}

template <Size kSize>
using Ways = FreeWays<rank_words(kSize), arc_words(kSize)>;

// By one warp, after pouring: what else costs no message. Whether the trees are of use is asked
// under the first bound.
template <Size kSize>
__device__ inline void level_free(
    const Block& b, const Tables& t, const Scratch& s, Ways<kSize>& ways, bool is_first) {
  ways.load_units(b, t, s);
  const bool has_trees = is_first ? ways.has_step(b, t, s) : s.has_trees[0] != 0;
  if (has_trees) {
    level_trees<kSize>(b, t, s);
    ways.load_units(b, t, s);
  }
  if (ways.level(t)) ways.store(b, t, s);
  __syncwarp();
  if (b.lane == 0) s.has_trees[0] = has_trees;
}

// By one warp: what costs no message, then the usual rest.
template <Size kSize>
__device__ inline Step level_nearby(
    const Block& b, const Tables& t, const Scratch& s, Ways<kSize>& ways, bool is_first) {
  __syncwarp();
  const bool has_items = kSize != Size::kPlain && t.num_items > first_routed_item(b);
  if constexpr (kSize != Size::kPlain) {
    if (has_items) level_free<kSize>(b, t, s, ways, is_first);
  }
  if (kSize == Size::kLarge && has_items) return has_excess(b, s) ? kLookFarther : kLevel;
  return push_shared_directly(b, s) ? kLevel : kLookFarther;
}

// By all: labels everything.
__device__ inline Step step_far(const Block& b, const Tables& t, const Scratch& s) {
  const int r = b.thread;
  const bool has_excess = r < b.shape.num_ranks && s.load[r] > s.capacity[r];
  if (!__syncthreads_or(has_excess)) return kLevel;
  label(b, t, s);
  return __syncthreads_or(has_excess && s.rank_label[r] == kUnreachable) ? kCutOff : kPush;
}

// Raises the bound to what the ranks cut off from all room need, by one warp.
__device__ inline void raise_bound(const Block& b, const Scratch& s) {
  int num_marked = 0;
  int sum = 0;
#pragma unroll 1
  for (int r = b.lane; r < b.shape.num_ranks; r += 32) {
    if (s.rank_label[r] == kUnreachable) ++num_marked, sum += s.load[r] + s.home_cost[r];
  }
  num_marked = sum_of_warp(num_marked);
  const unsigned cost = sum_of_warp(sum);
  const int mean = static_cast<int>((cost + num_marked - 1) / num_marked);
  if (b.lane == 0) s.bound[0] = max(s.bound[0], mean);
}

// By all: the shared experts back home, under the raised bound.
__device__ inline void start_again(const Block& b, const Scratch& s) {
  for (int r = b.thread; r < b.shape.num_ranks; r += kThreads) {
    if (b.shape.shared_is_item) s.amount[r] = s.local[r];
    s.load[r] = base_load(b, s, r);
    s.capacity[r] = s.bound[0] - s.home_cost[r];
  }
  __syncthreads();
}

// From s.column, s.local and s.tokens to s.amount: how much of each item every rank takes, under
// the smallest possible maximum, s.bound.
template <Size kSize>
__device__ inline void solve(const Block& b, const Tables& t, const Scratch& s, Divisor per_round) {
  sum_ranks(b, t, s, per_round);
  if (b.warp == 0) set_bound(b, s, per_round);
  const bool has_items = kSize != Size::kPlain && t.num_items > first_routed_item(b);
  Ways<kSize> ways(b);
  if (has_items) {
    __syncthreads();
    if (kSize != Size::kSmall) set_potentials(b, t, s);
    if (b.warp == 0) ways.load_tables(b, t);
    pour_items<kSize>(b, t, s);
  }
  for (bool is_first = true;; is_first = false) {
    if (b.warp == 0) {
      const Step step = level_nearby<kSize>(b, t, s, ways, is_first);
      if (b.lane == 0) s.step[0] = step;
    }
    __syncthreads();
    if (s.step[0] == kLevel) [[likely]]
      return;
    Step step;
    while ((step = step_far(b, t, s)) == kPush) {
      if (b.warp == 0) Pusher(b, t, s).push_excess();
      __syncthreads();
    }
    if (step == kLevel) return;
    if (b.warp == 0) raise_bound(b, s);
    __syncthreads();
    start_again(b, s);
    if (has_items) pour_items<kSize>(b, t, s);
  }
}

}  // namespace plimsoll::gpu
