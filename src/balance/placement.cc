#include "plimsoll/placement.h"

#include <algorithm>
#include <limits>

namespace plimsoll {
namespace {

std::string nearest_redundant_counts(int num_logical, int num_redundant, int num_ranks) {
  // Computed in 64 bits: the counts come from a command line.
  const int64_t total = int64_t{num_logical} + num_redundant;
  const int64_t least = (num_logical + num_ranks - int64_t{1}) / num_ranks * num_ranks;
  const int64_t below = std::max(total / num_ranks * num_ranks, least) - num_logical;
  const int64_t above =
      std::max((total + num_ranks - 1) / num_ranks * num_ranks, least) - num_logical;
  if (below == above) return std::to_string(below);
  return std::to_string(below) + " or " + std::to_string(above);
}

}  // namespace

Status validate_slot_count(int num_logical_experts, int num_redundant_experts, int num_ranks) {
  if (num_logical_experts < 1 || num_ranks < 1 || num_redundant_experts < 0) {
    return invalid_argument(
        "a placement needs at least one expert, one rank and no negative count of "
        "redundant experts; found " +
        std::to_string(num_logical_experts) + " experts, " + std::to_string(num_ranks) +
        " ranks and " + std::to_string(num_redundant_experts) + " redundant experts");
  }
  const int64_t total = int64_t{num_logical_experts} + num_redundant_experts;
  if (total % num_ranks == 0 && total <= std::numeric_limits<int32_t>::max()) return ok_status();
  return invalid_argument(
      std::to_string(num_logical_experts) + " experts and " +
      std::to_string(num_redundant_experts) + " redundant experts make " + std::to_string(total) +
      " slots, which do not divide evenly over " + std::to_string(num_ranks) + " ranks; use " +
      nearest_redundant_counts(num_logical_experts, num_redundant_experts, num_ranks) +
      " redundant experts");
}

Status validate(const Placement& p) {
  if (p.num_layers < 1 || p.num_logical_experts < 1 || p.num_ranks < 1) {
    return invalid_argument(
        "a placement needs at least one layer, one expert and one rank; found " +
        std::to_string(p.num_layers) + ", " + std::to_string(p.num_logical_experts) + " and " +
        std::to_string(p.num_ranks));
  }
  const Status divides = validate_slot_count(
      p.num_logical_experts, p.num_physical_experts - p.num_logical_experts, p.num_ranks);
  if (!divides.ok()) return divides;
  const size_t expected = static_cast<size_t>(p.num_layers) * p.num_physical_experts;
  if (p.physical_to_logical.size() != expected) {
    return invalid_argument(
        "physical_to_logical holds " + std::to_string(p.physical_to_logical.size()) + " entries; " +
        std::to_string(p.num_layers) + " layers of " + std::to_string(p.num_physical_experts) +
        " slots need " + std::to_string(expected));
  }
  std::vector<int> seen_in_layer(p.num_logical_experts, -1);
  for (int l = 0; l < p.num_layers; ++l) {
    for (const int32_t expert : p.layer(l)) {
      if (expert < 0 || expert >= p.num_logical_experts) {
        return invalid_argument("layer " + std::to_string(l) + " of the placement names expert " +
                                std::to_string(expert) + "; experts are 0 to " +
                                std::to_string(p.num_logical_experts - 1));
      }
      seen_in_layer[expert] = l;
    }
    const auto missing = std::find_if(seen_in_layer.begin(), seen_in_layer.end(),
                                      [l](int layer) { return layer != l; });
    if (missing != seen_in_layer.end()) {
      return invalid_argument(
          "layer " + std::to_string(l) + " of the placement has no slot for expert " +
          std::to_string(missing - seen_in_layer.begin()) + "; every expert needs one");
    }
  }
  return ok_status();
}

Result<Placement> trivial_placement(int num_layers,
                                    int num_logical_experts,
                                    int num_redundant_experts,
                                    int num_ranks) {
  if (num_layers < 1) {
    return invalid_argument("a placement needs at least one layer; found " +
                            std::to_string(num_layers));
  }
  const Status divides = validate_slot_count(num_logical_experts, num_redundant_experts, num_ranks);
  if (!divides.ok()) return divides.error();
  Placement p;
  p.num_layers = num_layers;
  p.num_logical_experts = num_logical_experts;
  p.num_physical_experts = num_logical_experts + num_redundant_experts;
  p.num_ranks = num_ranks;
  p.physical_to_logical.resize(static_cast<size_t>(num_layers) * p.num_physical_experts);
  for (size_t i = 0; i < p.physical_to_logical.size(); ++i) {
    p.physical_to_logical[i] =
        static_cast<int32_t>(i % p.num_physical_experts % num_logical_experts);
  }
  return p;
}

ReplicaTable replica_table(const Placement& placement, int layer_idx) {
  const std::span<const int32_t> experts = placement.layer(layer_idx);
  const int per_rank = placement.slots_per_rank();
  ReplicaTable table;
  table.begin.assign(placement.num_logical_experts + 1, 0);
  std::vector<int32_t> last_rank(placement.num_logical_experts, -1);
  for (int slot = 0; slot < placement.num_physical_experts; ++slot) {
    if (last_rank[experts[slot]] == slot / per_rank) continue;
    last_rank[experts[slot]] = slot / per_rank;
    ++table.begin[experts[slot] + 1];
  }
  for (int e = 0; e < placement.num_logical_experts; ++e) table.begin[e + 1] += table.begin[e];
  table.rank.resize(table.begin.back());
  table.slot.resize(table.begin.back());
  std::vector<int32_t> next(table.begin.begin(), table.begin.end() - 1);
  for (int slot = 0; slot < placement.num_physical_experts; ++slot) {
    const int32_t expert = experts[slot];
    const int32_t rank = slot / per_rank;
    if (next[expert] > table.begin[expert] && table.rank[next[expert] - 1] == rank) continue;
    table.rank[next[expert]] = rank;
    table.slot[next[expert]++] = slot;
  }
  return table;
}

int64_t num_copies_beside_twin(const Placement& placement) {
  int64_t num_copies = 0;
  for (int l = 0; l < placement.num_layers; ++l) {
    num_copies += placement.num_physical_experts - std::ssize(replica_table(placement, l).rank);
  }
  return num_copies;
}

}  // namespace plimsoll
