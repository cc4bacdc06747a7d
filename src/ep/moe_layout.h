// Where the experts are, and what routing needs to know of it. All ranks of a process read one
// layout; a layer's placement is switched between two steps, when no rank is inside.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "plimsoll/just_in_time.h"
#include "plimsoll/placement.h"
#include "plimsoll/result.h"
#include "plimsoll/route.h"

namespace plimsoll {

struct MoeLayout {
  Placement placement;
  std::vector<JitTables> tables;  // [layer]
};

Result<MoeLayout> make_moe_layout(const Placement& placement, const RouteOptions& options);

// A layer's placement, made ready to be put in force.
struct LayerLayout {
  int layer_idx = 0;
  std::vector<int32_t> slots;  // [num_physical_experts], logical expert of each
  JitTables tables;
};

// Fails where `slots` is no placement of the sizes of `in_force`. Reads sizes only, so that any
// thread may call it while the placement changes.
Result<LayerLayout> make_layer_layout(const Placement& in_force,
                                      int layer_idx,
                                      std::span<const int32_t> slots,
                                      const RouteOptions& options);

// Puts `next` in force and leaves in it what was in force before. Neither allocates nor fails;
// between steps only.
void switch_layer(MoeLayout& layout, LayerLayout& next);

}  // namespace plimsoll
