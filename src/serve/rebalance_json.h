// The state of online EPLB for /expert_balance and /server_info.
#pragma once

#include <nlohmann/json.hpp>

#include "engine/rebalance/rebalancer.h"

namespace plimsoll {

nlohmann::ordered_json to_json(const RebalanceStats& stats);

// {"physical_to_logical_map": [layers][slots]}, as --init-expert-location takes it.
nlohmann::ordered_json to_json(const Placement& placement);

}  // namespace plimsoll
