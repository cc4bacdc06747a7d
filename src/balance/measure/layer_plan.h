// One layer's placement while it is being made.
#pragma once

#include <cstdint>
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

}  // namespace plimsoll
