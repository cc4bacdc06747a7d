#include "balance/plan/bounds.h"

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
  int64_t high = std::max(low + 1, load.front());
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    (fits(middle) ? high : low) = middle;
  }
  return high;
}

// Without redundancy every rank holds slots_per_rank experts, whole. Of the j * ranks + 1 heaviest,
// some rank holds j + 1, and fills up with others.
int64_t cardinality_bound(std::span<const int64_t> load, int num_ranks, int slots_per_rank) {
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

}  // namespace

LowerBound lower_bound(std::span<const int64_t> sorted_load, int num_ranks, int slots_per_rank) {
  const int64_t total = std::accumulate(sorted_load.begin(), sorted_load.end(), int64_t{0});
  const int64_t num_slots = int64_t{num_ranks} * slots_per_rank;
  LowerBound best{divide_up(total, num_ranks), Bound::kMean};
  const int64_t budget = replica_budget_bound(sorted_load, num_slots, best.value);
  if (budget > best.value) best = {budget, Bound::kReplicaBudget};
  if (num_slots == std::ssize(sorted_load)) {
    const int64_t cardinality = cardinality_bound(sorted_load, num_ranks, slots_per_rank);
    if (cardinality > best.value) best = {cardinality, Bound::kSlotCardinality};
  }
  return best;
}

}  // namespace plimsoll
