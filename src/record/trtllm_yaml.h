// TensorRT-LLM's static load-balancer configuration (examples/wide_ep/ep_load_balancer):
//
//   num_slots: 72
//   initial_global_assignments:
//     3: [0, 17, 4, ...]      # model layer: the expert of every slot
//     4: [...]
//   layer_updates_per_iter: 0
//
// This is no YAML reader: it finds the assignments in the forms that YAML writers give them, and
// passes over the rest.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "plimsoll/expert_location.h"
#include "plimsoll/result.h"

namespace plimsoll {

// Fails unless the layers all have the same number of slots, and num_slots, if it is there.
Result<ExpertMap> parse_trtllm_yaml(std::string_view text);

// layer_ids: a layer of the model for each of the placement's.
std::string to_trtllm_yaml(const Placement& placement, std::span<const int32_t> layer_ids);

}  // namespace plimsoll
