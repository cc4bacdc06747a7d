#include "balance/plan/exchange.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "balance/random.h"

namespace plimsoll {
namespace {

// With G[e, f] = sum over steps of load(e) * load(f), the squares of a rank's loads add up to the
// sum of G over its pairs of experts, and a swap is judged in constant time whatever the number of
// steps.
class SwapDescent {
 public:
  SwapDescent(LayerPlan& plan, std::span<const int64_t> steps, std::span<const int64_t> load)
      : plan_(plan),
        num_experts_(load.size()),
        gram_(num_experts_ * num_experts_, 0),
        with_rank_(num_experts_ * plan.num_ranks, 0) {
    for (size_t t = 0; t < steps.size() / num_experts_; ++t) {
      add_step(steps.subspan(t * num_experts_, num_experts_), 1);
    }
    // The load of all steps counts for ten: it is the best guess of the next step's.
    add_step(load, 10 * static_cast<int64_t>(steps.size() / num_experts_));
    for (int slot = 0; slot < plan.num_slots(); ++slot) {
      add_to_rank(plan.rank_of(slot), plan.expert[slot], 1);
    }
  }

  // Takes every swap that lowers the spread until none does; then, num_kicks times, makes a few
  // swaps at random, descends again, and goes back if that was no better.
  void run(int num_kicks) {
    descend();
    SplitMix64 random{1};
    std::vector<std::pair<int, int>> undo;
    for (int kick = 0; kick < num_kicks; ++kick) {
      swaps_.clear();
      int64_t change = 0;
      for (int i = 0; i < 4; ++i) {
        const int a = static_cast<int>(random.below(plan_.num_slots()));
        const int b = static_cast<int>(random.below(plan_.num_slots()));
        if (plan_.rank_of(a) == plan_.rank_of(b)) continue;
        change += gain(a, b);
        swap(a, b);
      }
      change += descend();
      if (change <= 0) continue;
      undo = swaps_;
      for (auto swap_made = undo.rbegin(); swap_made != undo.rend(); ++swap_made) {
        swap(swap_made->first, swap_made->second);
      }
    }
  }

 private:
  void add_step(std::span<const int64_t> load, int64_t weight) {
    // Steps count alike: each is scaled to 2^20 tokens. Weights are at most 2^12, so sums fit.
    const int64_t total = std::accumulate(load.begin(), load.end(), int64_t{0});
    if (total == 0) return;
    std::vector<int64_t> share(num_experts_);
    for (size_t e = 0; e < num_experts_; ++e) {
      share[e] =
          static_cast<int64_t>(static_cast<double>(load[e]) * 0x1p20 / static_cast<double>(total));
    }
    for (size_t e = 0; e < num_experts_; ++e) {
      for (size_t f = 0; f < num_experts_; ++f) {
        gram_[e * num_experts_ + f] += weight * share[e] * share[f];
      }
    }
  }

  void add_to_rank(int rank, int32_t e, int64_t sign) {
    const int64_t* row = &gram_[e * num_experts_];
    int64_t* sums = &with_rank_[rank * num_experts_];
    for (size_t f = 0; f < num_experts_; ++f) sums[f] += sign * row[f];
  }

  // By how much swapping the experts of two slots changes the spread (halved).
  int64_t gain(int slot_a, int slot_b) const {
    const int32_t a = plan_.expert[slot_a];
    const int32_t b = plan_.expert[slot_b];
    const int64_t* with_a = &with_rank_[plan_.rank_of(slot_a) * num_experts_];
    const int64_t* with_b = &with_rank_[plan_.rank_of(slot_b) * num_experts_];
    const int64_t* gram_a = &gram_[a * num_experts_];
    return with_a[b] - with_a[a] + with_b[a] - with_b[b] + gram_a[a] + gram_[b * num_experts_ + b] -
           2 * gram_a[b];
  }

  void swap(int slot_a, int slot_b) {
    const int rank_a = plan_.rank_of(slot_a);
    const int rank_b = plan_.rank_of(slot_b);
    add_to_rank(rank_a, plan_.expert[slot_a], -1);
    add_to_rank(rank_b, plan_.expert[slot_a], 1);
    add_to_rank(rank_b, plan_.expert[slot_b], -1);
    add_to_rank(rank_a, plan_.expert[slot_b], 1);
    std::swap(plan_.expert[slot_a], plan_.expert[slot_b]);
    swaps_.emplace_back(slot_a, slot_b);
  }

  int64_t descend() {
    int64_t change = 0;
    for (bool improved = true; improved;) {
      improved = false;
      for (int a = 0; a < plan_.num_slots(); ++a) {
        const int next_rank = (plan_.rank_of(a) + 1) * plan_.slots_per_rank;
        for (int b = next_rank; b < plan_.num_slots(); ++b) {
          const int64_t by = gain(a, b);
          if (by >= 0) continue;
          change += by;
          swap(a, b);
          improved = true;
        }
      }
    }
    return change;
  }

  LayerPlan& plan_;
  const size_t num_experts_;
  std::vector<int64_t> gram_;       // [expert, expert]
  std::vector<int64_t> with_rank_;  // [rank, expert], sum of gram_ over the rank's experts
  std::vector<std::pair<int, int>> swaps_;
};

// One or two slots of a rank, and the tokens they serve; b is -1 for one.
struct Bundle {
  int64_t tokens;
  int a;
  int b;
};

void list_bundles(const LayerPlan& plan,
                  std::span<const int64_t> load,
                  int rank,
                  bool pairs,
                  std::vector<Bundle>& bundles) {
  bundles.clear();
  const int begin = rank * plan.slots_per_rank;
  for (int a = begin; a < begin + plan.slots_per_rank; ++a) {
    const int64_t tokens = load[plan.expert[a]];
    if (!pairs) bundles.push_back({tokens, a, -1});
    for (int b = a + 1; pairs && b < begin + plan.slots_per_rank; ++b) {
      bundles.push_back({tokens + load[plan.expert[b]], a, b});
    }
  }
  std::sort(bundles.begin(), bundles.end(), [](const Bundle& x, const Bundle& y) {
    return x.tokens != y.tokens ? x.tokens < y.tokens : x.a != y.a ? x.a < y.a : x.b < y.b;
  });
}

// Exchanges one expert, or two, of the fullest rank for as many of another, always the exchange
// that brings the two closest, as long as the fullest rank of all falls.
class MaximumDescent {
 public:
  MaximumDescent(LayerPlan& plan, std::span<const int64_t> load)
      : plan_(plan), load_(load), rank_load_(plan.num_ranks, 0) {
    for (int slot = 0; slot < plan.num_slots(); ++slot) {
      rank_load_[plan.rank_of(slot)] += load[plan.expert[slot]];
    }
    const int64_t total = std::accumulate(load.begin(), load.end(), int64_t{0});
    mean_ = (total + plan.num_ranks - 1) / plan.num_ranks;
  }

  void run() {
    for (;;) {
      const int fullest = static_cast<int>(std::max_element(rank_load_.begin(), rank_load_.end()) -
                                           rank_load_.begin());
      if (rank_load_[fullest] <= mean_) return;
      if (!relieve(fullest, false) && !relieve(fullest, true)) return;
    }
  }

 private:
  bool relieve(int fullest, bool pairs) {
    list_bundles(plan_, load_, fullest, pairs, from_);
    int64_t best_excess = rank_load_[fullest] - mean_;  // of the fuller of the two ranks
    Bundle give{};
    Bundle take{};
    for (int rank = 0; rank < plan_.num_ranks; ++rank) {
      if (rank == fullest) continue;
      list_bundles(plan_, load_, rank, pairs, to_);
      const int64_t half = (rank_load_[fullest] - rank_load_[rank]) / 2;
      for (const Bundle& bundle : from_) {
        auto near = std::partition_point(to_.begin(), to_.end(), [&](const Bundle& other) {
          return bundle.tokens - other.tokens > half;
        });
        for (int i = 0; i < 2; ++i) {  // the nearest on either side of half the difference
          if (near != to_.end()) {
            const int64_t moved = bundle.tokens - near->tokens;
            const int64_t excess =
                std::max(rank_load_[fullest] - moved, rank_load_[rank] + moved) - mean_;
            if (excess < best_excess) best_excess = excess, give = bundle, take = *near;
          }
          if (near == to_.begin()) break;
          --near;
        }
      }
    }
    if (best_excess >= rank_load_[fullest] - mean_) return false;
    exchange(give.a, take.a);
    if (pairs) exchange(give.b, take.b);
    return true;
  }

  void exchange(int slot_a, int slot_b) {
    const int64_t moved = load_[plan_.expert[slot_a]] - load_[plan_.expert[slot_b]];
    rank_load_[plan_.rank_of(slot_a)] -= moved;
    rank_load_[plan_.rank_of(slot_b)] += moved;
    std::swap(plan_.expert[slot_a], plan_.expert[slot_b]);
  }

  LayerPlan& plan_;
  std::span<const int64_t> load_;
  std::vector<int64_t> rank_load_;
  int64_t mean_ = 0;
  std::vector<Bundle> from_;
  std::vector<Bundle> to_;
};

}  // namespace

void exchange_experts(LayerPlan& plan,
                      std::span<const int64_t> steps,
                      std::span<const int64_t> load) {
  constexpr int kNumKicks = 50;
  if (steps.size() > load.size()) {
    SwapDescent(plan, steps, load).run(kNumKicks);
  } else {
    MaximumDescent(plan, load).run();
  }
}

}  // namespace plimsoll
