#include <algorithm>
#include <nlohmann/json.hpp>
#include <numeric>

#include "plimsoll/expert_location.h"
#include "plimsoll/layers.h"
#include "record/formats/file_io.h"
#include "record/formats/npy.h"
#include "record/formats/pt_writer.h"
#include "record/trtllm_yaml.h"
#include "record/vllm_maps.h"

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

// That was asked for, or that the path ends in; fails where the two cannot go together.
Result<std::string> format_of(const std::string& path, const std::string& asked) {
  struct Ending {
    std::string_view ending;
    std::string_view formats;  // the usual one first
  };
  static constexpr Ending kEndings[] = {{".json", "sglang vllm vllm-ascend"},
                                        {".pt", "sglang"},
                                        {".yaml", "tensorrt-llm"},
                                        {".yml", "tensorrt-llm"},
                                        {".npy", "npy"}};
  std::string fitting;
  if (!asked.empty() && std::ranges::count(placement_formats(), asked) == 0) {
    return invalid_argument("there is no placement format " + asked +
                            "; choose sglang, vllm, vllm-ascend, tensorrt-llm or npy");
  }
  for (const auto& [ending, formats] : kEndings) {
    const std::string words = " " + std::string(formats) + " ";
    if (path.ends_with(ending) && asked.empty()) return words.substr(1, words.find(' ', 1) - 1);
    if (words.find(" " + asked + " ") == words.npos) continue;
    if (path.ends_with(ending)) return asked;
    fitting += (fitting.empty() ? "" : " or ") + std::string(ending);
  }
  if (!asked.empty()) {
    return invalid_argument("a placement in the format " + asked + " is a file that ends in " +
                            fitting + ", not " + path);
  }
  return invalid_argument("cannot tell the format of " + path +
                          "; end it in .json, .pt, .yaml or .npy");
}

}  // namespace

std::span<const std::string_view> placement_formats() {
  static constexpr std::string_view kFormats[] = {"sglang", "vllm", "vllm-ascend", "tensorrt-llm",
                                                  "npy"};
  return kFormats;
}

Status save_placement(const Placement& placement,
                      const std::string& path,
                      const PlacementFile& file) {
  const auto format = format_of(path, file.format);
  if (!format.ok()) return format.error();
  std::vector<int32_t> layer_ids = file.layer_ids;
  if (layer_ids.empty()) {
    layer_ids.resize(placement.num_layers);
    std::iota(layer_ids.begin(), layer_ids.end(), 0);
  }
  if (std::ssize(layer_ids) != placement.num_layers) {
    return invalid_argument("there are " + std::to_string(layer_ids.size()) + " layer ids for " +
                            std::to_string(placement.num_layers) + " layers");
  }
  if (*format == "npy") {
    const int64_t shape[] = {placement.num_layers, placement.num_physical_experts};
    return write_file(path, make_npy(placement.physical_to_logical, shape));
  }
  if (*format == "sglang" && path.ends_with(".pt")) {
    const auto bytes = to_pt(placement);
    return bytes.ok() ? write_file(path, *bytes) : Status(bytes.error());
  }
  if (*format == "sglang") return write_text(path, to_json(placement));

  Placement moe = placement;
  if (!file.moe_rows.empty()) {
    moe = select_layers(placement, file.moe_rows);
    std::vector<int32_t> moe_ids;
    for (const int32_t row : file.moe_rows) moe_ids.push_back(layer_ids[row]);
    layer_ids = std::move(moe_ids);
  }
  if (*format == "tensorrt-llm") return write_text(path, to_trtllm_yaml(moe, layer_ids));
  if (*format == "vllm") return write_text(path, to_vllm_map(moe));
  const auto text = to_ascend_map(moe);
  return text.ok() ? write_text(path, *text) : Status(text.error());
}

}  // namespace plimsoll
