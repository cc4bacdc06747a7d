#include "engine/rebalance/balance_summary.h"

#include <algorithm>
#include <numeric>

namespace plimsoll {
namespace {

double mean_of(std::span<const int64_t> load) {
  const auto sum = std::accumulate(load.begin(), load.end(), int64_t{0});
  return static_cast<double>(sum) / static_cast<double>(load.size());
}

double max_over_mean(std::span<const int64_t> load) {
  return static_cast<double>(std::ranges::max(load)) / mean_of(load);
}

}  // namespace

double LayerBalance::routed_ratio() const {
  return max_over_mean(routed);
}
double LayerBalance::total_ratio() const {
  return max_over_mean(total);
}
double LayerBalance::bound_ratio() const {
  return static_cast<double>(bound) / mean_of(total);
}

std::vector<LayerBalance> busy_layers(const StepBalance& balance) {
  std::vector<LayerBalance> layers;
  for (int l = 0; l < balance.num_layers; ++l) {
    const auto row = [&](const std::vector<int64_t>& loads) {
      return std::span(loads).subspan(static_cast<size_t>(l) * balance.num_ranks,
                                      balance.num_ranks);
    };
    const LayerBalance layer{row(balance.routed_load), row(balance.total_load),
                             row(balance.home_load), balance.bound[l]};
    if (std::ranges::max(layer.total) > 0) layers.push_back(layer);
  }
  return layers;
}

BalanceSummary summarize(const StepBalance& balance) {
  BalanceSummary summary;
  double sum_max = 0, sum_min = 0, sum_bound = 0;
  for (const LayerBalance& layer : busy_layers(balance)) {
    const double mean = mean_of(layer.total);
    const auto [min, max] = std::ranges::minmax(layer.total);
    sum_max += layer.total_ratio();
    sum_min += static_cast<double>(min) / mean;
    sum_bound += layer.bound_ratio();
    summary.worst_ratio = std::max(summary.worst_ratio, layer.total_ratio());
    summary.max_load += max;
    summary.min_load += min;
    summary.mean_load += mean;
    summary.bound_load += layer.bound;
    summary.home_load += std::ranges::max(layer.home);
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
