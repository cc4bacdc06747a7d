#include <algorithm>
#include <numeric>
#include <set>

#include "plimsoll/just_in_time_rules.h"

namespace plimsoll {
namespace {

struct Loads {
  std::vector<int64_t> rank;    // [num_ranks]
  std::vector<int64_t> expert;  // [num_experts], what is left at home
};

Loads loads_of(std::span<const int32_t> expert_load, std::span<const int32_t> home, int num_ranks) {
  Loads loads{std::vector<int64_t>(num_ranks), {expert_load.begin(), expert_load.end()}};
  for (size_t e = 0; e < home.size(); ++e) loads.rank[home[e]] += expert_load[e];
  return loads;
}

// The hottest expert that still lies at home on the rank; -1: none.
int32_t hottest(const Loads& loads, std::span<const int32_t> home, int32_t rank) {
  int32_t best = -1;
  for (int32_t e = 0; e < static_cast<int32_t>(home.size()); ++e) {
    if (home[e] != rank || loads.expert[e] == 0) continue;
    if (best < 0 || loads.expert[e] > loads.expert[best]) best = e;
  }
  return best;
}

// UltraEP's steps under one threshold. False where it cannot be met.
bool copy_under(int64_t threshold,
                std::span<const int32_t> home,
                int slots_per_rank,
                int32_t min_tokens,
                Loads& loads,
                int32_t& num_copies) {
  const auto num_ranks = static_cast<int32_t>(loads.rank.size());
  std::vector<std::set<int32_t>> copies(loads.rank.size());
  num_copies = 0;
  for (;;) {
    const auto fullest =
        static_cast<int32_t>(std::ranges::max_element(loads.rank) - loads.rank.begin());
    if (loads.rank[fullest] <= threshold) return true;
    const int32_t expert = hottest(loads, home, fullest);
    int32_t emptiest = -1;
    for (int32_t r = 0; r < num_ranks; ++r) {
      const bool has_slot =
          copies[r].contains(expert) || static_cast<int>(copies[r].size()) < slots_per_rank;
      if (r == fullest || !has_slot) continue;
      if (emptiest < 0 || loads.rank[r] < loads.rank[emptiest]) emptiest = r;
    }
    if (expert < 0 || emptiest < 0) return false;
    const int64_t moved = std::min(
        {loads.rank[fullest] - threshold, threshold - loads.rank[emptiest], loads.expert[expert]});
    if (moved < min_tokens) return false;
    num_copies += copies[emptiest].insert(expert).second;
    loads.rank[fullest] -= moved;
    loads.rank[emptiest] += moved;
    loads.expert[expert] -= moved;
  }
}

JitRuleResult ultra_ep(const Loads& start,
                       std::span<const int32_t> home,
                       int slots_per_rank,
                       int32_t min_tokens) {
  const int64_t total = std::accumulate(start.rank.begin(), start.rank.end(), int64_t{0});
  const auto num_ranks = static_cast<int64_t>(start.rank.size());
  JitRuleResult best{start.rank, 0};
  int64_t low = (total * 101 + num_ranks * 100 - 1) / (num_ranks * 100);
  int64_t high = best.max_load();
  while (low <= high) {
    const int64_t threshold = low + (high - low) / 2;
    Loads loads = start;
    int32_t num_copies = 0;
    if (copy_under(threshold, home, slots_per_rank, min_tokens, loads, num_copies)) {
      best = {std::move(loads.rank), num_copies};
      high = threshold - 1;
    } else {
      low = threshold + 1;
    }
  }
  return best;
}

JitRuleResult moon_ep(Loads loads, std::span<const int32_t> home, int slots_per_rank) {
  const int64_t total = std::accumulate(loads.rank.begin(), loads.rank.end(), int64_t{0});
  const auto num_ranks = static_cast<int32_t>(loads.rank.size());
  const int64_t mean = (total + num_ranks - 1) / num_ranks;
  JitRuleResult result;
  int32_t to = 0;
  int used = 0;  // slots of `to`
  for (int32_t from = 0; from < num_ranks; ++from) {
    for (int32_t e = hottest(loads, home, from); e >= 0 && loads.rank[from] > mean;
         e = hottest(loads, home, from)) {
      while (to < num_ranks && (loads.rank[to] >= mean || used == slots_per_rank)) ++to, used = 0;
      if (to == num_ranks) break;
      const int64_t moved =
          std::min({loads.rank[from] - mean, mean - loads.rank[to], loads.expert[e]});
      loads.rank[from] -= moved;
      loads.rank[to] += moved;
      loads.expert[e] -= moved;
      ++result.num_copies;
      ++used;
    }
  }
  result.rank_load = std::move(loads.rank);
  return result;
}

}  // namespace

int64_t JitRuleResult::max_load() const {
  return *std::ranges::max_element(rank_load);
}

JitRuleResult apply_rule(JitRule rule,
                         std::span<const int32_t> expert_load,
                         std::span<const int32_t> home,
                         int num_ranks,
                         int slots_per_rank,
                         int32_t min_tokens) {
  const Loads start = loads_of(expert_load, home, num_ranks);
  return rule == JitRule::kUltraEp ? ultra_ep(start, home, slots_per_rank, min_tokens)
                                   : moon_ep(start, home, slots_per_rank);
}

}  // namespace plimsoll
