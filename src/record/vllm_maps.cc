#include "record/vllm_maps.h"

#include <map>
#include <nlohmann/json.hpp>
#include <optional>

#include "record/counts.h"
#include "record/formats/json_text.h"

namespace plimsoll {
namespace {

using nlohmann::json;

constexpr int64_t kMaxLayer = 1 << 20;

// The members of a list in the order of their ids, or as they stand where none has one.
Result<std::map<int64_t, const json*>> by_id(const json& list, const char* id_key) {
  std::map<int64_t, const json*> members;
  if (!list.is_array() || list.empty())
    return corrupt_file("has an empty list of layers or devices");
  for (const json& item : list) {
    const json& id = member(item, id_key);
    const bool fits = id.is_null() || (id.is_number_integer() && id.get<int64_t>() >= 0 &&
                                       id.get<int64_t>() <= kMaxLayer);
    if (!fits) return corrupt_file(std::string("has the ") + id_key + " " + excerpt(id));
    const int64_t number = id.is_null() ? std::ssize(members) : id.get<int64_t>();
    if (!members.emplace(number, &item).second) {
      return corrupt_file(std::string("has ") + id_key + " " + std::to_string(number) + " twice");
    }
  }
  return members;
}

// The slots of all devices of a layer, one after the other.
Result<NumberArray> slots_of(const json& layer) {
  const auto devices = by_id(member(layer, "device_list"), "device_id");
  if (!devices.ok()) return devices.error();
  json experts = json::array();
  for (const auto& [id, device] : *devices) experts.push_back(member(*device, "device_expert"));
  Result<NumberArray> slots = numbers_of(experts);
  if (slots.ok() && slots->shape.size() != 2) return corrupt_file("lacks lists of device_expert");
  return slots;
}

}  // namespace

Result<ExpertMap> parse_vllm_map(const json& lists) {
  Result<NumberArray> numbers = numbers_of(lists);
  if (!numbers.ok()) return numbers.error();
  const bool for_all_layers = numbers->shape.size() == 1;
  if (for_all_layers) numbers->shape.insert(numbers->shape.begin(), 1);
  if (!is_placement(*numbers)) {
    return invalid_argument(
        "is a bare list, as vLLM's initial expert maps are, but no placement: expected the expert "
        "of "
        "every slot, [slots] or [layers, slots], naming all experts from 0 on in every layer; "
        "recorded counts need the key logical_count");
  }
  Result<ExpertMap> map = map_of(*numbers);
  if (!map.ok()) return map;
  map->format = "vLLM";
  map->for_all_layers = for_all_layers;
  return map;
}

std::string to_vllm_map(const Placement& placement) {
  std::string text;
  for (int l = 0; l < placement.num_layers; ++l) {
    text += (l ? ",\n" : "[") + json(placement.layer(l)).dump();
  }
  return text + "]\n";
}

Result<ExpertMap> parse_ascend_map(const json& object) {
  const auto layers = by_id(member(object, kAscendKey), "layer_id");
  if (!layers.ok()) return layers.error();
  const json& stated = member(object, "moe_layer_count");
  if (!stated.is_null() && stated != layers->size()) {
    return corrupt_file("says moe_layer_count is " + excerpt(stated) + ", but lists " +
                        std::to_string(layers->size()) + " layers");
  }
  NumberArray all;
  ExpertMap ids;
  for (const auto& [id, layer] : *layers) {
    const Result<NumberArray> slots = slots_of(*layer);
    const std::string place = "layer " + std::to_string(id) + " ";
    if (!slots.ok()) return Error{slots.error().code, place + slots.error().message};
    const int64_t num_devices = slots->shape[0];
    const json& count = member(*layer, "device_count");
    if (!count.is_null() && count != num_devices) {
      return corrupt_file(place + "says device_count is " + excerpt(count) + ", but lists " +
                          std::to_string(num_devices) + " devices");
    }
    const int64_t num_slots = std::ssize(slots->values);
    if (all.shape.empty()) {
      all.shape = {std::ssize(*layers), num_slots};
      ids.num_ranks = static_cast<int>(num_devices);
    } else if (num_slots != all.shape[1] || num_devices != ids.num_ranks) {
      return corrupt_file(place + "has other devices or slots than the first");
    }
    ids.layer_ids.push_back(static_cast<int32_t>(id));
    all.values.insert(all.values.end(), slots->values.begin(), slots->values.end());
  }
  Result<ExpertMap> map = map_of(all);
  if (!map.ok()) return map;
  map->format = "vLLM-Ascend";
  map->num_ranks = ids.num_ranks;
  map->layer_ids = std::move(ids.layer_ids);
  return map;
}

Result<std::string> to_ascend_map(const Placement& placement) {
  const int64_t shared = num_copies_beside_twin(placement);
  if (shared > 0) {
    return unsupported(
        "vLLM-Ascend takes no two copies of an expert on one rank, and this placement "
        "has " +
        std::to_string(shared) + "; plan with --eplb-algorithm plimsoll, which makes none");
  }
  nlohmann::ordered_json layers = json::array();
  for (int l = 0; l < placement.num_layers; ++l) {
    nlohmann::ordered_json devices = json::array();
    const auto experts = placement.layer(l);
    for (int r = 0; r < placement.num_ranks; ++r) {
      const auto slots = experts.subspan(static_cast<size_t>(r) * placement.slots_per_rank(),
                                         placement.slots_per_rank());
      devices.push_back({{"device_id", r}, {"device_expert", slots}});
    }
    layers.push_back(
        {{"layer_id", l}, {"device_count", placement.num_ranks}, {"device_list", devices}});
  }
  const nlohmann::ordered_json file = {{"moe_layer_count", placement.num_layers},
                                       {kAscendKey, layers}};
  return file.dump() + "\n";
}

}  // namespace plimsoll
