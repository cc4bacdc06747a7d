// Copies just in time: where the standing placement cannot level a batch, a few experts are copied
// for this layer and this batch alone, into spare slots of other ranks.
//
// Copies cost a transfer of weights within the layer, so they come last: first the standing copies
// (route(), free), then the shared expert (waterfill, free), then the fewest copies that bring the
// fullest rank down to a target, (1 + tolerance) times what level ranks would hold. The choice is
// made in integers from the counts of all ranks, with fixed tie-breaks: every rank that holds the
// same counts makes the same copies, so nothing but the counts need be exchanged.
//
// Choosing the fewest copies is a fixed-charge transport problem (hard in general: with one
// receiving rank it packs bins). It is solved by largest excess first, and judged by a
// bound: every set of ranks that cannot pass on what they hold above the target needs so many
// copies at least (see docs/just-in-time.md).
//
//   set-up, per layer:     make_jit_tables, JitWorkspace, JitPlan
//   per batch and layer:   jit_route (once per process), assign by tables_in_use (once per source)
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "plimsoll/level.h"
#include "plimsoll/result.h"
#include "plimsoll/route.h"

namespace plimsoll {

// One expert copied for one layer of one batch.
struct JitCopy {
  int32_t expert = 0;
  int32_t from =
      0;  // a rank that holds it in the standing placement, in the same domain if one does
  int32_t rank = 0;  // gets it
  int32_t slot = 0;  // into this slot, numbered as in RoutePlan::routed of a JitPlan

  bool operator==(const JitCopy&) const = default;
};

// Slots are numbered anew: rank r has the block [r * n, (r + 1) * n) with n = standing slots +
// spare slots, the standing ones first.
struct JitTables {
  RouteTables standing;
  JitOptions options;
  int standing_slots_per_rank = 0;
  // The experts of each rank, [rank_begin[r], rank_begin[r + 1]), ascending.
  std::vector<int32_t> rank_begin = {0};  // [num_ranks + 1]
  std::vector<int32_t> rank_experts;

  int slots_per_rank() const { return standing_slots_per_rank + options.slots_per_rank; }
  // The number that a slot of the placement has here.
  int32_t widened(int32_t standing_slot) const {
    return standing_slot / standing_slots_per_rank * slots_per_rank() +
           standing_slot % standing_slots_per_rank;
  }
};

// Without spare slots (options.jit.slots_per_rank 0) everything below is route(). Fails as
// make_route_tables does; on options that cannot be; and, with spare slots, on routing that
// just-in-time copies do not know: other dispatch algorithms than exact, other objectives than
// tokens, a waterfilled shared expert that costs other than a routed one.
Result<JitTables> make_jit_tables(const Placement& placement,
                                  int layer_idx,
                                  const RouteOptions& options);

// The answer and what bounds it. Loads are in the units of RoutePlan.
struct JitPlan {
  explicit JitPlan(const JitTables& tables);

  RoutePlan route;              // with the copies: exact, and the fewest messages, for them
  std::vector<JitCopy> copies;  // by rank, then slot
  int64_t standing_max = 0;     // the fullest rank without copies: route()'s
  int64_t level_max = 0;        // the fullest rank were all level: nothing is below it
  int64_t target = 0;           // level_max and the tolerance, or above it by the cost
  // No fewer copies bring the fullest rank down to max(target, route.max_load).
  int32_t min_copies = 0;
  // Of the fullest rank and the copies, by JitOptions::cost; without copies, and as planned.
  int64_t standing_ns = 0;
  int64_t predicted_ns = 0;
};

// Scratch of one thread, for any batch and any layer of the placement it was made for.
struct JitWorkspace {
  explicit JitWorkspace(const JitTables& tables);

  RouteWorkspace route;
  RouteTables extended;  // the standing tables and the copies of the batch

  // The flow of experts that have copies, and what has been chosen.
  LevelGraph graph;
  LevelState level;
  std::vector<int32_t> item_expert;    // [items]
  std::vector<int32_t> expert_item;    // [num_experts], -1: only one copy
  std::vector<int64_t> fixed_load;     // [num_ranks], of experts with one copy
  std::vector<int64_t> capacity;       // [num_ranks]
  std::vector<int32_t> spare_used;     // [num_ranks]
  std::vector<uint8_t> closed;         // [num_ranks], cannot pass on what it holds above capacity
  std::vector<uint8_t> given_up;       // [num_ranks], no copy helps it
  std::vector<int32_t> group;          // [num_ranks], union-find
  std::vector<int64_t> group_excess;   // [num_ranks], at a group's root
  std::vector<int64_t> sizes, rooms;   // scratch of the bound
  std::vector<int64_t> in_ns, out_ns;  // [num_ranks], copies that come and go
  std::vector<JitCopy> copies, other_copies;
};

// The tables of the plan that jit_route made last: what assign() deals it out by.
const RouteTables& tables_in_use(const JitTables& tables,
                                 const JitWorkspace& workspace,
                                 const JitPlan& plan);

// counts, active_tokens: as for route(). Fails as route() does.
Status jit_route(const JitTables& tables,
                 std::span<const int32_t> counts,
                 std::span<const int32_t> active_tokens,
                 JitWorkspace& workspace,
                 JitPlan& plan);

// "6 copies (no fewer than 6) bring the fullest rank from 1530 to 1034, level 1024: 3>5 7>5 ..."
std::string to_string(const JitPlan& plan);

}  // namespace plimsoll
