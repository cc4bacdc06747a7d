// .u8 traces: the .json, a zero byte, and the ids.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <numeric>
#include <span>
#include <string_view>

#include "record/trace_parts.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const uint8_t* end = std::find(data, data + size, 0);
  const std::string_view header(reinterpret_cast<const char*>(data), end - data);
  const std::span ids(std::min(end + 1, data + size), data + size);
  const auto trace = plimsoll::parse_u8_trace(header, std::as_bytes(ids));
  if (!trace.ok()) return 0;
  const auto counts = plimsoll::counts_of_trace(*trace);
  if (!counts.ok()) return 0;
  const auto& all = counts->counts;
  if (std::accumulate(all.begin(), all.end(), int64_t{0}) != std::ssize(ids)) std::abort();
  return 0;
}
