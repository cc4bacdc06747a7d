// The engine that a plan is for (--for): how it dispatches, and what it reads.
#pragma once

#include <string>
#include <string_view>

#include "options/settings.h"
#include "plimsoll/dispatch.h"
#include "plimsoll/result.h"

namespace plimsoll {

// What --for and --ep-dispatch-algorithm say together; fails where they contradict each other.
Result<Dispatch> planned_dispatch(const Settings& settings);

// Fails where the engine of --for does not read a placement of the name's format.
Status check_readable(const Settings& settings, std::string_view placement_file);

// In a sentence, what the plan counts on, and what the engine asks to honour it.
std::string dispatch_text(Dispatch dispatch, const Settings& settings);

}  // namespace plimsoll
