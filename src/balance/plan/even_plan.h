// Placements for engines that split an expert's tokens evenly over its copies: how many copies each
// expert gets, and where they go, so that the fullest rank is as empty as the search finds.
#pragma once

#include <cstdint>
#include <span>

#include "balance/measure/layer_plan.h"

namespace plimsoll {

struct EvenGoal {
  int num_nodes = 1;  // above 1: copies lie so that SGLang's nearest copy splits evenly, too
  double enough = 0;  // tokens; a fullest rank that holds no more need not be improved
};

// From nothing. load: tokens of every expert.
LayerPlan make_even_plan(std::span<const int64_t> load,
                         int num_ranks,
                         int slots_per_rank,
                         const EvenGoal& goal);

// Exchanges experts, and copies of one for copies of another, as long as the fullest rank falls.
// Every expert of `plan` has a slot. Returns the tokens of the fullest rank.
double improve_even_plan(LayerPlan& plan, std::span<const int64_t> load, const EvenGoal& goal);

}  // namespace plimsoll
