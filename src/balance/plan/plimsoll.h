// Our own placement algorithm.
#pragma once

#include <span>

#include "balance/measure/layer_plan.h"
#include "balance/plan/layer_load.h"
#include "plimsoll/plan.h"

namespace plimsoll {

// Of one layer, by `plimsoll` or `plimsoll_hierarchical`, whatever is in force.
LayerPlan plan_layer(const LayerLoad& load, const PlanOptions& options);

// Of experts that may lie on any of the ranks. num_nodes: for SGLang's dispatch.
LayerPlan plan_ranks(
    const LayerLoad& load, int num_ranks, int slots_per_rank, Dispatch dispatch, int num_nodes);

// What a plan is for: the maxima of all steps [num_steps, num_experts] under the options' dispatch,
// summed.
int64_t sum_of_maxima(const LayerPlan& plan,
                      std::span<const int64_t> steps,
                      size_t num_experts,
                      const PlanOptions& options);

// Moves max_moved_experts from the placement in force, where they help most. Exact routing only.
void improve_in_force(const LoadHistory& load, const PlanOptions& options, Placement& placement);

// Gives every layer in which another algorithm's placement has a smaller maximum that one,
// improved.
void outdo_others(const LoadHistory& load, const PlanOptions& options, Placement& placement);

// Sizes and load are checked by the caller.
Result<Placement> plan_plimsoll(const LoadHistory& load, const PlanOptions& options);

}  // namespace plimsoll
