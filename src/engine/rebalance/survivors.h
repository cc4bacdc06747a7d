// Where the experts go when ranks have died.
#pragma once

#include <string>
#include <vector>

#include "plimsoll/placement.h"
#include "plimsoll/result.h"

namespace plimsoll {

struct SurvivorTask {
  Placement in_force;
  std::vector<int32_t> living;  // ranks, ascending
  LoadHistory load;             // so far; one step at least
  std::string algorithm;        // --eplb-algorithm
};

// A placement for the living ranks alone, numbered anew from 0. They keep what they hold as far as
// that is level; about as many experts as were lost come to each layer's ranks, to make up for the
// lost and to level. Ranks get more slots than before where the living ones have too few for all
// experts.
Result<Placement> place_on_survivors(const SurvivorTask& task);

}  // namespace plimsoll
