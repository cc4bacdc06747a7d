// Local search over placements of one layer: which slots hold which experts, judged by how many
// tokens of the recorded steps exact routing cannot fit under the lower bound of each step.
//
// The overflow of a step is what is left above that bound (mostly the mean rank load) when its
// tokens are routed as well as the placement allows (a maximum flow). It is the smooth companion of
// the maximum: zero where the step is as level as can be, and it counts every rank above, not the
// fullest only. Every step keeps its flow from one placement to the next, so that trying a move
// costs a few augmenting paths.
#pragma once

#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "balance/measure/layer_plan.h"
#include "balance/random.h"

namespace plimsoll {

struct SearchLimits {
  int64_t num_proposals = 0;
  int64_t max_work = std::numeric_limits<int64_t>::max();  // slots looked at
  // Copies that may come to ranks which did not hold them in `home`; -1: any number.
  int max_moved = -1;
  std::vector<int32_t> home;  // [num_slots], the placement in force, if there is one
};

// steps: [num_steps, num_experts]. Returns a placement with no more overflow than `start`, which
// holds every expert, none twice on a rank where avoidable; the same holds for what is returned.
LayerPlan search_placement(const LayerPlan& start,
                           std::span<const int64_t> steps,
                           int num_experts,
                           const SearchLimits& limits);

}  // namespace plimsoll
