// Placements without redundant experts: a partition of the experts into ranks of equal numbers,
// improved by exchanging experts between ranks.
#pragma once

#include <cstdint>
#include <span>

#include "balance/measure/layer_plan.h"

namespace plimsoll {

// Improves `plan`, in which every expert has one slot. steps: [num_steps, num_experts]; load: all
// steps together. With one step the maximum is lowered; with several the spread of the rank loads
// over all of them (the sum of their squares), so that experts that are hot together come apart.
void exchange_experts(LayerPlan& plan,
                      std::span<const int64_t> steps,
                      std::span<const int64_t> load);

}  // namespace plimsoll
