// Lower bounds on the fullest rank of a layer, valid for every placement and every routing.
#pragma once

#include <cstdint>
#include <span>

#include "plimsoll/plan.h"

namespace plimsoll {

struct LowerBound {
  int64_t value = 0;
  Bound binding = Bound::kMean;
};

// sorted_load: tokens of every expert, falling. At most one copy of an expert counts on a rank.
LowerBound lower_bound(std::span<const int64_t> sorted_load, int num_ranks, int slots_per_rank);

}  // namespace plimsoll
