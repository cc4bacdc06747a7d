// NumPy's .npy files (numpy/lib/format.py), versions 1 to 3, of numbers only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "plimsoll/result.h"
#include "record/formats/number_array.h"

namespace plimsoll {

// Booleans, integers, float32 and float64; little-endian, rows or columns first.
Result<NumberArray> parse_npy(std::span<const std::byte> file);

// Rows first; `shape` has the product values.size().
std::vector<std::byte> make_npy(std::span<const int32_t> values, std::span<const int64_t> shape);
std::vector<std::byte> make_npy(std::span<const int64_t> values, std::span<const int64_t> shape);

}  // namespace plimsoll
