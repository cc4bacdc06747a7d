// The solver: route() of src/balance, by one thread block. Where the CPU works in a fixed order
// that matters (pushes of the flow) this keeps the order; where it does not matter (sums, pouring,
// labels, which are shortest distances) the threads share the work.
#pragma once

#include "cuda/balance/free_ways.cuh"
#include "cuda/balance/push.cuh"
#include "cuda/balance/spread.cuh"

namespace plimsoll::gpu {

enum Step { kLevel, kPush, kLookFarther, kCutOff };

__device__ inline bool has_excess(const Block& b, const Scratch& s) {
  bool is_over = false;
#pragma unroll 1
  for (int r = b.lane; r < b.shape.num_ranks; r += 32) is_over |= s.load[r] > s.capacity[r];
  return __any_sync(kFullWarp, is_over);
}

// By one warp, from the start: what costs no message, then the usual rest.
__device__ inline Step level_nearby(const Block& b, const Tables& t, const Scratch& s) {
  __syncwarp();
  if (!has_excess(b, s)) return kLevel;
  if (t.num_items > first_routed_item(b)) {
    if (!b.shape.has_rank_sets()) return kLookFarther;
    if (b.shape.num_ranks <= 32 && 2 * b.shape.num_redundant() <= 64) {
      push_free_ways<1, 2>(b, t, s);
    } else {
      push_free_ways<kMaxFreeRanks / 32, kMaxFreeArcs / 32>(b, t, s);
    }
    if (!has_excess(b, s)) return kLevel;
  }
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
    if (b.shape.shared_is_item) {
      s.load[r] += s.local[r] - s.amount[r];
      s.amount[r] = s.local[r];
    }
    s.capacity[r] = s.bound[0] - s.home_cost[r];
  }
  __syncthreads();
}

// From s.column, s.local and s.tokens to s.amount: how much of each item every rank takes, under
// the smallest possible maximum, s.bound.
__device__ inline void solve(const Block& b, const Tables& t, const Scratch& s, Divisor per_round) {
  sum_ranks(b, t, s, per_round);
  if (b.warp == 0) set_bound(b, s, per_round);
  const bool has_items = t.num_items > first_routed_item(b);
  if (has_items) __syncthreads();
  for (int round = 0;;) {
    if (has_items) round = spread(b, t, s, round);
    if (b.warp == 0) {
      const Step step = level_nearby(b, t, s);
      if (b.lane == 0) s.step[0] = step;
    }
    __syncthreads();
    if (s.step[0] == kLevel) return;
    Step step;
    while ((step = step_far(b, t, s)) == kPush) {
      if (b.warp == 0) Pusher(b, t, s).push_excess();
      __syncthreads();
    }
    if (step == kLevel) return;
    if (b.warp == 0) raise_bound(b, s);
    __syncthreads();
    start_again(b, s);
  }
}

}  // namespace plimsoll::gpu
