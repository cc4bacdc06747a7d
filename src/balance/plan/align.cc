#include "balance/plan/align.h"

#include <algorithm>

namespace plimsoll {
namespace {

struct Overlap {
  int common;
  int new_rank;
  int old_rank;
};

// The new rank that takes the name of each old one: the pairs with most experts in common first.
std::vector<int> match_ranks(const LayerPlan& plan, std::span<const int32_t> in_force) {
  const int num_experts = *std::max_element(in_force.begin(), in_force.end()) + 1;
  std::vector<std::vector<int>> old_ranks(num_experts);
  for (int slot = 0; slot < plan.num_slots(); ++slot) {
    old_ranks[in_force[slot]].push_back(plan.rank_of(slot));
  }
  std::vector<Overlap> overlaps;
  std::vector<int> common(plan.num_ranks);
  for (int r = 0; r < plan.num_ranks; ++r) {
    std::fill(common.begin(), common.end(), 0);
    for (int i = 0; i < plan.slots_per_rank; ++i) {
      const int32_t e = plan.expert[r * plan.slots_per_rank + i];
      if (e >= num_experts) continue;
      for (const int old_rank : old_ranks[e]) ++common[old_rank];
    }
    for (int old_rank = 0; old_rank < plan.num_ranks; ++old_rank) {
      if (common[old_rank] > 0) overlaps.push_back({common[old_rank], r, old_rank});
    }
  }
  std::sort(overlaps.begin(), overlaps.end(), [](const Overlap& a, const Overlap& b) {
    if (a.common != b.common) return a.common > b.common;
    return a.new_rank != b.new_rank ? a.new_rank < b.new_rank : a.old_rank < b.old_rank;
  });
  std::vector<int> new_rank_of(plan.num_ranks, -1);
  std::vector<uint8_t> is_named(plan.num_ranks, 0);
  for (const Overlap& o : overlaps) {
    if (new_rank_of[o.old_rank] >= 0 || is_named[o.new_rank]) continue;
    new_rank_of[o.old_rank] = o.new_rank;
    is_named[o.new_rank] = 1;
  }
  int unnamed = 0;
  for (int& new_rank : new_rank_of) {
    if (new_rank >= 0) continue;
    while (is_named[unnamed]) ++unnamed;
    new_rank = unnamed++;
  }
  return new_rank_of;
}

// Orders the experts of a rank so that those already there keep their slots.
void keep_slots(std::span<int32_t> experts, std::span<const int32_t> in_force) {
  for (size_t i = 0; i < experts.size(); ++i) {
    const auto here = std::find(experts.begin(), experts.end(), in_force[i]);
    // Not one that already has its slot: in_force may hold an expert twice.
    if (here == experts.end() || *here == in_force[here - experts.begin()]) continue;
    std::swap(*here, experts[i]);
  }
}

}  // namespace

void align(LayerPlan& plan, std::span<const int32_t> in_force) {
  const std::vector<int> new_rank_of = match_ranks(plan, in_force);
  const std::vector<int32_t> expert = plan.expert;
  for (int r = 0; r < plan.num_ranks; ++r) {
    const int to = r * plan.slots_per_rank;
    std::copy_n(expert.begin() + new_rank_of[r] * plan.slots_per_rank, plan.slots_per_rank,
                plan.expert.begin() + to);
    keep_slots(std::span(plan.expert).subspan(to, plan.slots_per_rank),
               in_force.subspan(to, plan.slots_per_rank));
  }
}

int count_moved(const LayerPlan& plan, std::span<const int32_t> in_force) {
  int moved = 0;
  for (int slot = 0; slot < plan.num_slots(); ++slot) {
    const auto begin = in_force.begin() + plan.rank_of(slot) * plan.slots_per_rank;
    const auto end = begin + plan.slots_per_rank;
    moved += std::find(begin, end, plan.expert[slot]) == end;
  }
  return moved;
}

}  // namespace plimsoll
