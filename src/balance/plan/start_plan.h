// Placements for exact routing, made from nothing.
#pragma once

#include <cstdint>
#include <span>

#include "balance/measure/layer_plan.h"

namespace plimsoll {

// A start that is level for a known load. With at least ranks - 1 redundant slots every rank holds
// exactly its share: whole experts are packed heaviest first, then the ranks form a chain along
// which each passes its surplus on through a copy of one of its experts. With fewer, copies go to
// the experts with the largest load per copy, and all are packed heaviest first.
LayerPlan start_plan(std::span<const int64_t> load, int num_ranks, int slots_per_rank);

}  // namespace plimsoll
