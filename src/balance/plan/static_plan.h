// Plans for SGLang's static dispatch, whose draws are known before it makes them.
#pragma once

#include <cstdint>
#include <span>

#include "plimsoll/plan.h"

namespace plimsoll {

// Improves `placement` layer by layer under the very draws that SGLang will make of it; takes the
// best of `others`, and improves that, where one of them is better so. load: [layers, experts].
void plan_for_draws(std::span<const int64_t> load,
                    const PlanOptions& options,
                    std::span<const Placement> others,
                    Placement& placement);

}  // namespace plimsoll
