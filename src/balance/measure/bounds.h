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

// load: tokens of every expert. At most one copy of an expert counts on a rank.
LowerBound lower_bound(std::span<const int64_t> load, int num_ranks, int slots_per_rank);

// A better one, which takes longer: the slots that hot experts need together with what must lie
// beside their copies. `reached` is a maximum that some placement has: it ends where it meets that.
LowerBound tight_lower_bound(std::span<const int64_t> load,
                             int num_ranks,
                             int slots_per_rank,
                             int64_t reached);

}  // namespace plimsoll
