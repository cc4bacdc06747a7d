#include <nlohmann/json.hpp>

#include "plimsoll/expert_location.h"
#include "record/formats/file_io.h"
#include "record/formats/npy.h"
#include "record/formats/pt_writer.h"
#include "record/trtllm_yaml.h"

namespace plimsoll {
namespace {

constexpr const char* kMapKey = "physical_to_logical_map";

std::string to_json(const Placement& placement) {
  nlohmann::json rows = nlohmann::json::array();
  for (int l = 0; l < placement.num_layers; ++l) rows.push_back(placement.layer(l));
  return nlohmann::json{{kMapKey, std::move(rows)}}.dump() + "\n";
}

// Nothing but the map: SGLang takes every other key for an argument.
Result<std::vector<std::byte>> to_pt(const Placement& placement) {
  const std::vector<int64_t> map(placement.physical_to_logical.begin(),
                                 placement.physical_to_logical.end());
  const int64_t shape[] = {placement.num_layers, placement.num_physical_experts};
  PtWriter pt;
  pt.begin_dict();
  pt.key(kMapKey);
  pt.tensor(map, shape);
  pt.end_dict();
  return pt.finish();
}

Status write_text(const std::string& path, const std::string& text) {
  return write_file(path, std::as_bytes(std::span(text)));
}

}  // namespace

Status save_placement(const Placement& placement, const std::string& path, int first_layer) {
  if (path.ends_with(".json")) return write_text(path, to_json(placement));
  if (path.ends_with(".yaml") || path.ends_with(".yml")) {
    return write_text(path, to_trtllm_yaml(placement, first_layer));
  }
  if (path.ends_with(".npy")) {
    const int64_t shape[] = {placement.num_layers, placement.num_physical_experts};
    return write_file(path, make_npy(placement.physical_to_logical, shape));
  }
  if (path.ends_with(".pt")) {
    const auto bytes = to_pt(placement);
    return bytes.ok() ? write_file(path, *bytes) : Status(bytes.error());
  }
  return invalid_argument("cannot tell the format of " + path +
                          "; end it in .json, .pt, .yaml or .npy");
}

}  // namespace plimsoll
