#include "balance/plan/static_plan.h"

#include <algorithm>
#include <numeric>

#include "balance/measure/layer_plan.h"
#include "balance/measure/shares.h"
#include "balance/random.h"

namespace plimsoll {
namespace {

// One layer, and what its copies compute.
struct DrawnLayer {
  LayerPlan plan;
  std::vector<double> share;      // [num_slots]
  std::vector<double> rank_load;  // [num_ranks]
  StaticDraws after;              // the streams, once this layer has drawn

  double max_load() const { return *std::max_element(rank_load.begin(), rank_load.end()); }
};

class LayerSearch {
 public:
  LayerSearch(std::span<const int64_t> load, const RankGrid& grid, const StaticDraws& before)
      : load_(load), grid_(grid), before_(before) {}

  DrawnLayer run(const LayerPlan& start) {
    DrawnLayer best = drawn(start);
    level_singles(best);
    SplitMix64 random{1};
    const double mean = std::accumulate(load_.begin(), load_.end(), 0.0) / grid_.num_ranks;
    const int64_t num_attempts = num_attempts_for(best.plan);
    for (int64_t i = 0; i < num_attempts && best.max_load() > mean * 1.0005; ++i) {
      LayerPlan other = best.plan;
      if (!change(other, best, random)) continue;
      DrawnLayer tried = drawn(std::move(other));
      level_singles(tried);
      if (tried.max_load() < best.max_load()) best = std::move(tried);
    }
    return best;
  }

 private:
  DrawnLayer drawn(LayerPlan plan) const {
    StaticDraws draws = before_;
    std::vector<double> share =
        drawn_shares(CopyTable(plan.expert, static_cast<int>(load_.size())), grid_, draws);
    std::vector<double> loads = rank_loads(plan.expert, share, load_, grid_);
    return {std::move(plan), std::move(share), std::move(loads), std::move(draws)};
  }

  // Drawing takes about a step for every source of every expert with copies.
  int64_t num_attempts_for(const LayerPlan& plan) const {
    const int64_t num_copies = plan.num_slots() - std::ssize(load_);
    return std::clamp<int64_t>(4'000'000 / (num_copies * grid_.num_ranks * grid_.num_ranks + 1), 4,
                               400);
  }

  // Moves a copy to another rank, or gives one to another expert.
  bool change(LayerPlan& plan, const DrawnLayer& now, SplitMix64& random) const {
    std::vector<int> copies(load_.size(), 0);
    for (const int32_t e : plan.expert) ++copies[e];
    const int slot = static_cast<int>(random.below(plan.num_slots()));
    const int32_t e = plan.expert[slot];
    if (copies[e] == 1) return false;
    if (random.below(2) == 0) {
      const int fullest = static_cast<int>(
          std::max_element(now.rank_load.begin(), now.rank_load.end()) - now.rank_load.begin());
      const int from =
          fullest * plan.slots_per_rank + static_cast<int>(random.below(plan.slots_per_rank));
      const int32_t hot = plan.expert[from];
      if (plan.holds(plan.rank_of(slot), hot)) return false;
      plan.expert[slot] = hot;
      return true;
    }
    const int to = static_cast<int>(random.below(plan.num_slots()));
    const int32_t other = plan.expert[to];
    if (plan.rank_of(to) == plan.rank_of(slot) || plan.holds(plan.rank_of(to), e) ||
        plan.holds(plan.rank_of(slot), other)) {
      return false;
    }
    std::swap(plan.expert[slot], plan.expert[to]);
    return true;
  }

  // Experts with one copy draw nothing: where they lie levels what the draws leave.
  void level_singles(DrawnLayer& layer) const {
    std::vector<int> singles = slots_of_singles(layer.plan);
    for (bool improved = true; improved;) {
      improved = false;
      const int fullest =
          static_cast<int>(std::max_element(layer.rank_load.begin(), layer.rank_load.end()) -
                           layer.rank_load.begin());
      double best = layer.rank_load[fullest];
      int best_a = -1;
      int best_b = -1;
      for (const int a : singles) {
        if (grid_.rank_of(a) != fullest) continue;
        for (const int b : singles) {
          const int rank = grid_.rank_of(b);
          const auto moved =
              static_cast<double>(load_[layer.plan.expert[a]] - load_[layer.plan.expert[b]]);
          if (rank == fullest || moved <= 0) continue;
          const double fuller =
              std::max(layer.rank_load[fullest] - moved, layer.rank_load[rank] + moved);
          if (fuller < best) best = fuller, best_a = a, best_b = b;
        }
      }
      if (best_a < 0) return;
      const auto moved =
          static_cast<double>(load_[layer.plan.expert[best_a]] - load_[layer.plan.expert[best_b]]);
      layer.rank_load[fullest] -= moved;
      layer.rank_load[grid_.rank_of(best_b)] += moved;
      std::swap(layer.plan.expert[best_a], layer.plan.expert[best_b]);
      improved = true;
    }
  }

  std::vector<int> slots_of_singles(const LayerPlan& plan) const {
    const CopyTable copies(plan.expert, static_cast<int>(load_.size()));
    std::vector<int> singles;
    for (int e = 0; e < std::ssize(load_); ++e) {
      if (copies.of(e).size() == 1) singles.push_back(copies.of(e).front());
    }
    return singles;
  }

  const std::span<const int64_t> load_;
  const RankGrid grid_;
  const StaticDraws& before_;
};

class DrawnPlans {
 public:
  DrawnPlans(std::span<const int64_t> load, const Placement& sizes, int num_nodes)
      : load_(load),
        num_experts_(sizes.num_logical_experts),
        grid_{sizes.num_ranks, num_nodes, sizes.slots_per_rank()} {}

  // max/mean, summed over the layers.
  double score(const Placement& placement) const {
    StaticDraws draws(grid_);
    double sum = 0;
    for (int l = 0; l < placement.num_layers; ++l) {
      const std::vector<double> share =
          drawn_shares(CopyTable(placement.layer(l), num_experts_), grid_, draws);
      sum += over_mean(rank_loads(placement.layer(l), share, of(l), grid_), l);
    }
    return sum;
  }

  // Improves the placement, and says its score.
  double improve(Placement& placement) const {
    StaticDraws draws(grid_);
    double sum = 0;
    for (int l = 0; l < placement.num_layers; ++l) {
      const auto experts = placement.layer(l);
      DrawnLayer layer =
          LayerSearch(of(l), grid_, draws)
              .run({grid_.num_ranks, grid_.slots_per_rank, {experts.begin(), experts.end()}});
      sum += over_mean(layer.rank_load, l);
      std::ranges::copy(layer.plan.expert, placement.physical_to_logical.begin() +
                                               ptrdiff_t{l} * placement.num_physical_experts);
      draws = std::move(layer.after);
    }
    return sum;
  }

 private:
  std::span<const int64_t> of(int layer) const {
    return load_.subspan(static_cast<size_t>(layer) * num_experts_, num_experts_);
  }
  double over_mean(std::span<const double> rank_load, int layer) const {
    const double total = std::accumulate(of(layer).begin(), of(layer).end(), 0.0);
    if (total == 0) return 1;
    return *std::max_element(rank_load.begin(), rank_load.end()) * grid_.num_ranks / total;
  }

  const std::span<const int64_t> load_;
  const int num_experts_;
  const RankGrid grid_;
};

}  // namespace

void plan_for_draws(std::span<const int64_t> load,
                    const PlanOptions& options,
                    std::span<const Placement> others,
                    Placement& placement) {
  const DrawnPlans plans(load, placement, options.num_nodes);
  double best = plans.improve(placement);
  for (const Placement& other : others) {
    const double score = plans.score(other);
    if (score >= best) continue;
    best = score;
    placement = other;
    Placement improved = other;
    const double improved_score = plans.improve(improved);
    if (improved_score >= best) continue;
    best = improved_score;
    placement = std::move(improved);
  }
}

}  // namespace plimsoll
