// TensorRT-LLM's .yaml placements: what was read is read again from what we write of it.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "record/trtllm_yaml.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto map =
      plimsoll::parse_trtllm_yaml(std::string_view(reinterpret_cast<const char*>(data), size));
  if (!map.ok()) return 0;
  const int num_experts = std::ranges::max(map->physical_to_logical) + 1;
  const auto placement = plimsoll::make_placement(*map, map->num_layers, num_experts, 1);
  if (!placement.ok()) return 0;
  const auto again =
      plimsoll::parse_trtllm_yaml(plimsoll::to_trtllm_yaml(*placement, map->layer_ids));
  if (!again.ok() || again->physical_to_logical != map->physical_to_logical ||
      again->layer_ids != map->layer_ids) {
    std::abort();
  }
  return 0;
}
