// Where experts live: physical slots, each holding a copy of one logical expert, spread over EP
// ranks.
//
// The layout is SGLang's and EPLB's: the slots of rank r are the contiguous block
// [r * slots_per_rank, (r + 1) * slots_per_rank).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "plimsoll/result.h"

namespace plimsoll {

struct Placement {
  int num_layers = 0;
  int num_logical_experts = 0;
  int num_physical_experts = 0;  // logical + redundant; a multiple of num_ranks
  int num_ranks = 0;
  std::vector<int32_t> physical_to_logical;  // [num_layers, num_physical_experts]

  int slots_per_rank() const { return num_physical_experts / num_ranks; }
  int num_redundant_experts() const { return num_physical_experts - num_logical_experts; }
  // The logical expert of every slot of a layer, [num_physical_experts].
  std::span<const int32_t> layer(int layer_idx) const {
    return std::span(physical_to_logical)
        .subspan(static_cast<size_t>(layer_idx) * num_physical_experts, num_physical_experts);
  }
};

// Checks the sizes, that ids are in range, and that every expert of every layer has a slot.
Status validate(const Placement& placement);

// Checks that logical + redundant experts divide evenly over the ranks, with room for every expert;
// the error names the nearest counts of redundant experts that do.
Status validate_slot_count(int num_logical_experts, int num_redundant_experts, int num_ranks);

// Slot i holds expert i mod num_logical_experts: SGLang's `--init-expert-location trivial`.
// Fails, naming the nearest counts that work, where the slots do not divide over the ranks.
Result<Placement> trivial_placement(int num_layers,
                                    int num_logical_experts,
                                    int num_redundant_experts,
                                    int num_ranks);

// The copies of every logical expert of one layer: those of expert e are the entries
// [begin[e], begin[e + 1]), in ascending rank. Several copies on one rank are listed once, by their
// lowest slot: they save no rank any work.
struct ReplicaTable {
  std::vector<int32_t> begin;  // [num_logical_experts + 1]
  std::vector<int32_t> rank;   // [number of replicas]
  std::vector<int32_t> slot;   // [number of replicas]

  int count(int expert) const { return begin[expert + 1] - begin[expert]; }
};

// Requires a valid placement.
ReplicaTable replica_table(const Placement& placement, int layer_idx);

// Copies, over all layers, that stand on a rank beside another copy of their expert and so help
// nobody: slots less the (expert, rank) pairs. Requires a valid placement.
int64_t num_copies_beside_twin(const Placement& placement);

// What traffic selected, by logical expert: counts[step][layer][expert], tokens.
struct LoadHistory {
  int num_steps = 0;
  int num_layers = 0;
  int num_logical_experts = 0;
  std::vector<int64_t> counts;  // [num_steps, num_layers, num_logical_experts]
};

}  // namespace plimsoll
