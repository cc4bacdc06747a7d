// JSON counts and placements.
#include <cstddef>
#include <cstdint>
#include <span>

#include "record/counts.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  (void)plimsoll::parse_location_json({reinterpret_cast<const char*>(data), size});
  return 0;
}
