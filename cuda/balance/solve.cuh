// The solver: route() of src/balance, by one thread block. Where the CPU works in a fixed order
// that matters (pushes of the flow) this keeps the order; where it does not matter (sums, pouring,
// labels, which are shortest distances) the threads share the work.
#pragma once

#include "cuda/balance/push.cuh"
#include "cuda/balance/spread.cuh"

namespace plimsoll::gpu {

enum Step { kLevel, kPush, kLookFarther, kCutOff };

// By one warp, as long as no unit has left its home: what needs no search is done, what costs no
// message is labelled.
__device__ inline Step step_nearby(const Block& b, const Tables& t, const Scratch& s) {
  bool has_excess = false;
#pragma unroll 1
  for (int r = b.lane; r < b.shape.num_ranks; r += 32) has_excess |= s.load[r] > s.capacity[r];
  if (!__any_sync(kFullWarp, has_excess)) return kLevel;
  if (!b.shape.has_rank_sets()) return kLookFarther;
  if (t.num_items > (b.shape.shared_is_item ? 1 : 0) && FreeWays(b, t, s).label()) return kPush;
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

template <typename T>
__device__ inline void copy(const Block& b, int count, SharedArray<T> from, SharedArray<T> to) {
#pragma unroll 1
  for (int i = b.thread; i < count; i += kThreads) to[i] = from[i];
}

__device__ inline void set_capacities(const Block& b, const Scratch& s) {
  for (int r = b.thread; r < b.shape.num_ranks; r += kThreads) {
    s.capacity[r] = s.bound[0] - s.home_cost[r];
  }
  __syncthreads();
}

// From s.total, s.local and s.tokens to s.amount: how much of each item every rank takes, under the
// smallest possible maximum, s.bound.
__device__ inline void solve(const Block& b, const Tables& t, const Scratch& s) {
  const int bound = make_start(b, t, s);
  if (b.thread == 0) s.bound[0] = bound;
  for (int r = b.thread; r < b.shape.num_ranks; r += kThreads) {
    s.capacity[r] = bound - s.home_cost[r];
  }
  __syncthreads();
  bool is_near = true;
  bool is_saved = false;
  for (;;) {
    if (is_near) {
      if (b.warp == 0) {
        const Step step = step_nearby(b, t, s);
        if (b.lane == 0) s.step[0] = step;
      }
      __syncthreads();
    }
    const Step step = is_near ? static_cast<Step>(s.step[0]) : step_far(b, t, s);
    if (step == kLevel) return;
    if (!is_saved) {
      copy(b, t.num_arcs, s.amount, s.start_amount);
      copy(b, b.shape.num_ranks, s.load, s.start_load);
      is_saved = true;
    }
    __syncthreads();
    is_near = is_near && step == kPush;
    if (step == kPush && b.warp == 0) Pusher(b, t, s).push_excess();
    if (step == kCutOff) {
      if (b.warp == 0) raise_bound(b, s);
      __syncthreads();
      copy(b, t.num_arcs, s.start_amount, s.amount);
      copy(b, b.shape.num_ranks, s.start_load, s.load);
      set_capacities(b, s);
      is_near = true;
    }
    __syncthreads();
  }
}

}  // namespace plimsoll::gpu
