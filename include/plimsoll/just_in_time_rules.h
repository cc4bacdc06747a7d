// The published rules for copies within a layer, to compare with: as their papers and descriptions
// have them, written anew. They know experts with one copy and no shared expert.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace plimsoll {

enum class JitRule {
  // UltraEP (arXiv 2606.04101): a binary search over the load threshold, to 1 % of the mean. For a
  // threshold the fullest rank gives load of its hottest expert to the emptiest rank with a spare
  // slot, as much as the one has too much and the other has room for, until no rank is above it; a
  // step that would move fewer than min_tokens ends it.
  kUltraEp,
  // MoonEP (Moonshot, 2026): every rank computes the mean exactly. What ranks have too much is
  // handed, owner by owner and expert by expert, to the ranks that lack load, in their order.
  kMoonEp,
};

struct JitRuleResult {
  std::vector<int64_t> rank_load;  // [num_ranks], tokens of routed experts
  int32_t num_copies = 0;

  int64_t max_load() const;
};

// expert_load: [num_experts], tokens of all ranks; home: [num_experts], the rank that has it.
JitRuleResult apply_rule(JitRule rule,
                         std::span<const int32_t> expert_load,
                         std::span<const int32_t> home,
                         int num_ranks,
                         int slots_per_rank,
                         int32_t min_tokens);

}  // namespace plimsoll
