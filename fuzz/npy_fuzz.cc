// .npy files: as counts, as a placement and as a trace.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>

#include "record/counts.h"
#include "record/formats/npy.h"
#include "record/trace_parts.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto numbers = plimsoll::parse_npy(std::as_bytes(std::span(data, size)));
  if (!numbers.ok()) return 0;
  int64_t product = 1;
  for (const int64_t rows : numbers->shape) product *= rows;
  if (product != std::ssize(numbers->values)) std::abort();
  if (product > static_cast<int64_t>(size)) std::abort();  // every element has a byte of its own
  (void)plimsoll::counts_of(*numbers);
  (void)plimsoll::map_of(*numbers);
  (void)plimsoll::trace_of(*numbers);
  return 0;
}
