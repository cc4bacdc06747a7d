// Some layers of a load or a placement: those that are planned for. A model's dense layers, and
// layers that nobody recorded, have rows in most files too, and no traffic.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "plimsoll/placement.h"

namespace plimsoll {

// Those with a count in any step, ascending.
std::vector<int32_t> layers_with_load(const LoadHistory& load);

// The rows `layers`, in that order; each must be there.
LoadHistory select_layers(const LoadHistory& load, std::span<const int32_t> layers);
Placement select_layers(const Placement& placement, std::span<const int32_t> layers);

// `placement` with the rows of `part` in place of its rows `layers`; of the same slots and ranks.
Placement with_layers(Placement placement, const Placement& part, std::span<const int32_t> layers);

}  // namespace plimsoll
