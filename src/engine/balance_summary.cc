#include "engine/balance_summary.h"

#include <algorithm>
#include <numeric>
#include <span>

namespace plimsoll {

BalanceSummary summarize(const StepBalance& balance) {
  BalanceSummary summary;
  double sum_max = 0, sum_min = 0, sum_bound = 0;
  for (int l = 0; l < balance.num_layers; ++l) {
    const auto row = [&](const std::vector<int64_t>& loads) {
      return std::span(loads).subspan(static_cast<size_t>(l) * balance.num_ranks,
                                      balance.num_ranks);
    };
    const std::span<const int64_t> load = row(balance.total_load);
    const auto total = std::accumulate(load.begin(), load.end(), int64_t{0});
    if (total == 0) continue;
    const double mean = static_cast<double>(total) / balance.num_ranks;
    const auto [min, max] = std::ranges::minmax(load);
    const double ratio = static_cast<double>(max) / mean;
    sum_max += ratio;
    sum_min += static_cast<double>(min) / mean;
    sum_bound += static_cast<double>(balance.bound[l]) / mean;
    summary.worst_ratio = std::max(summary.worst_ratio, ratio);
    summary.max_load += max;
    summary.min_load += min;
    summary.mean_load += mean;
    summary.bound_load += balance.bound[l];
    summary.home_load += std::ranges::max(row(balance.home_load));
    ++summary.num_layers;
  }
  if (summary.num_layers > 0) {
    summary.mean_ratio = sum_max / summary.num_layers;
    summary.min_ratio = sum_min / summary.num_layers;
    summary.bound_ratio = sum_bound / summary.num_layers;
  }
  return summary;
}

}  // namespace plimsoll
