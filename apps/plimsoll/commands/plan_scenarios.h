// plimsoll plan --scenario: one placement for several recorded loads.
#pragma once

#include "options/settings.h"
#include "plimsoll/result.h"

namespace plimsoll {

Result<int> run_plan_scenarios(const Settings& settings);

}  // namespace plimsoll
