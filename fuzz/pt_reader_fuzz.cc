// .pt files: as a recording and as what --init-expert-location names.
#include <cstddef>
#include <cstdint>
#include <span>

#include "record/counts.h"
#include "record/recording_reader.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  auto file = plimsoll::parse_pt(bytes);
  if (!file.ok()) return 0;
  (void)plimsoll::parse_recording(*file);
  (void)plimsoll::location_of(std::move(*file), "fuzz.pt", {});
  return 0;
}
