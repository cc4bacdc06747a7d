#include "balance/plan/grouped_start.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "balance/plan/start_plan.h"
#include "balance/random.h"

namespace plimsoll {
namespace {

constexpr double kLevel = 5e-4;  // above the mean, that is level enough

struct Group {
  int num_ranks = 1;
  int64_t load = 0;
  std::vector<int32_t> experts;

  double fullness() const { return static_cast<double>(load) / num_ranks; }
};

class Grouping {
 public:
  Grouping(std::span<const int64_t> load, int num_ranks, int slots_per_rank)
      : load_(load),
        num_ranks_(num_ranks),
        slots_per_rank_(slots_per_rank),
        num_copies_(num_ranks * slots_per_rank - static_cast<int>(load.size())),
        mean_(std::accumulate(load.begin(), load.end(), 0.0) / num_ranks) {}

  // The best of several ways to deal ranks out to groups.
  std::vector<Group> run(double target) {
    std::vector<Group> best;
    double least = 0;
    constexpr int kMostWays = 6;
    for (int way = 1; way <= kMostWays; ++way) {
      groups_.assign(num_ranks_ - num_copies_, {});
      give_hottest(way / static_cast<double>(kMostWays));
      deal_the_rest();
      constexpr int kMostExchanges = 400;
      for (int i = 0; i < kMostExchanges && relieve_fullest(); ++i) {
      }
      const double fullest = fullest_group()->fullness();
      if (best.empty() || fullest < least) best = groups_, least = fullest;
      if (least < mean_ * (1 + kLevel)) return best;
    }
    if (least <= target * (1 + kLevel)) return best;
    groups_ = best;
    shake(target);
    while (relieve_fullest()) {
    }
    return fullest_group()->fullness() < least ? groups_ : best;
  }

  // n ranks hold n * slots_per_rank copies, n - 1 of them redundant.
  int num_experts(int num_ranks) const { return num_ranks * (slots_per_rank_ - 1) + 1; }

  void give(Group& group, int32_t e) {
    group.experts.push_back(e);
    group.load += load_[e];
  }

  std::vector<Group>::const_iterator fullest_group() const {
    return std::max_element(groups_.begin(), groups_.end(), [](const Group& a, const Group& b) {
      return a.fullness() < b.fullness();
    });
  }

  // One of the hottest experts to each group, and the ranks that it needs if `part` of the others,
  // the coldest, lie beside it.
  void give_hottest(double part) {
    const size_t num_groups = groups_.size();
    const auto num_cold = std::max<size_t>(
        1, static_cast<size_t>(part * static_cast<double>(load_.size() - num_groups)));
    const double beside =
        std::accumulate(load_.end() - static_cast<ptrdiff_t>(num_cold), load_.end(), 0.0) /
        static_cast<double>(num_cold) * (slots_per_rank_ - 1);
    int left = num_ranks_;
    for (size_t g = 0; g < num_groups; ++g) {
      give(groups_[g], static_cast<int32_t>(g));
      const double room = std::max(mean_ * (1 + kLevel) - beside, mean_ / 8);
      groups_[g].num_ranks =
          std::max(1, static_cast<int>(std::ceil(static_cast<double>(load_[g]) / room)));
      left -= groups_[g].num_ranks;
    }
    for (; left > 0; --left) ++change_ranks(1).num_ranks;
    for (; left < 0; ++left) --change_ranks(-1).num_ranks;
  }

  // The group that needs one more rank most, or one less least.
  Group& change_ranks(int by) {
    Group* best = nullptr;
    double best_fullness = 0;
    for (Group& group : groups_) {
      if (group.num_ranks + by == 0) continue;
      const double fullness = static_cast<double>(group.load) / (group.num_ranks + 0.5 * by);
      if (best != nullptr && (fullness - best_fullness) * by <= 0) continue;
      best = &group, best_fullness = fullness;
    }
    return *best;
  }

  // Each expert to the group that lacks most load for each expert that it still takes.
  void deal_the_rest() {
    for (auto e = static_cast<int32_t>(groups_.size()); e < std::ssize(load_); ++e) {
      Group* best = nullptr;
      double best_lack = 0;
      for (Group& group : groups_) {
        const int room = num_experts(group.num_ranks) - static_cast<int>(group.experts.size());
        if (room == 0) continue;
        const double lack = (group.num_ranks * mean_ - static_cast<double>(group.load)) / room;
        if (best == nullptr || lack > best_lack) best = &group, best_lack = lack;
      }
      give(*best, e);
    }
  }

  // What one of the fullest group's experts would better be exchanged for.
  struct Exchange {
    double fuller = 0;  // the fullness of the fuller of the two groups afterwards
    size_t from = 0;    // place in the fullest group
    size_t group = 0;
    size_t to = 0;
    bool with_rank = false;  // the other group gives a rank, and the experts at `to` and behind it
  };

  bool relieve_fullest() {
    const size_t fullest = fullest_group() - groups_.begin();
    if (groups_[fullest].fullness() <= mean_ * (1 + kLevel)) return false;
    Exchange best{.fuller = groups_[fullest].fullness()};
    const double before = best.fuller;
    for (size_t g = 0; g < groups_.size(); ++g) {
      if (g == fullest || groups_[g].fullness() >= best.fuller) continue;
      offer_exchange(fullest, g, best);
      offer_rank(fullest, g, best);
    }
    if (best.fuller >= before) return false;
    apply(fullest, best);
    return true;
  }

  void offer_exchange(size_t fullest, size_t g, Exchange& best) const {
    const Group& full = groups_[fullest];
    const Group& other = groups_[g];
    for (size_t a = 0; a < full.experts.size(); ++a) {
      for (size_t b = 0; b < other.experts.size(); ++b) {
        const int64_t moved = load_[full.experts[a]] - load_[other.experts[b]];
        if (moved <= 0) continue;
        const double fuller = std::max(static_cast<double>(full.load - moved) / full.num_ranks,
                                       static_cast<double>(other.load + moved) / other.num_ranks);
        if (fuller < best.fuller) best = {fuller, a, g, b, false};
      }
    }
  }

  // A rank comes with slots_per_rank - 1 experts.
  void offer_rank(size_t fullest, size_t g, Exchange& best) const {
    const Group& full = groups_[fullest];
    const Group& other = groups_[g];
    if (other.num_ranks == 1) return;
    const size_t count = slots_per_rank_ - 1;
    for (size_t to = 0; to + count <= other.experts.size(); ++to) {
      int64_t moved = 0;
      for (size_t i = to; i < to + count; ++i) moved += load_[other.experts[i]];
      const double fuller =
          std::max(static_cast<double>(full.load + moved) / (full.num_ranks + 1),
                   static_cast<double>(other.load - moved) / (other.num_ranks - 1));
      if (fuller < best.fuller) best = {fuller, 0, g, to, true};
    }
  }

  void apply(size_t fullest, const Exchange& exchange) {
    Group& full = groups_[fullest];
    Group& other = groups_[exchange.group];
    if (exchange.with_rank) {
      const auto first = other.experts.begin() + static_cast<ptrdiff_t>(exchange.to);
      for (auto e = first; e != first + (slots_per_rank_ - 1); ++e) {
        give(full, *e);
        other.load -= load_[*e];
      }
      other.experts.erase(first, first + (slots_per_rank_ - 1));
      ++full.num_ranks;
      --other.num_ranks;
      return;
    }
    int32_t& a = full.experts[exchange.from];
    int32_t& b = other.experts[exchange.to];
    full.load += load_[b] - load_[a];
    other.load += load_[a] - load_[b];
    std::swap(a, b);
  }

  double overflow(const Group& group, int64_t more_load, int more_ranks, double target) const {
    return std::max(
        0.0, static_cast<double>(group.load + more_load) - target * (group.num_ranks + more_ranks));
  }

  // Exchanges drawn at random, and ranks given with their experts, as long as what lies above the
  // target does not grow by more than a threshold that falls to nothing (threshold accepting:
  // Dueck and Scheuer, Journal of Computational Physics 90, 1990).
  void shake(double target) {
    SplitMix64 random{1};
    const int num_moves = 30000;
    for (int i = 0; i < num_moves; ++i) {
      const double left = 1 - static_cast<double>(i) / num_moves;
      const double threshold = mean_ * 0.05 * left * left;
      Group& a = groups_[random.below(static_cast<uint32_t>(groups_.size()))];
      Group& b = groups_[random.below(static_cast<uint32_t>(groups_.size()))];
      if (&a == &b) continue;
      const double before = overflow(a, 0, 0, target) + overflow(b, 0, 0, target);
      if (random.below(4) == 0) {
        if (a.num_ranks == 1) continue;
        const auto count = static_cast<uint32_t>(slots_per_rank_ - 1);
        for (uint32_t k = 0; k < count; ++k) {  // those drawn, to the end
          std::swap(a.experts[a.experts.size() - 1 - k],
                    a.experts[random.below(static_cast<uint32_t>(a.experts.size()) - k)]);
        }
        int64_t moved = 0;
        for (uint32_t k = 0; k < count; ++k) moved += load_[a.experts[a.experts.size() - 1 - k]];
        const double after = overflow(a, -moved, -1, target) + overflow(b, moved, 1, target);
        if (after - before > threshold) continue;
        b.experts.insert(b.experts.end(), a.experts.end() - count, a.experts.end());
        a.experts.resize(a.experts.size() - count);
        a.load -= moved, b.load += moved;
        --a.num_ranks, ++b.num_ranks;
      } else {
        int32_t& x = a.experts[random.below(static_cast<uint32_t>(a.experts.size()))];
        int32_t& y = b.experts[random.below(static_cast<uint32_t>(b.experts.size()))];
        const int64_t moved = load_[x] - load_[y];
        const double after = overflow(a, -moved, 0, target) + overflow(b, moved, 0, target);
        if (after - before > threshold) continue;
        a.load -= moved, b.load += moved;
        std::swap(x, y);
      }
    }
  }

  const std::span<const int64_t> load_;
  const int num_ranks_;
  const int slots_per_rank_;
  const int num_copies_;
  const double mean_;
  std::vector<Group> groups_;
};

}  // namespace

LayerPlan grouped_start(std::span<const int64_t> load,
                        int num_ranks,
                        int slots_per_rank,
                        double target) {
  LayerPlan plan{num_ranks, slots_per_rank, {}};
  for (Group& group : Grouping(load, num_ranks, slots_per_rank).run(target)) {
    std::sort(group.experts.begin(), group.experts.end());
    std::vector<int64_t> of_group;
    for (const int32_t e : group.experts) of_group.push_back(load[e]);
    for (const int32_t i : start_plan(of_group, group.num_ranks, slots_per_rank).expert) {
      plan.expert.push_back(group.experts[i]);
    }
  }
  return plan;
}

}  // namespace plimsoll
