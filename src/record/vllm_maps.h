// The expert maps of vLLM and vLLM-Ascend, both JSON.
//
// vLLM (eplb_config.initial_expert_map_path, its pull requests 49572 and 53022): the expert of
// every slot, [2, 0, 1, 0], for all MoE layers alike, or a list of such lists, one for each MoE
// layer.
//
// vLLM-Ascend (expert_map_path of its static EPLB, vllm_ascend/eplb): the experts of every device,
//   {"moe_layer_count": 1, "layer_list": [{"layer_id": 0, "device_count": 2, "device_list":
//     [{"device_id": 0, "device_expert": [2, 0]}, {"device_id": 1, "device_expert": [1, 0]}]}]}
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "plimsoll/expert_location.h"
#include "plimsoll/result.h"

namespace plimsoll {

Result<ExpertMap> parse_vllm_map(const nlohmann::json& lists);
std::string to_vllm_map(const Placement& placement);

inline constexpr const char* kAscendKey = "layer_list";
// Layers and devices stand in their order where they have no ids.
Result<ExpertMap> parse_ascend_map(const nlohmann::json& object);
// Fails where two copies of an expert are on one rank: vLLM-Ascend finds an expert of a device by
// its id, and so would lose one of them.
Result<std::string> to_ascend_map(const Placement& placement);

}  // namespace plimsoll
