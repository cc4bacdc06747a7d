#pragma once

#include <cstdint>

namespace plimsoll {

// How often --elastic has been needed.
struct ElasticStats {
  int64_t num_restarts = 0;    // after processes had died
  double restart_seconds = 0;  // of all of them, from a step's failure to the next step
};

}  // namespace plimsoll
