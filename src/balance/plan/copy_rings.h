// Which slots hold an expert, while experts move.
#pragma once

#include <cstdint>
#include <vector>

#include "balance/measure/layer_plan.h"

namespace plimsoll {

// Where every expert's copies are: a ring of slots through all copies of an expert.
class CopyRings {
 public:
  CopyRings(const LayerPlan& plan, int num_experts)
      : next_(plan.num_slots()), some_slot_(num_experts, -1), count_(num_experts, 0) {
    for (int slot = 0; slot < plan.num_slots(); ++slot) insert(slot, plan.expert[slot]);
  }

  int next(int slot) const { return next_[slot]; }
  int count(int32_t e) const { return count_[e]; }
  int some_slot(int32_t e) const { return some_slot_[e]; }

  void insert(int slot, int32_t e) {
    const int other = some_slot_[e];
    next_[slot] = other < 0 ? slot : next_[other];
    if (other >= 0) next_[other] = slot;
    some_slot_[e] = slot;
    ++count_[e];
  }

  void remove(int slot, int32_t e) {
    int before = slot;
    while (next_[before] != slot) before = next_[before];
    next_[before] = next_[slot];
    some_slot_[e] = before == slot ? -1 : before;
    --count_[e];
  }

 private:
  std::vector<int32_t> next_;
  std::vector<int32_t> some_slot_;
  std::vector<int32_t> count_;
};

}  // namespace plimsoll
