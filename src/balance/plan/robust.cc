// One placement for several loads. Which mixture of them to plan for is found as in a game: every
// round plans for a mixture, and the loads that came off badly weigh more in the next
// (multiplicative weights; Arora, Hazan and Kale, Theory of Computing 8, 2012).
#include <algorithm>
#include <numeric>

#include "balance/plan/align.h"
#include "balance/plan/plan_check.h"
#include "balance/plan/plimsoll.h"

namespace plimsoll {
namespace {

constexpr int kRounds = 8;

struct Score {
  double worst = 0;  // the largest max/mean of the scenarios
  double mean = 0;   // weighted by tokens
  bool operator<(const Score& other) const {
    return worst != other.worst ? worst < other.worst : mean < other.mean;
  }
};

class RobustLayer {
 public:
  RobustLayer(std::span<const LoadHistory> scenarios, int layer, const PlanOptions& options)
      : options_(options) {
    const int max_steps = std::max<int>(1, kMaxSteps / static_cast<int>(scenarios.size()) - 1);
    for (const LoadHistory& load : scenarios) {
      LayerLoad of_layer = layer_load(load, layer, max_steps);
      alone_.push_back(of_layer);
      if (of_layer.num_steps() > 1) {
        of_layer.steps.insert(of_layer.steps.end(), of_layer.total.begin(), of_layer.total.end());
      }
      tokens_.push_back(std::accumulate(of_layer.total.begin(), of_layer.total.end(), int64_t{0}));
      rows_tokens_.push_back(
          std::accumulate(of_layer.steps.begin(), of_layer.steps.end(), int64_t{0}));
      loads_.push_back(std::move(of_layer));
    }
  }

  LayerPlan run() {
    std::vector<double> weights(loads_.size(), 1);
    for (int round = 0; round < kRounds; ++round) {
      try_plan(plan_layer(mix(weights), options_));
      const auto [low, high] = std::minmax_element(ratios_.begin(), ratios_.end());
      if (*low == *high) break;
      for (size_t s = 0; s < weights.size(); ++s) {
        weights[s] *= 1 + (ratios_[s] - *low) / (*high - *low);
      }
    }
    LayerLoad sum{.total = std::vector<int64_t>(alone_.front().total.size(), 0)};
    for (const LayerLoad& load : alone_) {
      try_plan(plan_layer(load, options_));
      for (size_t e = 0; e < sum.total.size(); ++e) sum.total[e] += load.total[e];
    }
    sum.steps = sum.total;
    try_plan(plan_layer(sum, options_));
    return std::move(best_);
  }

 private:
  // Every scenario as a share of its own tokens, times its weight.
  LayerLoad mix(std::span<const double> weights) const {
    constexpr double kUnit = 1 << 22;  // fine enough for any count, and far from overflowing
    const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
    LayerLoad mixture{.total_counts = false};
    mixture.total.assign(loads_.front().total.size(), 0);
    for (size_t s = 0; s < loads_.size(); ++s) {
      const double scale = rows_tokens_[s] == 0
                               ? 0
                               : weights[s] / sum * kUnit / static_cast<double>(rows_tokens_[s]);
      for (size_t i = 0; i < loads_[s].steps.size(); ++i) {
        const auto share = static_cast<int64_t>(scale * static_cast<double>(loads_[s].steps[i]));
        mixture.steps.push_back(share);
        mixture.total[i % mixture.total.size()] += share;
      }
    }
    return mixture;
  }

  void try_plan(LayerPlan plan) {
    const Score score = judge(plan);
    if (!best_.expert.empty() && !(score < best_score_)) return;
    best_ = std::move(plan);
    best_score_ = score;
  }

  Score judge(const LayerPlan& plan) {
    const auto all = static_cast<double>(
        std::max<int64_t>(std::accumulate(tokens_.begin(), tokens_.end(), int64_t{0}), 1));
    Score score;
    ratios_.assign(loads_.size(), 1);
    for (size_t s = 0; s < loads_.size(); ++s) {
      if (rows_tokens_[s] == 0) continue;
      const int64_t maxima = sum_of_maxima(plan, loads_[s].steps, loads_[s].total.size(), options_);
      ratios_[s] =
          static_cast<double>(maxima * plan.num_ranks) / static_cast<double>(rows_tokens_[s]);
      score.worst = std::max(score.worst, ratios_[s]);
      score.mean += ratios_[s] * static_cast<double>(tokens_[s]) / all;
    }
    return score;
  }

  const PlanOptions& options_;
  std::vector<LayerLoad> alone_;      // [scenario]
  std::vector<LayerLoad> loads_;      // [scenario]; where there are several steps, the total is one
  std::vector<int64_t> tokens_;       // [scenario]
  std::vector<int64_t> rows_tokens_;  // [scenario], of all rows of steps
  std::vector<double> ratios_;        // [scenario], of the plan judged last
  LayerPlan best_;
  Score best_score_;
};

Status check_scenarios(std::span<const LoadHistory> scenarios, const PlanOptions& options) {
  if (scenarios.empty()) return invalid_argument("a plan for scenarios needs at least one");
  for (const LoadHistory& load : scenarios) {
    if (Status status = check_plan(load, options); !status.ok()) return status;
    if (load.num_layers == scenarios.front().num_layers &&
        load.num_logical_experts == scenarios.front().num_logical_experts) {
      continue;
    }
    return invalid_argument("the scenarios are of different models: one has " +
                            std::to_string(scenarios.front().num_layers) + " layers of " +
                            std::to_string(scenarios.front().num_logical_experts) +
                            " experts, another " + std::to_string(load.num_layers) + " of " +
                            std::to_string(load.num_logical_experts));
  }
  if (!options.algorithm.starts_with("plimsoll")) {
    return invalid_argument("algorithm '" + options.algorithm +
                            "' plans for one load; scenarios need plimsoll");
  }
  if (options.max_moved_experts >= 0) {
    return invalid_argument("a plan for several scenarios cannot limit how many experts move");
  }
  return ok_status();
}

}  // namespace

Result<RobustPlan> make_robust_plan(std::span<const LoadHistory> scenarios,
                                    const PlanOptions& options) {
  if (Status status = check_scenarios(scenarios, options); !status.ok()) return status.error();
  RobustPlan plan;
  plan.algorithm = options.algorithm;
  Placement& placement = plan.placement;
  placement.num_layers = scenarios.front().num_layers;
  placement.num_logical_experts = scenarios.front().num_logical_experts;
  placement.num_physical_experts = placement.num_logical_experts + options.num_redundant_experts;
  placement.num_ranks = options.num_ranks;
  for (int l = 0; l < placement.num_layers; ++l) {
    LayerPlan layer = RobustLayer(scenarios, l, options).run();
    if (options.in_force.num_layers > 0) align(layer, options.in_force.layer(l));
    placement.physical_to_logical.insert(placement.physical_to_logical.end(), layer.expert.begin(),
                                         layer.expert.end());
  }
  for (const LoadHistory& load : scenarios) {
    auto certificates =
        certify(placement, total_load(load), {}, options.dispatch, options.num_nodes);
    if (!certificates.ok()) return certificates.error();
    plan.certificates.push_back(std::move(*certificates));
  }
  if (options.in_force.num_layers > 0) {
    auto moved = moved_experts(options.in_force, placement);
    if (!moved.ok()) return moved.error();
    plan.moved_experts = std::move(*moved);
  }
  return plan;
}

}  // namespace plimsoll
