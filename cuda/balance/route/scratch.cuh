// Where one thread block keeps what it works on, and small helpers of a warp. Offsets are worked
// out on the host and reach the kernels as parameters: an access costs no register for its base.
#pragma once

#include <cuda_runtime.h>

#include <climits>
#include <cstdint>

#include "cuda/balance/route/shape.h"

namespace plimsoll::gpu {

inline constexpr int kBlocks = 16;  // of a cluster
inline constexpr int kThreads = 512;
inline constexpr int kWarps = kThreads / 32;
inline constexpr unsigned kFullWarp = 0xFFFFFFFFu;

extern __shared__ int4 shared_memory[];

template <typename T>
struct SharedArray {
  int at = 0;  // bytes

  __device__ T& operator[](int i) const {
    return reinterpret_cast<T*>(reinterpret_cast<char*>(shared_memory) + at)[i];
  }
  __device__ SharedArray from(int i) const { return {at + i * static_cast<int>(sizeof(T))}; }
};

// The packed tables of a placement, see TableLayout.
struct Tables {
  int num_items = 0;
  int num_arcs = 0;
  const int32_t* far_response = nullptr;  // where the matrix has no room in shared memory
  SharedArray<uint16_t> packed, expert_item, expert_slot, slot_expert, item_expert, item_begin,
      arc_rank, arc_item, arc_slot, rank_arc_begin, rank_arcs, place_rank, subtree_end, tree_begin,
      tree_end, arc_out, arc_in;
  SharedArray<uint32_t> item_ranks, rank_arc_sets, item_arc_sets;
  SharedArray<int32_t> near_response;
};

// What all blocks know of an expert, once it is counted.
struct alignas(16) Column {
  int32_t total;   // over all sources
  int32_t own;     // of this source
  int32_t before;  // of lower sources
  int32_t first;   // of this source's, in lower blocks
};

struct Scratch {
  SharedArray<uint64_t> mailbox;  // [kMailboxes], a barrier for what other blocks send
  // Sent by the blocks of the cluster.
  SharedArray<int32_t> sent_counts;  // [kBlocks, slice_row_size()], of this block's slice
  SharedArray<Column> column;        // [kBlocks * slice_size()], by expert
  SharedArray<int32_t> sent_offers;  // [kBlocks, offer_row_size()]

  SharedArray<uint32_t> choices;       // see count.cuh
  SharedArray<uint32_t> offers;        // of the shared experts of this block's tokens
  SharedArray<uint32_t> peers;         // [kWarps, items if few, or ranks], lanes; see count.cuh
  SharedArray<uint8_t> is_active;      // by token of this block
  SharedArray<int32_t> block_count;    // [kSlices * slice_size()], of the tokens of this block
  SharedArray<int32_t> slice_total;    // [slice_size()], of the matrix, this source's row left out
  SharedArray<int32_t> slice_before;   // likewise, over the rows of lower sources
  SharedArray<int32_t> slice_own;      // likewise, this source's row, if it is there
  SharedArray<uint16_t> warp_count;    // [kWarps, max_items], of items; later each warp's first
  SharedArray<uint16_t> warp_arc;      // [kWarps, max_items], where a warp's occurrences begin
  SharedArray<int32_t> warp_offers;    // [kWarps, num_ranks]; likewise
  SharedArray<int32_t> block_offers;   // [offer_row_size()]
  SharedArray<int32_t> offers_before;  // [num_ranks], of lower blocks
  SharedArray<int32_t> warp_active;    // [kWarps]
  SharedArray<int32_t> block_active;   // [kBlocks]
  SharedArray<int32_t> tokens;         // [num_ranks], active ones

  SharedArray<int32_t> local;           // [max_arcs]
  SharedArray<int32_t> amount;          // [max_arcs]
  SharedArray<int32_t> quota_end;       // [max_arcs], of this source: the end of an arc's numbers
  SharedArray<int32_t> item_home;       // [max_items], units that are at home
  SharedArray<int32_t> item_label;      // [max_items]
  SharedArray<int32_t> item_next;       // [max_items], arc
  SharedArray<int32_t> fixed_load;      // [num_ranks], of experts with one rank
  SharedArray<int32_t> home_load;       // [num_ranks], units of items at home there
  SharedArray<int32_t> share_load;      // [num_ranks], if items lay in equal shares
  SharedArray<int32_t> target;          // [num_ranks], what the start aims at
  SharedArray<int32_t> potential;       // [num_ranks]
  SharedArray<int32_t> heights;         // [kWarps, num_ranks rounded up], of an item's ranks
  SharedArray<int32_t> surplus_before;  // [num_ranks + 1], of lower places
  SharedArray<int32_t> home_cost;       // [num_ranks], shared experts that stay at home
  SharedArray<int32_t> surplus;         // [num_ranks], of equal shares above the target
  SharedArray<int32_t> load;            // [num_ranks]
  SharedArray<int32_t> capacity;        // [num_ranks]
  SharedArray<int32_t> rank_label;      // [num_ranks]
  SharedArray<int32_t> rank_next;       // [num_ranks], into rank_arcs
  SharedArray<int32_t> path;            // [2 * num_ranks], arcs left and entered in turn
  SharedArray<int32_t> away_begin;  // [num_ranks + 1], this source's shared quotas, home left out
  SharedArray<int32_t> left_end;    // [num_ranks], shared quotas nobody preferred, summed
  SharedArray<int32_t> bound;       // [1]
  SharedArray<int32_t> step;        // [1], of levelling
  SharedArray<int32_t> has_trees;   // [1], whether trees level the start
};

enum Mailbox { kCounts, kColumns, kOffers, kMailboxes };

// How a kernel finds its way; made for a shape and a batch.
struct Memory {
  Tables tables;
  Scratch scratch;
  int cleared_at = 0;  // what starts at zero lies from here to the end
  int num_bytes = 0;

  Memory(const Shape& shape, int tokens_per_block, int k) {
    const int arcs = shape.max_arcs();
    const int items = shape.max_items();
    const int ranks = shape.num_ranks;
    take_tables(shape);
    Scratch& s = scratch;
    take(s.mailbox, kMailboxes);
    take(s.choices, tokens_per_block * k);
    take(s.offers, tokens_per_block * shape.num_shared_experts);
    take(s.sent_counts, kBlocks * shape.slice_row_size());
    take(s.column, kSlices * shape.slice_size());
    take(s.sent_offers, kBlocks * shape.offer_row_size());
    take(s.warp_offers, kWarps * ranks);
    take(s.warp_arc, kWarps * items);
    take(s.block_offers, shape.offer_row_size());
    for (auto* few : {&s.warp_active, &s.block_active, &s.bound, &s.step, &s.has_trees})
      take(*few, kWarps);
    for (auto* list :
         {&s.offers_before, &s.tokens, &s.target, &s.potential, &s.surplus, &s.home_cost, &s.load,
          &s.capacity, &s.rank_label, &s.rank_next, &s.left_end}) {
      take(*list, ranks);
    }
    for (auto* list : {&s.surplus_before, &s.away_begin}) take(*list, ranks + 1);
    take(s.path, 2 * ranks);
    take(s.heights, kWarps * kWarpSize * most_rank_words(shape.size()));
    for (auto* list : {&s.local, &s.amount, &s.quota_end}) take(*list, arcs);
    for (auto* list : {&s.item_label, &s.item_next}) take(*list, items);
    cleared_at = num_bytes;
    take(s.block_count, kSlices * shape.slice_size());
    for (auto* slice : {&s.slice_total, &s.slice_before, &s.slice_own}) {
      take(*slice, shape.slice_size());
    }
    take(s.warp_count, kWarps * items);
    take(s.peers, kWarps * std::max(shape.has_few_items() ? items : 0, ranks));
    take(s.item_home, items);
    for (auto* list : {&s.fixed_load, &s.home_load, &s.share_load}) take(*list, ranks);
    take(s.is_active, tokens_per_block);
  }

 private:
  static_assert(kSlices == kBlocks);

  template <typename T>
  void take(SharedArray<T>& array, int count) {
    array.at = num_bytes;
    num_bytes += (count * static_cast<int>(sizeof(T)) + 15) / 16 * 16;
  }

  void take_tables(const Shape& shape) {
    const TableLayout at(shape);
    Tables& t = tables;
    take(t.packed, at.shared_size(shape));
    const auto place = [&](auto& array, int offset) {
      array.at = t.packed.at + offset * static_cast<int>(sizeof(uint16_t));
    };
    place(t.expert_item, at.expert_item);
    place(t.expert_slot, at.expert_slot);
    place(t.slot_expert, at.slot_expert);
    place(t.item_expert, at.item_expert);
    place(t.item_begin, at.item_begin);
    place(t.arc_rank, at.arc_rank);
    place(t.arc_item, at.arc_item);
    place(t.arc_slot, at.arc_slot);
    place(t.rank_arc_begin, at.rank_arc_begin);
    place(t.rank_arcs, at.rank_arcs);
    place(t.place_rank, at.place_rank);
    place(t.subtree_end, at.subtree_end);
    place(t.tree_begin, at.tree_begin);
    place(t.tree_end, at.tree_end);
    place(t.arc_out, at.arc_out);
    place(t.arc_in, at.arc_in);
    place(t.item_ranks, at.item_ranks);
    place(t.rank_arc_sets, at.rank_arc_sets);
    place(t.item_arc_sets, at.item_arc_sets);
    place(t.near_response, at.response);
  }
};

// What every thread knows.
struct Block {
  const Shape& shape;
  int source;  // the rank whose work this cluster does
  int index;   // of this block in its cluster

  int thread, warp, lane;
};

__device__ inline int first_routed_item(const Block& b) {
  return b.shape.shared_is_item ? 1 : 0;
}
__device__ inline int first_routed_arc(const Block& b) {
  return b.shape.shared_is_item ? b.shape.num_ranks : 0;
}

__device__ inline int sum_of_warp(int value) {
  return __reduce_add_sync(kFullWarp, value);
}

// The sum over the lanes up to and including this one.
template <int kWidth = 32>
__device__ inline int scan_lanes(int value, int lane) {
#pragma unroll
  for (int step = 1; step < kWidth; step *= 2) {
    const int other = __shfl_up_sync(kFullWarp, value, step, kWidth);
    if (lane >= step) value += other;
  }
  return value;
}

template <int kWidth, typename T>
__device__ inline T sum_of_group(T value) {
#pragma unroll
  for (int step = kWidth / 2; step > 0; step /= 2) {
    value += __shfl_xor_sync(kFullWarp, value, step, kWidth);
  }
  return value;
}

}  // namespace plimsoll::gpu
