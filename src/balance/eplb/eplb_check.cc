#include "balance/eplb/eplb_check.h"

#include <string>

#include "plimsoll/placement.h"

namespace plimsoll {

EplbSizes eplb_sizes(const LoadHistory& load, const PlanOptions& options) {
  EplbSizes sizes;
  sizes.num_layers = load.num_layers;
  sizes.num_logical_experts = load.num_logical_experts;
  sizes.num_physical_experts = load.num_logical_experts + options.num_redundant_experts;
  sizes.num_ranks = options.num_ranks;
  sizes.num_nodes = options.num_nodes;
  sizes.num_groups = options.num_groups;
  return sizes;
}

Status check_eplb_sizes(const EplbSizes& s, bool hierarchical) {
  if (s.num_layers < 1) {
    return invalid_argument("a plan needs at least one layer; found " +
                            std::to_string(s.num_layers));
  }
  Status divides = validate_slot_count(s.num_logical_experts,
                                       s.num_physical_experts - s.num_logical_experts, s.num_ranks);
  if (!divides.ok() || !hierarchical) return divides;
  const auto needs = [](const char* what, int many, const char* of, int few) -> Status {
    return invalid_argument("hierarchical planning needs " + std::string(what) + " (" +
                            std::to_string(many) + ") to be a multiple of " + of + " (" +
                            std::to_string(few) + "); use the global algorithm instead");
  };
  if (s.num_nodes < 1 || s.num_ranks % s.num_nodes != 0) {
    return needs("the ranks", s.num_ranks, "the nodes", s.num_nodes);
  }
  if (s.num_groups < 1 || s.num_logical_experts % s.num_groups != 0) {
    return needs("the experts", s.num_logical_experts, "the expert groups", s.num_groups);
  }
  if (s.num_groups % s.num_nodes != 0) {
    return needs("the expert groups", s.num_groups, "the nodes", s.num_nodes);
  }
  return ok_status();
}

EplbAnswer make_eplb_answer(const EplbSizes& sizes) {
  const size_t slots = static_cast<size_t>(sizes.num_layers) * sizes.num_physical_experts;
  EplbAnswer answer;
  answer.physical_to_logical.resize(slots);
  answer.replica_index.resize(slots);
  answer.logical_count.resize(static_cast<size_t>(sizes.num_layers) * sizes.num_logical_experts);
  return answer;
}

Placement empty_placement(const EplbSizes& sizes) {
  return {
      sizes.num_layers, sizes.num_logical_experts, sizes.num_physical_experts, sizes.num_ranks, {}};
}

}  // namespace plimsoll
