// What `plimsoll` promises for every dispatch: never above another algorithm, never below its
// bound.
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "balance/random.h"
#include "plimsoll/plan.h"

namespace plimsoll {
namespace {

constexpr Dispatch kDispatches[] = {Dispatch::kExact, Dispatch::kEven, Dispatch::kDynamic,
                                    Dispatch::kStatic};

// From no skew to all tokens on one expert; some layers of some steps recorded nothing.
LoadHistory skewed_load(SplitMix64& random, int num_steps, int num_layers, int num_experts) {
  LoadHistory load{num_steps, num_layers, num_experts, {}};
  const double alpha = 0.5 * static_cast<double>(random.below(6));
  for (int row = 0; row < num_steps * num_layers; ++row) {
    const bool is_zero = random.below(8) == 0;
    const bool is_one = random.below(12) == 0;
    const auto shift = random.below(static_cast<uint32_t>(num_experts));
    for (int e = 0; e < num_experts; ++e) {
      const int place = (e + shift) % num_experts;
      const double share = is_one ? (place == 0 ? 1 : 0) : std::pow(place + 1, -alpha);
      load.counts.push_back(
          is_zero ? 0 : static_cast<int64_t>(share * 10000) + (is_one ? 0 : random.below(30)));
    }
  }
  load.counts[0] += 1;
  return load;
}

PlanOptions some_sizes(SplitMix64& random, int num_experts, int max_ranks) {
  PlanOptions options;
  options.num_ranks = 2 + static_cast<int>(random.below(max_ranks - 1));
  options.num_nodes = options.num_ranks % 2 == 0 && random.below(2) == 0 ? 2 : 1;
  if (options.num_ranks % 4 == 0 && random.below(3) == 0) options.num_nodes = 4;
  const int lacking = (options.num_ranks - num_experts % options.num_ranks) % options.num_ranks;
  options.num_redundant_experts = lacking + options.num_ranks * static_cast<int>(random.below(3));
  return options;
}

double sum_over_mean(const std::vector<Certificate>& certificates) {
  double sum = 0;
  for (const Certificate& c : certificates) {
    if (c.mean_load > 0) sum += static_cast<double>(c.max_load) / c.mean_load;
  }
  return sum;
}

void check_no_worse(SplitMix64& random, int max_experts, int max_ranks) {
  const int num_experts = 8 + static_cast<int>(random.below(max_experts - 7));
  const LoadHistory load = skewed_load(random, 1 + static_cast<int>(random.below(3)),
                                       1 + static_cast<int>(random.below(4)), num_experts);
  PlanOptions options = some_sizes(random, num_experts, max_ranks);
  for (const Dispatch dispatch : kDispatches) {
    options.dispatch = dispatch;
    options.algorithm = "plimsoll";
    const auto ours = make_plan(load, options);
    RC_ASSERT(ours.ok());
    RC_ASSERT(validate(ours->placement).ok());
    for (const Certificate& c : ours->certificates) RC_ASSERT(c.lower_bound <= c.max_load);
    for (const char* other : {"deepseek", "deepseek_vec"}) {
      options.algorithm = other;
      const auto theirs = make_plan(load, options);
      RC_ASSERT(theirs.ok());
      for (const Certificate& c : theirs->certificates) RC_ASSERT(c.lower_bound <= c.max_load);
      if (dispatch == Dispatch::kStatic) {  // what is drawn depends on the layers before
        RC_ASSERT(sum_over_mean(ours->certificates) <=
                  sum_over_mean(theirs->certificates) + 1e-3 * load.num_layers);
        continue;
      }
      for (int l = 0; l < load.num_layers; ++l) {
        RC_ASSERT(ours->certificates[l].max_load <= theirs->certificates[l].max_load);
      }
    }
  }
}

RC_GTEST_PROP(Outdo, NoOtherIsBetterOnFewRanks, (uint64_t seed)) {
  SplitMix64 random{seed};
  check_no_worse(random, 64, 16);
}

RC_GTEST_PROP(Outdo, NoOtherIsBetterOnManyRanks, (uint64_t seed)) {
  SplitMix64 random{seed};
  if (random.below(5) == 0) check_no_worse(random, 256, 96);
}

}  // namespace
}  // namespace plimsoll
