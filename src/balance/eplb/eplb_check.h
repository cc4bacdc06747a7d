// What the published algorithms ask of the sizes they are given.
#pragma once

#include "plimsoll/eplb.h"

namespace plimsoll {

Status check_eplb_sizes(const EplbSizes& sizes, bool hierarchical);

// All arrays at their sizes, zeroed.
EplbAnswer make_eplb_answer(const EplbSizes& sizes);

}  // namespace plimsoll
