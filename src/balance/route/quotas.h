// From how much of each item every rank takes to who sends it: the quotas of a RoutePlan.
#pragma once

#include <span>

#include "plimsoll/route.h"

namespace plimsoll {

// Whether route() says where the shared expert runs; else it stays at home there.
inline bool levels_shared(const RouteOptions& options) {
  return options.waterfill && options.waterfill_rule == WaterfillRule::kLevel;
}

// Whether the tokens draw where it runs, in assign().
inline bool draws_shared(const RouteOptions& options) {
  return options.waterfill && !levels_shared(options);
}

// With the cost of a routed expert, the shared expert is one more item to level.
inline bool shared_is_item(const RouteOptions& options) {
  return levels_shared(options) && options.num_shared_experts > 0 &&
         options.objective == RouteObjective::kTokens && options.shared_cost.num == 1 &&
         options.shared_cost.den == 1;
}

// Routed quotas of experts that have no choice (kExact), or of all experts by the static or dynamic
// rule; adds their load to workspace.fixed_load.
void place_fixed_experts(const RouteTables& tables,
                         std::span<const int32_t> counts,
                         RouteWorkspace& workspace,
                         RoutePlan& plan);

// Quotas of every item, from what workspace.level holds.
void expand_items(const RouteTables& tables,
                  std::span<const int32_t> counts,
                  std::span<const int32_t> active_tokens,
                  RouteWorkspace& workspace,
                  RoutePlan& plan);

}  // namespace plimsoll
