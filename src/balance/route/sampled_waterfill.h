// The shared expert's rank by SGLang's published rules: see WaterfillRule.
#pragma once

#include <cstdint>
#include <span>

#include "plimsoll/route.h"

namespace plimsoll {

// Draws a rank for every token of a source whose choices have their slots; -1 for a token without
// any. plan need not be complete but for the quotas of routed experts, and the source's own tokens.
void sample_shared(const RouteTables& tables,
                   const RoutePlan& plan,
                   int source,
                   std::span<const int32_t> physical_ids,
                   int k,
                   RouteWorkspace& w,
                   std::span<int32_t> shared_ranks);

}  // namespace plimsoll
