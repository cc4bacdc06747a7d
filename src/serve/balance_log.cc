#include "serve/balance_log.h"

#include <algorithm>
#include <numeric>
#include <span>

#include "engine/rebalance/balance_summary.h"
#include "serve/rebalance_json.h"

namespace plimsoll {
namespace {

using Json = nlohmann::ordered_json;

// Sums over steps that belong to one layer.
struct LayerSums {
  std::vector<int64_t> load;  // [rank]
  int64_t max_before = 0;     // sums of the steps' maxima
  int64_t max_after = 0;
  int64_t bound = 0;
};

double ratio(int64_t max, int64_t total, size_t num_ranks) {
  return total == 0 ? 1
                    : static_cast<double>(max) * static_cast<double>(num_ranks) /
                          static_cast<double>(total);
}

void add_step(const StepBalance& balance, std::vector<LayerSums>& layers) {
  const int num_ranks = balance.num_ranks;
  layers.resize(balance.num_layers, {.load = std::vector<int64_t>(num_ranks)});
  for (int l = 0; l < balance.num_layers; ++l) {
    const auto row = [&](const std::vector<int64_t>& loads) {
      return std::span(loads).subspan(static_cast<size_t>(l) * num_ranks, num_ranks);
    };
    const std::span<const int64_t> after = row(balance.total_load);
    for (int r = 0; r < num_ranks; ++r) layers[l].load[r] += after[r];
    layers[l].max_after += std::ranges::max(after);
    layers[l].max_before += std::ranges::max(row(balance.home_load));
    layers[l].bound += balance.bound[l];
  }
}

}  // namespace

void BalanceLog::set_placement(const Engine& engine) {
  const std::lock_guard lock(mutex_);
  placement_ = engine.placement();
  if (engine.rebalancer()) rebalancing_ = engine.rebalancer()->stats();
}

nlohmann::ordered_json BalanceLog::rebalancing() const {
  const std::lock_guard lock(mutex_);
  return rebalancing_ ? plimsoll::to_json(*rebalancing_) : Json();
}

Placement BalanceLog::placement() const {
  const std::lock_guard lock(mutex_);
  return placement_;
}

void BalanceLog::add(const Engine& engine) {
  Step step{.low_latency = engine.last_plan().mode == StepMode::kLowLatency,
            .balance = engine.last_result().balance};
  step.balance.expert_counts = {};  // nobody asks this log for them
  for (const RankPlan& rank : engine.last_plan().ranks) {
    for (const SegmentPlan& segment : rank.segments) {
      step.num_tokens += static_cast<int>(segment.tokens.size());
    }
  }
  const std::lock_guard lock(mutex_);
  if (const Rebalancer* rebalancer = engine.rebalancer()) {
    const bool switched =
        rebalancer->stats().num_switched_layers != rebalancing_->num_switched_layers;
    if (switched) placement_ = engine.placement();
    rebalancing_ = rebalancer->stats();
  }
  if (placement_.num_ranks != step.balance.num_ranks) {  // ranks have died, see --elastic
    placement_ = engine.placement();
    steps_.clear();
  }
  ++num_steps_;
  num_tokens_ += step.num_tokens;
  steps_.push_back(std::move(step));
  if (steps_.size() > num_steps_max_) steps_.pop_front();
}

nlohmann::ordered_json BalanceLog::to_json(size_t num_steps) const {
  const std::lock_guard lock(mutex_);
  num_steps = std::min(num_steps, steps_.size());
  std::vector<LayerSums> layers;
  Json recent = Json::array();
  for (size_t i = steps_.size() - num_steps; i < steps_.size(); ++i) {
    const Step& step = steps_[i];
    add_step(step.balance, layers);
    const BalanceSummary summary = summarize(step.balance);
    recent.push_back({{"mode", step.low_latency ? "low_latency" : "normal"},
                      {"tokens", step.num_tokens},
                      {"max_over_mean", summary.mean_ratio},
                      {"worst_layer", summary.worst_ratio},
                      {"bound", summary.bound_ratio}});
  }
  Json by_layer = Json::array();
  double sum_before = 0, sum_after = 0, sum_bound = 0;
  for (size_t l = 0; l < layers.size(); ++l) {
    const LayerSums& layer = layers[l];
    const int64_t total = std::accumulate(layer.load.begin(), layer.load.end(), int64_t{0});
    const size_t num_ranks = layer.load.size();
    const double before = ratio(layer.max_before, total, num_ranks);
    const double after = ratio(layer.max_after, total, num_ranks);
    const double bound = ratio(layer.bound, total, num_ranks);
    sum_before += before, sum_after += after, sum_bound += bound;
    by_layer.push_back({{"layer", l},
                        {"load", layer.load},
                        {"max_over_mean_before", before},
                        {"max_over_mean", after},
                        {"bound", bound}});
  }
  const double n = std::max<double>(1, static_cast<double>(layers.size()));
  return {{"num_steps", num_steps_},
          {"num_tokens", num_tokens_},
          {"window_steps", num_steps},
          {"mean",
           {{"max_over_mean_before", sum_before / n},
            {"max_over_mean", sum_after / n},
            {"bound", sum_bound / n}}},
          {"layers", std::move(by_layer)},
          {"steps", std::move(recent)}};
}

}  // namespace plimsoll
