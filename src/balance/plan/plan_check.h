// The checks that every way of planning begins with.
#pragma once

#include "plimsoll/plan.h"

namespace plimsoll {

// Fails as make_plan says.
Status check_plan(const LoadHistory& load, const PlanOptions& options);

}  // namespace plimsoll
