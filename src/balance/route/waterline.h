// Finding the least waterline (maximum rank load) under which a batch can be routed.
//
// The items of the workspace's start are levelled in units; a rank under a waterline has room for
// floor((waterline - offset) / unit cost) of them.
#pragma once

#include <cstdint>
#include <span>

#include "plimsoll/route.h"

namespace plimsoll {

// Fills w.unit_cost: what a unit of an item costs on each rank, 0 where masked out.
void set_unit_costs(const RouteTables& tables, int64_t cost, RouteWorkspace& w);

// Room for units on a rank under a waterline no lower than the rank's offset.
inline int64_t room_under(const RouteWorkspace& w, int rank, int64_t waterline) {
  return w.unit_cost[rank] == 0 ? 0 : (waterline - w.offset[rank]) / w.unit_cost[rank];
}

// The least waterline from `from` up under which the marked ranks together have room for num_units.
int64_t least_waterline(const RouteWorkspace& w,
                        std::span<const uint8_t> marked,
                        int64_t num_units,
                        int64_t from);

// Levels w.start_amount and w.start_load, of which w.fixed_load has no choice, into w.level under
// the least waterline possible. This becomes plan.lower_bound, with plan.bound_ranks to prove it.
void level_under_least_waterline(const RouteTables& tables, RouteWorkspace& w, RoutePlan& plan);

}  // namespace plimsoll
