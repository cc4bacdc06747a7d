// Labels (potentials) of the flow that levels the ranks, from amounts and loads: shortest distances
// to a rank with room over residual arcs, by Bellman and Ford's rounds over all arcs at once. See
// "As a flow" in docs/balancing.md.
#pragma once

#include "cuda/balance/route/scratch.cuh"
#include "plimsoll/level.h"

namespace plimsoll::gpu {

__device__ inline int in_cost(const Scratch& s, int arc) {
  return s.amount[arc] < s.local[arc] ? 0 : kHopsPerMessage;
}
__device__ inline int out_cost(const Scratch& s, int arc) {
  return s.amount[arc] > s.local[arc] ? -kHopsPerMessage : 0;
}

__device__ inline void start_labels(const Block& b, const Tables& t, const Scratch& s) {
  for (int r = b.thread; r < b.shape.num_ranks; r += kThreads) {
    s.rank_label[r] = s.load[r] < s.capacity[r] ? 0 : kUnreachable;
  }
  for (int i = b.thread; i < t.num_items; i += kThreads) s.item_label[i] = kUnreachable;
}

// Shortest distances to a rank with room, by rounds over all arcs until none changes.
__device__ inline void label(const Block& b, const Tables& t, const Scratch& s) {
  start_labels(b, t, s);
  bool has_changed = true;
  while (__syncthreads_or(has_changed)) {
    has_changed = false;
#pragma unroll 1
    for (int a = b.thread; a < t.num_arcs; a += kThreads) {
      const int from = s.rank_label[t.arc_rank[a]];
      if (from != kUnreachable) atomicMin(&s.item_label[t.arc_item[a]], from + in_cost(s, a));
    }
    __syncthreads();
#pragma unroll 1
    for (int a = b.thread; a < t.num_arcs; a += kThreads) {
      const int through = s.item_label[t.arc_item[a]];
      if (s.amount[a] == 0 || through == kUnreachable) continue;
      const int candidate = through + out_cost(s, a) + 1;
      has_changed |= candidate < atomicMin(&s.rank_label[t.arc_rank[a]], candidate);
    }
    __syncthreads();
  }
}

}  // namespace plimsoll::gpu
