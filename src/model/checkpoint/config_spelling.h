// The keys that transformers 5 writes into config.json, said in the official ones.
//
// transformers' DeepseekV4Config (configuration_deepseek_v4.py, 5.17) has layer_types and
// compress_rates for compress_ratios, mlp_layer_types for num_hash_layers, rope_parameters for
// rope_theta, compress_rope_theta and rope_scaling, and partial_rotary_factor for qk_rope_head_dim.
// Converters and fine-tunes mix both.
#pragma once

#include <nlohmann/json.hpp>

#include "plimsoll/result.h"

namespace plimsoll {

// Adds the official keys that the others stand for; each may be there in either spelling. Fails
// where both are and differ, and on values of the other spelling that it does not know.
Status add_official_keys(nlohmann::json& config);

}  // namespace plimsoll
