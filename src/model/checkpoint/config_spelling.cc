#include "model/checkpoint/config_spelling.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "record/formats/json_text.h"

namespace plimsoll {
namespace {

using nlohmann::json;

bool is_count(const json& value) {
  return value.is_number_integer() && value >= 0 && value <= (1 << 20);
}

Status unknown(const std::string& key, const json& found, const std::string& expected) {
  return invalid_argument("config.json: key " + key + " is " + excerpt(found) + ", expected " +
                          expected);
}

// Takes `value` for the official key, of which `other` is another spelling.
Status take(json& config, const std::string& key, const std::string& other, const json& value) {
  const json& there = member(config, key);
  if (there.is_null()) {
    config[key] = value;
    return ok_status();
  }
  // A list may go on beyond the layers that the other spelling knows (draft layers).
  const bool agrees = there.is_array() && value.is_array() && there.size() >= value.size()
                          ? std::equal(value.begin(), value.end(), there.begin())
                          : there == value;
  if (agrees) return ok_status();
  return invalid_argument("config.json: key " + key + " is " + excerpt(there) + ", but " + other +
                          " says " + excerpt(value) + "; they mean the same, drop the wrong one");
}

// The ratio of a kind of layer: compress_rates, the older scalar key, or transformers' default.
json rate_of(const json& config, const char* layer_type, const char* scalar_key, int usual) {
  const json& rate = member(member(config, "compress_rates"), layer_type);
  if (!rate.is_null()) return rate;
  const json& scalar = member(config, scalar_key);
  return scalar.is_null() ? json(usual) : scalar;
}

Status read_layer_types(json& config) {
  const json& types = member(config, "layer_types");
  if (types.is_null()) return ok_status();
  const json sparse = rate_of(config, "compressed_sparse_attention", "compress_rate_csa", 4);
  const json heavy = rate_of(config, "heavily_compressed_attention", "compress_rate_hca", 128);
  if (!is_count(sparse) || !is_count(heavy)) {
    return unknown("compress_rates", member(config, "compress_rates"),
                   "a whole number for each kind of layer");
  }
  json ratios = json::array();
  for (const json& type : types.is_array() ? types : json::array({types})) {
    if (type == "sliding_attention") {
      ratios.push_back(0);
    } else if (type == "compressed_sparse_attention") {
      ratios.push_back(sparse);
    } else if (type == "heavily_compressed_attention") {
      ratios.push_back(heavy);
    } else {
      return unknown("layer_types", type,
                     "sliding_attention, compressed_sparse_attention or "
                     "heavily_compressed_attention for every layer");
    }
  }
  return take(config, "compress_ratios", "layer_types", ratios);
}

Status read_mlp_layer_types(json& config) {
  const json& types = member(config, "mlp_layer_types");
  if (types.is_null()) return ok_status();
  const auto is_hash = [](const json& type) { return type == "hash_moe"; };
  const bool known = types.is_array() && std::all_of(types.begin(), types.end(), [](const json& t) {
                       return t == "hash_moe" || t == "moe";
                     });
  const auto first_other = std::find_if_not(types.begin(), types.end(), is_hash);
  if (!known || std::any_of(first_other, types.end(), is_hash)) {
    return unknown("mlp_layer_types", types, "hash_moe for the first layers, moe for the others");
  }
  return take(config, "num_hash_layers", "mlp_layer_types", first_other - types.begin());
}

// Scaling of the kind "default" is none.
json scaling_in(const json& parameters) {
  const char* kind = parameters.contains("rope_type") ? "rope_type" : "type";
  const json& type = member(parameters, kind);
  return type.is_null() || type == "default" ? json() : parameters;
}

Status take_if_there(json& config, const char* key, const char* other, const json& value) {
  return value.is_null() ? ok_status() : take(config, key, other, value);
}

Status read_rope(json& config) {
  if (member(config, "rope_scaling").is_object()) {
    config["rope_scaling"] = scaling_in(config["rope_scaling"]);
  }
  const json parameters = member(config, "rope_parameters");
  if (parameters.is_null()) return ok_status();
  if (!parameters.is_object()) return unknown("rope_parameters", parameters, "an object");
  const bool nested = parameters.contains("main") && parameters.contains("compress");
  const json& compress = nested ? parameters["compress"] : parameters;
  const char* const name = "rope_parameters";
  if (nested) {
    for (const Status& status :
         {take_if_there(config, "rope_theta", name, member(parameters["main"], "rope_theta")),
          take_if_there(config, "compress_rope_theta", name, member(compress, "rope_theta"))}) {
      if (!status.ok()) return status;
    }
  }
  const json scaling = compress.is_object() ? scaling_in(compress) : json();
  if (!scaling.is_object()) return ok_status();
  json& there = config["rope_scaling"];  // the official one names fewer members
  for (const char* key : {"factor", "original_max_position_embeddings", "beta_fast", "beta_slow"}) {
    if (!there.is_object() ||
        there.value(key, scaling.value(key, json())) == scaling.value(key, json())) {
      continue;
    }
    return unknown("rope_scaling", there, "what rope_parameters says: " + excerpt(scaling));
  }
  if (there.is_null()) there = scaling;
  return ok_status();
}

Status read_rotary_factor(json& config) {
  const json& factor = member(config, "partial_rotary_factor");
  const json& head_dim = member(config, "head_dim");
  if (!factor.is_number() || !is_count(head_dim)) return ok_status();
  const double width = factor.get<double>() * head_dim.get<double>();
  if (!(width >= 0 && width <= 1 << 20)) {
    return unknown("partial_rotary_factor", factor, "a fraction of 1");
  }
  return take(config, "qk_rope_head_dim", "partial_rotary_factor", std::lround(width));
}

}  // namespace

Status add_official_keys(json& config) {
  for (const auto read : {read_layer_types, read_mlp_layer_types, read_rope, read_rotary_factor}) {
    if (Status status = read(config); !status.ok()) return status;
  }
  return ok_status();
}

}  // namespace plimsoll
