#include "balance/plan/search.h"

#include <algorithm>
#include <bit>

#include "balance/measure/bounds.h"
#include "balance/plan/align.h"
#include "balance/plan/copy_rings.h"

namespace plimsoll {
namespace {

// One step's routing under the current placement.
struct StepFlow {
  std::vector<int64_t> amount;  // [num_slots], tokens served by a slot
  std::vector<int64_t> load;    // [num_ranks]
  int64_t capacity = 0;         // no placement of the step has a smaller maximum
  int64_t overflow = 0;
};

// Either the experts of two slots change places (b's expert is e), or slot b gives up its copy, one
// of several, for a copy of e.
struct Move {
  int slot_a = -1;  // -1: no swap
  int slot_b = 0;
  int32_t e = 0;
};

class Search {
 public:
  Search(const LayerPlan& start,
         std::span<const int64_t> steps,
         int num_experts,
         const SearchLimits& limits)
      : plan_(start),
        rings_(start, num_experts),
        limits_(limits),
        flows_(steps.size() / num_experts),
        saved_(flows_.size()),
        parent_(start.num_ranks),
        entered_by_(start.num_ranks),
        queue_(start.num_ranks),
        visited_(start.num_ranks, 0) {
    for (size_t t = 0; t < flows_.size(); ++t) {
      start_flow(flows_[t], steps.subspan(t * num_experts, num_experts));
    }
    saved_ = flows_;
    if (limits_.max_moved >= 0) num_moved_ = count_moved(plan_, limits_.home);
  }

  LayerPlan run() {
    SplitMix64 random{1};
    const int64_t first_total = total_;
    const int num_levels = std::bit_width(static_cast<uint64_t>(first_total));
    work_ = 0;
    for (int64_t i = 0; i < limits_.num_proposals && total_ > 0 && work_ < limits_.max_work; ++i) {
      Move move;
      // Where moves are few, those that gain most come first.
      if (limits_.max_moved >= 0)
        min_gain_ = first_total >> (1 + i * num_levels / limits_.num_proposals);
      if (propose(random, move)) try_move(move);
    }
    return plan_;
  }

 private:
  void start_flow(StepFlow& flow, std::span<const int64_t> load) {
    flow.amount.assign(plan_.num_slots(), 0);
    flow.load.assign(plan_.num_ranks, 0);
    flow.capacity = lower_bound(load, plan_.num_ranks, plan_.slots_per_rank).value;
    std::vector<int64_t> left(load.begin(), load.end());
    std::vector<int32_t> copies_left(load.size());
    for (size_t e = 0; e < load.size(); ++e) copies_left[e] = rings_.count(static_cast<int32_t>(e));
    for (int slot = 0; slot < plan_.num_slots(); ++slot) {
      const int32_t e = plan_.expert[slot];
      flow.amount[slot] = left[e] / copies_left[e];
      left[e] -= flow.amount[slot];
      --copies_left[e];
      flow.load[plan_.rank_of(slot)] += flow.amount[slot];
    }
    relevel(flow);
    total_ += flow.overflow;
  }

  // Augments along shortest paths from the ranks above capacity until none reaches a rank below.
  void relevel(StepFlow& flow) {
    for (int end = reach_room(flow); end >= 0; end = reach_room(flow)) augment(flow, end);
    flow.overflow = 0;
    for (const int64_t load : flow.load)
      flow.overflow += std::max<int64_t>(load - flow.capacity, 0);
  }

  // Breadth first from the overfull ranks; the first rank found that has room, or -1. Leaves the
  // ranks reached in queue_[0, num_reached_).
  int reach_room(const StepFlow& flow) {
    num_reached_ = 0;
    ++visit_;
    visited_.resize(plan_.num_ranks, 0);
    for (int r = 0; r < plan_.num_ranks; ++r) {
      if (flow.load[r] > flow.capacity) enter(r, -1, -1);
    }
    work_ += plan_.num_ranks;
    for (int head = 0; head < num_reached_; ++head) {
      const int rank = queue_[head];
      work_ += plan_.slots_per_rank;
      const int begin = rank * plan_.slots_per_rank;
      for (int slot = begin; slot < begin + plan_.slots_per_rank; ++slot) {
        if (flow.amount[slot] == 0) continue;
        for (int other = rings_.next(slot); other != slot; other = rings_.next(other)) {
          const int to = plan_.rank_of(other);
          if (visited_[to] == visit_) continue;
          enter(to, slot, other);
          if (flow.load[to] < flow.capacity) return to;
        }
      }
    }
    return -1;
  }

  void enter(int rank, int from_slot, int to_slot) {
    visited_[rank] = visit_;
    parent_[rank] = from_slot;
    entered_by_[rank] = to_slot;
    queue_[num_reached_++] = rank;
  }

  void augment(StepFlow& flow, int end) {
    int64_t tokens = flow.capacity - flow.load[end];
    int first = end;
    for (; parent_[first] >= 0; first = plan_.rank_of(parent_[first])) {
      tokens = std::min(tokens, flow.amount[parent_[first]]);
    }
    tokens = std::min(tokens, flow.load[first] - flow.capacity);
    for (int rank = end; parent_[rank] >= 0; rank = plan_.rank_of(parent_[rank])) {
      flow.amount[parent_[rank]] -= tokens;
      flow.amount[entered_by_[rank]] += tokens;
    }
    flow.load[first] -= tokens;
    flow.load[end] += tokens;
  }

  // Draws a move that may relieve an overfull rank set of one step: an expert that cannot leave the
  // set changes places with one outside, or a spare copy outside becomes a copy of it.
  bool propose(SplitMix64& random, Move& move) {
    const int num_slots = plan_.num_slots();
    int slot_a = static_cast<int>(random.below(num_slots));
    const int slot_b = static_cast<int>(random.below(num_slots));
    if (random.below(4) != 0) {  // else anything may happen anywhere
      const StepFlow& flow = flows_[random.below(static_cast<uint32_t>(flows_.size()))];
      if (flow.overflow == 0) return false;
      reach_room(flow);
      const int rank = queue_[random.below(num_reached_)];
      slot_a = rank * plan_.slots_per_rank + static_cast<int>(random.below(plan_.slots_per_rank));
      if (visited_[plan_.rank_of(slot_b)] == visit_) return false;
    }
    const bool is_swap = rings_.count(plan_.expert[slot_b]) == 1 || random.below(2) == 0;
    return make_move(slot_a, slot_b, is_swap, move);
  }

  bool make_move(int slot_a, int slot_b, bool is_swap, Move& move) const {
    const int32_t a = plan_.expert[slot_a];
    const int32_t b = plan_.expert[slot_b];
    const int rank_a = plan_.rank_of(slot_a);
    const int rank_b = plan_.rank_of(slot_b);
    if (a == b || rank_a == rank_b || plan_.holds(rank_b, a)) return false;
    if (is_swap && plan_.holds(rank_a, b)) return false;
    move = {is_swap ? slot_a : -1, slot_b, a};
    return true;
  }

  void try_move(const Move& move) {
    const int32_t displaced = plan_.expert[move.slot_b];
    place(move.slot_b, move.e, move.slot_a, displaced);
    const int moved = limits_.max_moved < 0 ? 0 : count_moved(plan_, limits_.home);
    bool keep = limits_.max_moved < 0 || moved <= limits_.max_moved;
    int64_t total = 0;
    size_t tried = 0;
    for (; keep && tried < flows_.size(); ++tried) {
      work_ += plan_.num_slots();
      saved_[tried].amount.swap(flows_[tried].amount);
      saved_[tried].load.swap(flows_[tried].load);
      saved_[tried].overflow = flows_[tried].overflow;
      flows_[tried].amount = saved_[tried].amount;
      flows_[tried].load = saved_[tried].load;
      carry_over(flows_[tried], move, displaced);
      relevel(flows_[tried]);
      total += flows_[tried].overflow;
      // A move that brings experts in must pay; one that does not may be free.
      keep = total <= total_ - (moved <= num_moved_ ? 0 : std::max<int64_t>(min_gain_, 1));
    }
    if (keep) {
      total_ = total;
      num_moved_ = moved;
      return;
    }
    for (size_t t = 0; t < tried; ++t) {
      flows_[t].amount.swap(saved_[t].amount);
      flows_[t].load.swap(saved_[t].load);
      flows_[t].overflow = saved_[t].overflow;
    }
    place(move.slot_b, displaced, move.slot_a, move.e);
  }

  // Slot b gets expert e; slot a, if there is one, gets `other`.
  void place(int slot_b, int32_t e, int slot_a, int32_t other) {
    rings_.remove(slot_b, plan_.expert[slot_b]);
    if (slot_a >= 0) {
      rings_.remove(slot_a, plan_.expert[slot_a]);
      rings_.insert(slot_a, other);
      plan_.expert[slot_a] = other;
    }
    rings_.insert(slot_b, e);
    plan_.expert[slot_b] = e;
  }

  // Lets the tokens of the moved experts follow them; a copy given up leaves its own to another.
  void carry_over(StepFlow& flow, const Move& move, int32_t displaced) const {
    const int rank_b = plan_.rank_of(move.slot_b);
    if (move.slot_a >= 0) {
      const int rank_a = plan_.rank_of(move.slot_a);
      const int64_t gained = flow.amount[move.slot_a] - flow.amount[move.slot_b];
      std::swap(flow.amount[move.slot_a], flow.amount[move.slot_b]);
      flow.load[rank_b] += gained;
      flow.load[rank_a] -= gained;
      return;
    }
    const int heir = rings_.some_slot(displaced);
    flow.amount[heir] += flow.amount[move.slot_b];
    flow.load[plan_.rank_of(heir)] += flow.amount[move.slot_b];
    flow.load[rank_b] -= flow.amount[move.slot_b];
    flow.amount[move.slot_b] = 0;
  }

  LayerPlan plan_;
  CopyRings rings_;
  const SearchLimits& limits_;
  std::vector<StepFlow> flows_;
  std::vector<StepFlow> saved_;
  int64_t total_ = 0;  // overflow of all steps
  int num_moved_ = 0;
  int64_t min_gain_ = 0;  // of a move that brings experts in

  std::vector<int32_t> parent_;      // [rank], the slot a path leaves to come here, -1 at its start
  std::vector<int32_t> entered_by_;  // [rank], the slot by which it comes
  std::vector<int32_t> queue_;
  std::vector<uint64_t> visited_;  // [rank], the visit that reached it last
  uint64_t visit_ = 0;
  int64_t work_ = 0;
  int num_reached_ = 0;
};

}  // namespace

LayerPlan search_placement(const LayerPlan& start,
                           std::span<const int64_t> steps,
                           int num_experts,
                           const SearchLimits& limits) {
  return Search(start, steps, num_experts, limits).run();
}

}  // namespace plimsoll
