// What traffic asked of the experts lately, in memory that does not grow with the steps.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/schedule/step.h"
#include "plimsoll/placement.h"

namespace plimsoll {

class LoadWindow {
 public:
  // For the last num_steps steps, or a few more.
  LoadWindow(int num_layers, int num_experts, int64_t num_steps);

  void add(const StepResult& step);
  void clear();

  int64_t num_steps() const { return num_steps_; }  // added since the window was cleared
  // At most 64 runs of consecutive steps, in no particular order: of each run its first step, to
  // judge placements by, and the other steps added up, to plan for. A placement judged by the steps
  // it was planned for looks better than it will be, so only a window of a single step gives it for
  // both.
  LoadHistory samples() const { return history(samples_); }
  LoadHistory runs() const { return num_steps_ < 2 ? samples() : history(runs_); }

  // Since the window was cleared. Loads are (token, expert) pairs, the shared expert included.
  double utilization() const;       // mean/max load of ranks, the mean over layers and steps
  double max_over_mean() const;     // sum of the maxima over sum of the means
  double seconds_per_pair() const;  // that a rank computes

 private:
  LoadHistory history(const std::vector<int64_t>& counts) const;

  int num_layers_;
  int num_experts_;
  int64_t steps_per_run_;
  int64_t num_runs_max_;
  int64_t num_steps_ = 0;
  std::vector<int64_t> runs_, samples_;  // [num_runs_max, num_layers, num_experts]
  int64_t num_layer_steps_ = 0;          // layers of steps that had any work
  double sum_utilization_ = 0, sum_max_ = 0, sum_mean_ = 0, sum_pairs_ = 0, expert_seconds_ = 0;
};

}  // namespace plimsoll
