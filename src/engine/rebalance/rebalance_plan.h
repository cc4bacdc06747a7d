// Which layers to place anew, from the load of the last steps: those whose gain pays for what the
// change costs.
#pragma once

#include <string>
#include <vector>

#include "ep/moe_layout.h"
#include "plimsoll/plan.h"
#include "plimsoll/result.h"

namespace plimsoll {

// What things cost here, as measured.
struct RebalanceCosts {
  double seconds_per_pair = 0;          // a (token, expert) pair, to the rank that computes it
  double seconds_per_switch = 0;        // of a layer, all ranks waiting
  double seconds_per_moved_expert = 0;  // 0 where ranks share the experts' memory
};

struct RebalanceTask {
  LoadHistory runs;     // what to plan for
  LoadHistory samples;  // single steps, others than those, by which placements are judged
  Placement in_force;
  RouteOptions route;
  int top_k = 0;
  std::string algorithm;  // --eplb-algorithm
  int num_nodes = 1;
  int64_t num_steps_ahead = 0;  // in which a change must pay
  RebalanceCosts costs;
};

struct RebalancePlan {
  std::vector<LayerLayout> layers;   // to be switched, most gain first
  std::vector<int32_t> num_moved;    // of each: slots whose rank does not hold their expert yet
  double max_over_mean_now = 1;      // over all layers of the samples, in the placement in force,
  double max_over_mean_planned = 1;  // and with all of `layers` switched
  double gain_seconds = 0;           // expected in num_steps_ahead, of `layers`
  double cost_seconds = 0;

  int total_moved() const;
};

// Fails where --eplb-algorithm does. No layers: nothing pays.
Result<RebalancePlan> plan_rebalance(const RebalanceTask& task);

}  // namespace plimsoll
