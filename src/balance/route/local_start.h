// The assignment levelling starts from: the fewest messages of all, whatever the load, and the
// ranks as level as free units make them.
//
// A unit whose source holds a copy of its expert stays there; the others are free: they have to
// travel anyway, to any copy. Moving free units between copies is a flow in the graph of ranks that
// share experts, so the flow that levels the ranks can be written down at once, as currents in a
// network of equal resistors: potentials are a matrix, made with the tables, times what the ranks
// have too much. What rounding leaves is carried along spanning trees. All of it is a few sums over
// all ranks and experts alike, with no order among them: a GPU does them side by side. Where an
// expert has too few free units for its current, the rest is left to levelling.
#pragma once

#include <cstdint>
#include <span>

#include "plimsoll/route.h"

namespace plimsoll {

// Numbers of units are kept in these ranges, so that sums over 128 ranks fit 32 bits.
inline constexpr int64_t kMaxHeight = 1 << 22;
inline constexpr int64_t kMaxSurplus = 1 << 23;
inline constexpr int kResponseBits = 16;  // of the fraction in SpreadTables::response
// Making the response takes their number cubed; with more ranks the items are poured in turn.
inline constexpr int kMaxResponseRanks = 128;

// first_item: the first that has a choice of copies; the shared expert's has all ranks.
SpreadTables make_spread_tables(const LevelGraph& graph, int first_item);

// Fills w.level.local and w.start_amount, where every rank that holds a copy takes an equal share;
// adds to w.start_load.
void start_in_equal_shares(const RouteTables& tables,
                           std::span<const int32_t> counts,
                           std::span<const int32_t> active_tokens,
                           RouteWorkspace& w);

// Puts every unit home that can be, and spreads the free ones so that the loads are over (or under)
// w.level.capacity by as much on all ranks, as far as that can be.
void spread_free_units(const RouteTables& tables, RouteWorkspace& w);

}  // namespace plimsoll
