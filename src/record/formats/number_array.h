// Integers in rows and columns, whatever file they came from.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <vector>

#include "plimsoll/result.h"
#include "record/formats/pt_reader.h"

namespace plimsoll {

struct NumberArray {
  std::vector<int64_t> shape;   // the product is values.size()
  std::vector<int64_t> values;  // row-major
  bool rounded = false;         // fractions were
};

std::string shape_to_text(const std::vector<int64_t>& shape);  // "[64, 6, 64]"

// Fail on what is no number, not finite or beyond 2^53, and on nested lists of unequal lengths; on
// float16 and bfloat16 that are not all whole and below 2048 or 256, from where on the type leaves
// whole numbers out. A tensor is read from its file row by row.
Result<NumberArray> numbers_of(const PtFile& file, const PtTensor& tensor);
// Calls `each` with tensor[0], tensor[1], ... until it fails.
using EachSlice = std::function<Status(NumberArray&)>;
Status for_each_slice(const PtFile& file, const PtTensor& tensor, const EachSlice& each);
// `view` must lie within the bytes.
Result<NumberArray> numbers_of(std::span<const std::byte> bytes,
                               PtDtype dtype,
                               const PtTensor& view);
Result<NumberArray> numbers_of(const nlohmann::json& nested_lists);

// The nearest integer; nothing for a number that is not finite or beyond 2^53.
bool round_to_integer(double number, int64_t& rounded);

}  // namespace plimsoll
