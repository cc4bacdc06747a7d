// plimsoll plan --scenario: one placement for several recorded loads.
#pragma once

#include "plimsoll/result.h"
#include "settings.h"

namespace plimsoll {

Result<int> run_plan_scenarios(const Settings& settings);

}  // namespace plimsoll
