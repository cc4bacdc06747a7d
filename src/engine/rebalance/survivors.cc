#include "engine/rebalance/survivors.h"

#include <algorithm>
#include <limits>
#include <span>

#include "plimsoll/plan.h"

namespace plimsoll {
namespace {

constexpr int32_t kEmpty = -1;

// One layer's slots on the living ranks, as they were; new slots are empty.
std::vector<int32_t> kept_slots(const SurvivorTask& task, int layer_idx, int slots_per_rank) {
  const int before = task.in_force.slots_per_rank();
  std::vector<int32_t> slots;
  for (int32_t rank : task.living) {
    const auto held = task.in_force.layer(layer_idx).subspan(int64_t{rank} * before, before);
    slots.insert(slots.end(), held.begin(), held.end());
    slots.insert(slots.end(), slots_per_rank - before, kEmpty);
  }
  return slots;
}

// Gives every expert a slot: empty ones first, then those of the copies that relieve their experts
// least. Empty slots that are left get another copy of the experts with the most load a copy.
void fill(std::span<int32_t> slots, std::span<const int64_t> load) {
  std::vector<int64_t> copies(load.size());
  for (int32_t e : slots) {
    if (e != kEmpty) ++copies[e];
  }
  const auto put = [&](int32_t expert, size_t slot) {
    if (slots[slot] != kEmpty) --copies[slots[slot]];
    slots[slot] = expert;
    ++copies[expert];
  };
  // What a copy of the slot's expert carries; the least is the first to go. Only copies go.
  const auto worth = [&](size_t slot) -> double {
    if (slots[slot] == kEmpty) return -1;
    const int32_t e = slots[slot];
    if (copies[e] < 2) return std::numeric_limits<double>::infinity();
    return static_cast<double>(load[e]) / static_cast<double>(copies[e]);
  };
  const auto least_worth = [&] {
    size_t best = 0;
    for (size_t s = 1; s < slots.size(); ++s) {
      if (worth(s) < worth(best)) best = s;
    }
    return best;
  };
  for (size_t e = 0; e < load.size(); ++e) {
    if (copies[e] == 0) put(static_cast<int32_t>(e), least_worth());
  }
  for (size_t s = 0; s < slots.size(); ++s) {
    if (slots[s] != kEmpty) continue;
    size_t hottest = 0;
    for (size_t e = 1; e < load.size(); ++e) {
      if (load[e] * copies[hottest] > load[hottest] * copies[e]) hottest = e;
    }
    put(static_cast<int32_t>(hottest), s);
  }
}

int count_lost(const Placement& in_force, const std::vector<int32_t>& living) {
  const int slots_per_rank = in_force.slots_per_rank();
  int num_lost = 0;
  for (int l = 0; l < in_force.num_layers; ++l) {
    std::vector<uint8_t> held(in_force.num_logical_experts);
    for (int32_t rank : living) {
      for (int32_t e : in_force.layer(l).subspan(int64_t{rank} * slots_per_rank, slots_per_rank)) {
        held[e] = 1;
      }
    }
    num_lost += static_cast<int>(std::ranges::count(held, 0));
  }
  return num_lost;
}

}  // namespace

Result<Placement> place_on_survivors(const SurvivorTask& task) {
  const auto num_ranks = static_cast<int>(task.living.size());
  const int num_experts = task.in_force.num_logical_experts;
  const int slots_per_rank =
      std::max(task.in_force.slots_per_rank(), (num_experts + num_ranks - 1) / num_ranks);
  const std::vector<int64_t> load = total_load(task.load);
  Placement kept{task.in_force.num_layers, num_experts, num_ranks * slots_per_rank, num_ranks, {}};
  for (int l = 0; l < kept.num_layers; ++l) {
    std::vector<int32_t> slots = kept_slots(task, l, slots_per_rank);
    fill(slots, std::span(load).subspan(static_cast<size_t>(l) * num_experts, num_experts));
    kept.physical_to_logical.insert(kept.physical_to_logical.end(), slots.begin(), slots.end());
  }
  if (num_ranks == 1) return kept;

  PlanOptions options{.algorithm = task.algorithm,
                      .num_ranks = num_ranks,
                      .num_redundant_experts = kept.num_redundant_experts(),
                      .in_force = kept};
  // Nodes and groups may not divide over what is left.
  if (const size_t at = options.algorithm.find("_hierarchical"); at != std::string::npos) {
    options.algorithm.resize(at);
  }
  if (options.algorithm == "plimsoll") {
    options.max_moved_experts = count_lost(task.in_force, task.living);
  }
  Result<Plan> plan = make_plan(task.load, options);
  if (!plan.ok()) return plan.error();
  return std::move(plan->placement);
}

}  // namespace plimsoll
