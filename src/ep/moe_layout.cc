#include "ep/moe_layout.h"

#include <algorithm>

namespace plimsoll {

Result<MoeLayout> make_moe_layout(const Placement& placement, const RouteOptions& options) {
  MoeLayout layout{.placement = placement};
  for (int layer_idx = 0; layer_idx < placement.num_layers; ++layer_idx) {
    Result<JitTables> tables = make_jit_tables(placement, layer_idx, options);
    if (!tables.ok()) return tables.error();
    layout.tables.push_back(std::move(*tables));
  }
  return layout;
}

Result<LayerLayout> make_layer_layout(const Placement& in_force,
                                      int layer_idx,
                                      std::span<const int32_t> slots,
                                      const RouteOptions& options) {
  if (layer_idx < 0 || layer_idx >= in_force.num_layers) {
    return invalid_argument("layer " + std::to_string(layer_idx) + " of a model of " +
                            std::to_string(in_force.num_layers) + " layers cannot be placed");
  }
  const Placement layer{1,
                        in_force.num_logical_experts,
                        in_force.num_physical_experts,
                        in_force.num_ranks,
                        {slots.begin(), slots.end()}};
  Result<JitTables> tables = make_jit_tables(layer, 0, options);
  if (!tables.ok()) return tables.error();
  return LayerLayout{layer_idx, layer.physical_to_logical, std::move(*tables)};
}

void switch_layer(MoeLayout& layout, LayerLayout& next) {
  const auto first = layout.placement.physical_to_logical.begin() +
                     int64_t{next.layer_idx} * layout.placement.num_physical_experts;
  std::swap_ranges(next.slots.begin(), next.slots.end(), first);
  std::swap(layout.tables[next.layer_idx], next.tables);
}

}  // namespace plimsoll
