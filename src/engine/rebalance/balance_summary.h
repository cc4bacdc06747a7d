// One step's balance in a few numbers.
#pragma once

#include <span>
#include <vector>

#include "engine/schedule/step.h"

namespace plimsoll {

// A layer in which some rank had work; spans of the step, [num_ranks].
struct LayerBalance {
  std::span<const int64_t> routed, total, home;
  int64_t bound = 0;

  // max over mean; 1 is level.
  double routed_ratio() const;
  double total_ratio() const;
  double bound_ratio() const;
};

std::vector<LayerBalance> busy_layers(const StepBalance& balance);

// Ratios of the fullest rank to the mean of a layer, the shared expert included; 1 is level. Layers
// without any token are left out.
struct BalanceSummary {
  int num_layers = 0;
  double mean_ratio = 1;
  double worst_ratio = 1;
  double bound_ratio = 1;  // the mean over layers that no routing of the step can beat
  double min_ratio = 1;    // emptiest rank over the mean, the mean over layers
  // (token, expert) pairs, summed over layers.
  int64_t max_load = 0;  // of each layer's fullest rank
  int64_t min_load = 0;  // of its emptiest one
  double mean_load = 0;
  int64_t bound_load = 0;  // the smallest max_load that any routing of the step can have
  int64_t home_load = 0;   // max_load, had every shared expert run at home
};

BalanceSummary summarize(const StepBalance& balance);

}  // namespace plimsoll
