// One layer's placement while it is being made.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace plimsoll {

struct LayerPlan {
  int num_ranks = 0;
  int slots_per_rank = 0;
  std::vector<int32_t> expert;  // [num_ranks * slots_per_rank], of every slot; -1: still free

  int num_slots() const { return num_ranks * slots_per_rank; }
  int rank_of(int slot) const { return slot / slots_per_rank; }
  bool holds(int rank, int32_t e) const {
    const int begin = rank * slots_per_rank;
    for (int i = begin; i < begin + slots_per_rank; ++i) {
      if (expert[i] == e) return true;
    }
    return false;
  }
};

// A start that is level for a known load. With at least ranks - 1 redundant slots every rank holds
// exactly its share: whole experts are packed heaviest first, then the ranks form a chain along
// which each passes its surplus on through a copy of one of its experts. With fewer, copies go to
// the experts with the largest load per copy, and all are packed heaviest first.
LayerPlan start_plan(std::span<const int64_t> load, int num_ranks, int slots_per_rank);

}  // namespace plimsoll
