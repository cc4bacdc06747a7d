// Sizes of a plan: what the published algorithms ask of them, and arrays that have them.
#pragma once

#include "plimsoll/eplb.h"
#include "plimsoll/plan.h"

namespace plimsoll {

EplbSizes eplb_sizes(const LoadHistory& load, const PlanOptions& options);

Status check_eplb_sizes(const EplbSizes& sizes, bool hierarchical);

// All arrays at their sizes, zeroed.
EplbAnswer make_eplb_answer(const EplbSizes& sizes);

// Without a map yet.
Placement empty_placement(const EplbSizes& sizes);

}  // namespace plimsoll
