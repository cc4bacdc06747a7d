// The sizes of one routing problem, and where the packed tables of a placement lie. Shared by host
// and device.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>

#ifdef __CUDACC__
#define PLIMSOLL_HD __host__ __device__ inline
#else
#define PLIMSOLL_HD inline
#endif

namespace plimsoll::gpu {

inline constexpr int kMaxRanks = 128;
inline constexpr int kMaxExperts = 1024;  // logical
inline constexpr int kMaxSlots = 2048;
inline constexpr int kMaxTopK = 32;
inline constexpr int kMaxPeerItems = 129;     // up to which a warp keeps the lanes of every item
inline constexpr int kSlices = 16;            // of the experts, a block of a cluster each
inline constexpr int kMaxResponseRanks = 64;  // up to which the matrix is in shared memory
inline constexpr uint16_t kNone = 0xFFFF;

// Division by a number that is known when a kernel is launched; of numbers below 2^31.
struct Divisor {
  uint32_t magic = 0;
  uint32_t shift = 0;
  uint32_t is_one = 1;

  Divisor() = default;
  explicit Divisor(int by) {
    if (by < 2) return;
    const int bits = std::bit_width(static_cast<uint32_t>(by) - 1);
    magic = static_cast<uint32_t>(((uint64_t{1} << (31 + bits)) + by - 1) / by);
    shift = static_cast<uint32_t>(bits - 1);
    is_one = 0;
  }
#ifdef __CUDACC__
  __device__ int divide(int value) const {
    const uint32_t n = static_cast<uint32_t>(value);
    return static_cast<int>((__umulhi(n, magic) + n * is_one) >> shift);
  }
#endif
};

// What a kernel is made for, so that it holds no code that its problem never needs: a routing runs
// through its code once, and jumps over the rest cost it time.
enum class Size {
  kPlain,   // no redundant slots
  kSmall,   // ranks and arcs with a choice of copies fit one and two registers of a warp
  kMedium,  // two and four
  kLarge,
};
inline constexpr int kWarpSize = 32;

// Registers of a lane in which a warp holds the ranks, and the arcs with a choice of copies. 0:
// they do not fit, or there are none.
PLIMSOLL_HD constexpr int rank_words(Size size) {
  return size == Size::kMedium ? 2 : size == Size::kLarge ? 0 : 1;
}
PLIMSOLL_HD constexpr int most_rank_words(Size size) {
  return size == Size::kLarge ? kMaxRanks / kWarpSize : rank_words(size);
}
PLIMSOLL_HD constexpr int arc_words(Size size) {
  return size == Size::kSmall ? 2 : size == Size::kMedium ? 4 : 0;
}

// Fixed for a deployment: placements change beneath a captured graph, these do not.
struct Shape {
  int num_ranks = 0;
  int num_experts = 0;
  int num_slots = 0;
  int num_shared_experts = 0;
  bool shared_is_item = false;  // waterfill

  PLIMSOLL_HD int slots_per_rank() const { return num_slots / num_ranks; }
  PLIMSOLL_HD int num_redundant() const { return num_slots - num_experts; }
  // A row of the count matrix: the counts of a source, then its active tokens.
  PLIMSOLL_HD int row_size() const { return num_experts + 1; }
  // The most that any placement of these sizes can have: an expert with copies uses up one
  // redundant slot at least.
  PLIMSOLL_HD int max_items() const {
    return (num_redundant() < num_experts ? num_redundant() : num_experts) + 1;
  }
  // Experts of a slice; whole vectors of 16 bytes.
  PLIMSOLL_HD int slice_size() const { return (num_experts + 4 * kSlices - 1) / (4 * kSlices) * 4; }
  // What a block sends to another: its counts of a slice and its active tokens, or its offers.
  PLIMSOLL_HD int slice_row_size() const { return slice_size() + 4; }
  PLIMSOLL_HD int offer_row_size() const { return (num_ranks + 3) / 4 * 4; }
  PLIMSOLL_HD Size size() const {
    if (num_redundant() == 0) return Size::kPlain;
    for (const Size size : {Size::kSmall, Size::kMedium}) {
      if (num_ranks <= kWarpSize * rank_words(size) &&
          2 * num_redundant() <= kWarpSize * arc_words(size)) {
        return size;
      }
    }
    return Size::kLarge;
  }
  PLIMSOLL_HD bool has_few_items() const { return max_items() <= kMaxPeerItems; }
  PLIMSOLL_HD int max_arcs() const {
    const int copies = 2 * num_redundant();
    return num_ranks + (copies < num_slots ? copies : num_slots);
  }
};

// Offsets, in uint16, into a placement's packed tables. Items and arcs are those of RouteTables.
struct TableLayout {
  int num_items = 0;  // two numbers, then the arrays
  int num_arcs = 1;
  int expert_item;     // [num_experts], kNone: the expert has one rank
  int expert_slot;     // [num_experts], the slot of an expert of one rank
  int slot_expert;     // [num_slots], the expert of one rank this slot serves, else kNone
  int item_expert;     // [max_items], kNone: the shared expert
  int item_begin;      // [max_items + 1]
  int arc_rank;        // [max_arcs]
  int arc_item;        // [max_arcs]
  int arc_slot;        // [max_arcs]
  int rank_arc_begin;  // [num_ranks + 1]
  int rank_arcs;       // [max_arcs]
  // SpreadTables, a place a rank; kNone: the place is a root.
  int place_rank;   // [num_ranks]
  int subtree_end;  // [num_ranks]
  int tree_begin;   // [num_ranks]
  int tree_end;     // [num_ranks]
  int arc_out;      // [num_ranks]
  int arc_in;       // [num_ranks]
  // Sets, a bit each, of uint32; where they do not fit a warp there are none.
  int item_ranks;  // [max_items, rank_words]
  // Of the arcs of routed items, counted from the first of them.
  int rank_arc_sets;  // [num_ranks, arc_words]
  int item_arc_sets;  // [max_items, arc_words]
  int response;       // [num_ranks, num_ranks], int32; the last, since it may stay where it is
  int size;           // a multiple of 8: 16 bytes

  PLIMSOLL_HD explicit TableLayout(const Shape& s) {
    size = 8;
    take(expert_item, s.num_experts);
    take(expert_slot, s.num_experts);
    take(slot_expert, s.num_slots);
    take(item_expert, s.max_items());
    take(item_begin, s.max_items() + 1);
    take(arc_rank, s.max_arcs());
    take(arc_item, s.max_arcs());
    take(arc_slot, s.max_arcs());
    take(rank_arc_begin, s.num_ranks + 1);
    take(rank_arcs, s.max_arcs());
    for (int* array : {&place_rank, &subtree_end, &tree_begin, &tree_end, &arc_out, &arc_in}) {
      take(*array, s.num_ranks);
    }
    align();
    take(item_ranks, 2 * s.max_items() * rank_words(s.size()));
    align();
    take(rank_arc_sets, 2 * s.num_ranks * arc_words(s.size()));
    align();
    take(item_arc_sets, 2 * s.max_items() * arc_words(s.size()));
    align();
    take(response, 2 * s.num_ranks * s.num_ranks);
    align();
  }

  // The part that goes to shared memory.
  PLIMSOLL_HD int shared_size(const Shape& s) const {
    return s.num_ranks <= kMaxResponseRanks ? size : response;
  }

 private:
  PLIMSOLL_HD void take(int& offset, int count) {
    offset = size;
    size += count;
  }
  PLIMSOLL_HD void align() { size = (size + 7) / 8 * 8; }
};

}  // namespace plimsoll::gpu
