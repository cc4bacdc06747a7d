// Every value of --eplb-algorithm. To add one: a file in src/balance/eplb that defines
// `Result<Placement> plan_NAME(const LoadHistory&, const PlanOptions&)`, its test beside it, and a
// row here. A row declares the function and calls it: a name without an algorithm does not link.
#pragma once

#include <string>
#include <string_view>

#include "plimsoll/plan.h"

//  function, name, and the fields of Algorithm that differ from their defaults
#define PLIMSOLL_EPLB_ALGORITHMS(ROW)                                       \
  ROW(plan_plimsoll, "plimsoll", .limits_moves = true)                      \
  ROW(plan_plimsoll, "plimsoll_hierarchical")                               \
  ROW(plan_auto, "auto")                                                    \
  ROW(plan_deepseek, "deepseek")                                            \
  ROW(plan_deepseek, "deepseek_hierarchical")                               \
  ROW(plan_deepseek_vec, "deepseek_vec")                                    \
  ROW(plan_deepseek_vec, "deepseek_vec_hierarchical")                       \
  ROW(plan_elasticity_aware, "elasticity_aware", .avoids_dead_ranks = true) \
  ROW(plan_elasticity_aware, "elasticity_aware_hierarchical", .avoids_dead_ranks = true)

namespace plimsoll {

struct Algorithm {
  std::string_view name;  // one that ends in _hierarchical keeps expert groups within nodes
  // The options name the algorithm, and they and the load have passed check_plan.
  Result<Placement> (*plan)(const LoadHistory& load, const PlanOptions& options);
  bool avoids_dead_ranks = false;  // else every rank must be alive
  bool limits_moves = false;       // keeps to max_moved_experts
};

// nullptr: there is none of this name.
const Algorithm* find_algorithm(std::string_view name);

// What options.algorithm stands for: itself, or what `auto` chooses.
std::string resolve_algorithm(const PlanOptions& options);

}  // namespace plimsoll
