#include "plimsoll/dispatch.h"

#include <algorithm>
#include <iterator>

#include "balance/measure/exact_load.h"
#include "balance/measure/shares.h"

namespace plimsoll {
namespace {

constexpr std::string_view kNames[] = {"exact", "even", "dynamic", "static"};

Status check_nodes(const Placement& placement, int num_nodes) {
  if (Status status = validate(placement); !status.ok()) return status;
  if (num_nodes >= 1 && placement.num_ranks % num_nodes == 0) return ok_status();
  return invalid_argument(std::to_string(num_nodes) + " nodes do not divide the " +
                          std::to_string(placement.num_ranks) + " ranks");
}

RankGrid grid_of(const Placement& placement, int num_nodes) {
  return {placement.num_ranks, num_nodes, placement.slots_per_rank()};
}

}  // namespace

std::string_view dispatch_name(Dispatch dispatch) {
  return kNames[static_cast<int>(dispatch)];
}

std::optional<Dispatch> dispatch_of(std::string_view name) {
  const auto found = std::find(std::begin(kNames), std::end(kNames), name);
  if (found == std::end(kNames)) return std::nullopt;
  return static_cast<Dispatch>(found - std::begin(kNames));
}

Result<std::vector<int32_t>> static_dispatch_slots(const Placement& placement, int num_nodes) {
  if (Status status = check_nodes(placement, num_nodes); !status.ok()) return status.error();
  const size_t experts = placement.num_logical_experts;
  std::vector<int32_t> slots(placement.num_layers * placement.num_ranks * experts);
  StaticDraws draws(grid_of(placement, num_nodes));
  for (int l = 0; l < placement.num_layers; ++l) {
    int32_t* layer = &slots[l * placement.num_ranks * experts];
    draws.next_layer(CopyTable(placement.layer(l), placement.num_logical_experts),
                     [&](int source, int e, int slot) { layer[source * experts + e] = slot; });
  }
  return slots;
}

Result<std::vector<double>> expected_rank_loads(const Placement& placement,
                                                std::span<const int64_t> load,
                                                Dispatch dispatch,
                                                int num_nodes) {
  if (Status status = check_nodes(placement, num_nodes); !status.ok()) return status.error();
  const size_t experts = placement.num_logical_experts;
  if (load.size() != placement.num_layers * experts) {
    return invalid_argument("found " + std::to_string(load.size()) + " loads; the placement's " +
                            std::to_string(placement.num_layers) + " layers of " +
                            std::to_string(experts) + " experts need " +
                            std::to_string(placement.num_layers * experts));
  }
  const RankGrid grid = grid_of(placement, num_nodes);
  StaticDraws draws(grid);
  std::vector<double> loads;
  for (int l = 0; l < placement.num_layers; ++l) {
    const auto of_layer = load.subspan(l * experts, experts);
    if (dispatch == Dispatch::kExact) {
      ExactLoad exact(replica_table(placement, l), placement.num_ranks);
      exact.max_load(of_layer);
      loads.insert(loads.end(), exact.rank_loads().begin(), exact.rank_loads().end());
      continue;
    }
    const CopyTable copies(placement.layer(l), placement.num_logical_experts);
    const std::vector<double> share = dispatch == Dispatch::kStatic
                                          ? drawn_shares(copies, grid, draws)
                                          : expected_shares(copies, dispatch, grid);
    const std::vector<double> ranks = rank_loads(placement.layer(l), share, of_layer, grid);
    loads.insert(loads.end(), ranks.begin(), ranks.end());
  }
  return loads;
}

}  // namespace plimsoll
