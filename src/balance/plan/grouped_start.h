// Placements for exact routing where copies are fewer than ranks - 1.
#pragma once

#include <cstdint>
#include <span>

#include "balance/measure/layer_plan.h"

namespace plimsoll {

// With so few copies the ranks fall into groups that share no expert, at least as many groups as
// ranks exceed copies. This makes exactly so many: a group of n ranks gets n - 1 copies, with which
// start_plan can level it, and so much load that all groups are about as full. load: falling.
// target: tokens; groups that are no fuller than this many a rank need not be relieved.
LayerPlan grouped_start(std::span<const int64_t> load,
                        int num_ranks,
                        int slots_per_rank,
                        double target);

}  // namespace plimsoll
