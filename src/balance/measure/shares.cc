#include "balance/measure/shares.h"

#include <algorithm>

namespace plimsoll {

CopyTable::CopyTable(std::span<const int32_t> expert_of_slot, int num_experts)
    : begin(num_experts + 1, 0), slot(expert_of_slot.size()) {
  for (const int32_t e : expert_of_slot) ++begin[e + 1];
  for (int e = 0; e < num_experts; ++e) begin[e + 1] += begin[e];
  std::vector<int32_t> next(begin.begin(), begin.end() - 1);
  for (size_t s = 0; s < expert_of_slot.size(); ++s) {
    slot[next[expert_of_slot[s]]++] = static_cast<int32_t>(s);
  }
}

int nearest_slot(std::span<const int32_t> slots, int source, const RankGrid& grid) {
  if (slots.size() == 1) return slots.front();
  const auto first_from = [&](int slot) {
    return std::lower_bound(slots.begin(), slots.end(), slot);
  };
  const auto own = first_from(source * grid.slots_per_rank);
  if (own != slots.end() && grid.rank_of(*own) == source) return *own;
  const int node_slots = grid.ranks_per_node() * grid.slots_per_rank;
  const int node_begin = grid.node_of(source) * node_slots;
  const auto on_node = first_from(node_begin);
  const auto behind = first_from(node_begin + node_slots);
  const auto count = behind - on_node;
  return count > 0 && count < std::ssize(slots) ? *on_node : -1;
}

std::vector<double> expected_shares(const CopyTable& copies,
                                    Dispatch dispatch,
                                    const RankGrid& grid) {
  std::vector<double> share(copies.slot.size(), 1);
  for (int e = 0; e + 1 < std::ssize(copies.begin); ++e) {
    const auto slots = copies.of(e);
    const double part = 1.0 / static_cast<double>(slots.size());
    if (slots.size() == 1) continue;
    if (dispatch == Dispatch::kEven) {
      for (const int32_t slot : slots) share[slot] = part;
      continue;
    }
    for (const int32_t slot : slots) share[slot] = 0;
    int num_drawing = 0;
    for (int source = 0; source < grid.num_ranks; ++source) {
      const int slot = nearest_slot(slots, source, grid);
      if (slot < 0) {
        ++num_drawing;
      } else {
        share[slot] += 1.0 / grid.num_ranks;
      }
    }
    for (const int32_t slot : slots) share[slot] += part * num_drawing / grid.num_ranks;
  }
  return share;
}

std::vector<double> drawn_shares(const CopyTable& copies,
                                 const RankGrid& grid,
                                 StaticDraws& draws) {
  std::vector<int32_t> sources(copies.slot.size(), 0);
  draws.next_layer(copies, [&](int, int, int slot) { ++sources[slot]; });
  std::vector<double> share(copies.slot.size());
  for (size_t slot = 0; slot < share.size(); ++slot) {
    share[slot] = static_cast<double>(sources[slot]) / grid.num_ranks;
  }
  return share;
}

std::vector<double> rank_loads(std::span<const int32_t> expert_of_slot,
                               std::span<const double> share,
                               std::span<const int64_t> load,
                               const RankGrid& grid) {
  std::vector<double> loads(grid.num_ranks, 0);
  for (size_t slot = 0; slot < expert_of_slot.size(); ++slot) {
    loads[grid.rank_of(static_cast<int>(slot))] +=
        share[slot] * static_cast<double>(load[expert_of_slot[slot]]);
  }
  return loads;
}

}  // namespace plimsoll
