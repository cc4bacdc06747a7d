// Naming ranks and slots of a new placement after those of the one in force.
#pragma once

#include <cstdint>
#include <span>

#include "balance/measure/layer_plan.h"

namespace plimsoll {

// Permutes the ranks of `plan`, and the slots within each, so that as many experts as a greedy
// matching finds stay where `in_force` ([num_slots]) has them: on their rank, and in their slot.
void align(LayerPlan& plan, std::span<const int32_t> in_force);

// How many slots hold an expert that their rank does not hold in `in_force`.
int count_moved(const LayerPlan& plan, std::span<const int32_t> in_force);

}  // namespace plimsoll
