// Numbers from a file, understood as recorded load or as a placement.
#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "plimsoll/expert_location.h"
#include "plimsoll/result.h"
#include "record/formats/number_array.h"

namespace plimsoll {

// Of shape [layers, experts] or [steps, layers, experts]; none negative, 2^53 in sum at most. Steps
// without any count at the end are dropped: slots of a ring buffer that were never filled.
Result<LoadedCounts> counts_of(const NumberArray& numbers);

// Of shape [layers, physical experts]; ids from 0 to the number of slots.
Result<ExpertMap> map_of(const NumberArray& numbers);

// The content of a file that --init-expert-location may name; one that ends in .pt is PyTorch's,
// any other JSON.
Result<ExpertLocation> parse_expert_location(std::span<const std::byte> bytes,
                                             const std::string& path);

}  // namespace plimsoll
