// config.json.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "model/checkpoint/config.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto config =
      plimsoll::parse_config(std::string_view(reinterpret_cast<const char*>(data), size));
  if (!config.ok()) return 0;
  const bool sane =
      config->hidden_size > 0 && config->rms_norm_eps > 0 &&
      config->num_attention_heads % config->o_groups == 0 &&
      config->compress_ratios.size() >= static_cast<size_t>(config->num_hidden_layers);
  if (!sane) std::abort();
  return 0;
}
