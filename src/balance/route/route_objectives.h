// Routing for other objectives than the number of tokens: experts at work, and time.
#pragma once

#include <cstdint>
#include <span>

#include "plimsoll/route.h"

namespace plimsoll {

// The counterpart of levelling tokens; place_fixed_experts has run.
void route_objective(const RouteTables& tables,
                     std::span<const int32_t> counts,
                     std::span<const int32_t> active_tokens,
                     RouteWorkspace& w,
                     RoutePlan& plan);

// Turns plan.rank_load from cost in tokens into the objective's units.
void to_objective(const RouteTables& tables, RoutePlan& plan);

}  // namespace plimsoll
