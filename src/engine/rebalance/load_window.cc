#include "engine/rebalance/load_window.h"

#include <algorithm>
#include <numeric>

namespace plimsoll {
namespace {

constexpr int64_t kMaxRuns = 64;

}  // namespace

LoadWindow::LoadWindow(int num_layers, int num_experts, int64_t num_steps)
    : num_layers_(num_layers),
      num_experts_(num_experts),
      steps_per_run_(std::max<int64_t>(2, (num_steps + kMaxRuns - 1) / kMaxRuns)),
      num_runs_max_((num_steps + steps_per_run_ - 1) / steps_per_run_),
      runs_(num_runs_max_ * num_layers * num_experts),
      samples_(runs_.size()) {}

void LoadWindow::add(const StepResult& step) {
  const StepBalance& balance = step.balance;
  for (int l = 0; l < balance.num_layers; ++l) {
    const auto load = balance.total_load.begin() + int64_t{l} * balance.num_ranks;
    const int64_t total = std::accumulate(load, load + balance.num_ranks, int64_t{0});
    if (total == 0) continue;
    const double mean = static_cast<double>(total) / balance.num_ranks;
    const auto max = static_cast<double>(*std::max_element(load, load + balance.num_ranks));
    ++num_layer_steps_;
    sum_utilization_ += mean / max;
    sum_max_ += max;
    sum_mean_ += mean;
    sum_pairs_ += static_cast<double>(total);
  }
  for (const RankResult& rank : step.ranks) expert_seconds_ += rank.seconds.experts;

  // The oldest run makes room for the newest.
  const int64_t size = int64_t{num_layers_} * num_experts_;
  const auto run = runs_.begin() + num_steps_ / steps_per_run_ % num_runs_max_ * size;
  const auto sample = samples_.begin() + (run - runs_.begin());
  const bool is_first = num_steps_ % steps_per_run_ == 0;
  for (int64_t i = 0; i < size; ++i) run[i] = is_first ? 0 : run[i] + balance.expert_counts[i];
  if (is_first) std::copy_n(balance.expert_counts.begin(), size, sample);
  ++num_steps_;
}

void LoadWindow::clear() {
  num_steps_ = num_layer_steps_ = 0;
  sum_utilization_ = sum_max_ = sum_mean_ = sum_pairs_ = expert_seconds_ = 0;
}

LoadHistory LoadWindow::history(const std::vector<int64_t>& counts) const {
  const int64_t size = int64_t{num_layers_} * num_experts_;
  const int64_t num_runs =
      std::min(num_runs_max_, (num_steps_ + steps_per_run_ - 1) / steps_per_run_);
  return {static_cast<int>(num_runs),
          num_layers_,
          num_experts_,
          {counts.begin(), counts.begin() + num_runs * size}};
}

double LoadWindow::utilization() const {
  return num_layer_steps_ == 0 ? 1 : sum_utilization_ / static_cast<double>(num_layer_steps_);
}

double LoadWindow::max_over_mean() const {
  return sum_mean_ == 0 ? 1 : sum_max_ / sum_mean_;
}

double LoadWindow::seconds_per_pair() const {
  return sum_pairs_ == 0 ? 0 : expert_seconds_ / sum_pairs_;
}

}  // namespace plimsoll
