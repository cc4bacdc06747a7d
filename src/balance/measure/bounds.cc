#include "balance/measure/bounds.h"

#include <algorithm>
#include <numeric>

namespace plimsoll {
namespace {

int64_t divide_up(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

// The least T for which enough slots exist to keep every copy at T or below.
int64_t replica_budget_bound(std::span<const int64_t> load, int64_t num_slots, int64_t at_least) {
  const auto fits = [&](int64_t t) {
    int64_t slots = 0;
    for (const int64_t w : load) slots += std::max<int64_t>(divide_up(w, t), 1);
    return slots <= num_slots;
  };
  int64_t low = std::max<int64_t>(at_least, 1);
  if (fits(low)) return at_least;
  int64_t high = std::max(low + 1, *std::max_element(load.begin(), load.end()));
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    (fits(middle) ? high : low) = middle;
  }
  return high;
}

// Without redundancy every rank holds slots_per_rank experts, whole. Of the j * ranks + 1 heaviest,
// some rank holds j + 1, and fills up with others.
int64_t cardinality_bound(std::vector<int64_t> load, int num_ranks, int slots_per_rank) {
  std::sort(load.begin(), load.end(), std::greater<>());
  std::vector<int64_t> prefix(load.size() + 1, 0);
  std::partial_sum(load.begin(), load.end(), prefix.begin() + 1);
  int64_t bound = 0;
  for (int j = 0; j < slots_per_rank; ++j) {
    const size_t last = static_cast<size_t>(j) * num_ranks;
    const int64_t heavy = prefix[last + 1] - prefix[last - j];
    const int64_t light = prefix.back() - prefix[load.size() - (slots_per_rank - 1 - j)];
    bound = std::max(bound, heavy + light);
  }
  return bound;
}

// What lies above a level theta. Summed over all slots, the tokens above theta are at least
//
//   A(k) = sum over experts of max(load - (1 + its extra copies) * theta, 0)
//
// with the k extra copies that cut hot experts spent as well as can be. They lie on some j ranks,
// at most M - theta on each where M is the fullest rank's load, less what else is on these ranks:
// of their j * (slots - 1) other slots all but the K - k copies that are left hold an expert that
// works nowhere else, or a piece of theta: together at least C, the coldest of them. So
//
//   A(k) + C(j * (slots - 1) - (K - k)) <= j * (M - theta)
//
// for some k and j, and the least M that allows it for any is a bound. With theta near 0 it is the
// mean, with theta just below M the replica budget. docs/balancing.md has it drawn, and worked by
// hand.
class AboveLevel {
 public:
  AboveLevel(std::vector<int64_t> load, int num_ranks, int slots_per_rank)
      : load_(std::move(load)),
        num_ranks_(num_ranks),
        slots_beside_(slots_per_rank - 1),
        num_copies_(int64_t{num_ranks} * slots_per_rank - std::ssize(load_)),
        coldest_(load_.size() + 1, 0) {
    std::sort(load_.begin(), load_.end(), std::greater<>());
  }

  int64_t bound(int64_t theta) {
    for (size_t i = 0; i < load_.size(); ++i) {
      coldest_[i + 1] = coldest_[i] + std::min(load_[load_.size() - 1 - i], theta);
    }
    int64_t above = 0;
    int64_t num_whole = 0;  // copies that take theta off an expert
    rest_.clear();          // what one more copy takes off each
    for (const int64_t load : load_) {
      if (load <= theta) break;
      above += load - theta;
      num_whole += (load - theta) / theta;
      if ((load - theta) % theta > 0) rest_.push_back((load - theta) % theta);
    }
    std::sort(rest_.begin(), rest_.end(), std::greater<>());
    int64_t spent = std::min(num_whole, num_copies_);
    above -= spent * theta;
    int64_t best = least_max(above, num_copies_ - spent, theta);
    for (size_t i = 0; i < rest_.size() && spent < num_copies_ && best > theta; ++i) {
      above -= rest_[i];
      best = std::min(best, least_max(above, num_copies_ - ++spent, theta));
    }
    return best;
  }

 private:
  // The least M for so many tokens above theta and so many copies left, over all numbers of ranks.
  int64_t least_max(int64_t above, int64_t num_left, int64_t theta) const {
    if (above == 0) return 0;
    const auto needed = [&](int64_t ranks) {
      const int64_t beside =
          std::clamp<int64_t>(ranks * slots_beside_ - num_left, 0, std::ssize(load_));
      return std::pair{above + coldest_[beside], ranks};
    };
    const auto falls_after = [&](int64_t ranks) {  // the quotient falls, then rises
      const auto [now, n] = needed(ranks);
      const auto [next, n_next] = needed(ranks + 1);
      return next * n < now * n_next;
    };
    int64_t low = 1;
    int64_t high = num_ranks_;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (falls_after(middle)) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return theta + divide_up(needed(low).first, low);
  }

  std::vector<int64_t> load_;  // falling
  const int64_t num_ranks_;
  const int64_t slots_beside_;
  const int64_t num_copies_;
  std::vector<int64_t> coldest_;  // [experts + 1], of so many of the coldest, each cut to theta
  std::vector<int64_t> rest_;
};

}  // namespace

LowerBound lower_bound(std::span<const int64_t> load, int num_ranks, int slots_per_rank) {
  const int64_t total = std::accumulate(load.begin(), load.end(), int64_t{0});
  const int64_t num_slots = int64_t{num_ranks} * slots_per_rank;
  LowerBound best{divide_up(total, num_ranks), Bound::kMean};
  const int64_t budget = replica_budget_bound(load, num_slots, best.value);
  if (budget > best.value) best = {budget, Bound::kReplicaBudget};
  if (num_slots == std::ssize(load)) {
    const int64_t cardinality =
        cardinality_bound({load.begin(), load.end()}, num_ranks, slots_per_rank);
    if (cardinality > best.value) best = {cardinality, Bound::kSlotCardinality};
  }
  return best;
}

LowerBound tight_lower_bound(std::span<const int64_t> load,
                             int num_ranks,
                             int slots_per_rank,
                             int64_t reached) {
  LowerBound best = lower_bound(load, num_ranks, slots_per_rank);
  if (best.value >= reached) return best;
  AboveLevel above({load.begin(), load.end()}, num_ranks, slots_per_rank);
  constexpr int kSteps = 64;  // levels from half the bound up to what was reached
  for (int i = 0; i < kSteps && best.value < reached; ++i) {
    const int64_t theta = reached - (reached - best.value / 2) * i / kSteps;
    if (theta < 1) break;
    const int64_t bound = above.bound(theta);
    if (bound > best.value) best = {bound, Bound::kSlotBudget};
  }
  return best;
}

}  // namespace plimsoll
