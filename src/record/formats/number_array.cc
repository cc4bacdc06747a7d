#include "record/formats/number_array.h"

#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>
#include <utility>

namespace plimsoll {
namespace {

using nlohmann::json;

constexpr double kMaxExact = 9007199254740992.0;  // 2^53

Error bad_number() {
  return corrupt_file("holds a number that is not finite, or beyond 2^53");
}

// Visits the elements in row-major order: each(position in the storage).
template <typename Each>
bool for_each_element(const PtTensor& tensor, const Each& each) {
  const size_t num_dims = tensor.shape.size();
  for (const int64_t size : tensor.shape) {
    if (size == 0) return true;
  }
  std::vector<int64_t> idx(num_dims, 0);
  int64_t position = tensor.offset;
  while (true) {
    if (!each(position)) return false;
    size_t d = num_dims;
    while (d > 0) {
      --d;
      position += tensor.strides[d];
      if (++idx[d] < tensor.shape[d]) break;
      position -= idx[d] * tensor.strides[d];
      idx[d] = 0;
      if (d == 0) return true;
    }
    if (num_dims == 0) return true;
  }
}

template <typename T>
Result<NumberArray> convert(const PtTensor& tensor, const std::byte* data) {
  NumberArray array{tensor.shape, {}};
  const bool good = for_each_element(tensor, [&](int64_t position) {
    T element;
    std::memcpy(&element, data + position * static_cast<int64_t>(sizeof(T)), sizeof(T));
    int64_t value = 0;
    if constexpr (std::is_floating_point_v<T>) {
      if (!round_to_integer(element, value)) return false;
      array.rounded |= static_cast<T>(value) != element;
    } else {
      if (std::cmp_greater(element, int64_t{1} << 53)) return false;
      value = static_cast<int64_t>(element);
    }
    array.values.push_back(value);
    return true;
  });
  if (!good) return bad_number();
  return array;
}

// Appends a (nested) list of numbers below the outermost; `depth` lists are open.
Status append_nested(const json& node, size_t depth, NumberArray& array) {
  constexpr size_t kMaxDimensions = 8;
  if (node.is_number()) {
    if (depth != array.shape.size()) return corrupt_file("has rows of unequal depth");
    int64_t value = 0;
    const auto number = node.get<double>();
    if (!round_to_integer(number, value)) return bad_number();
    array.rounded |= static_cast<double>(value) != number;
    array.values.push_back(value);
    return ok_status();
  }
  if (!node.is_array()) return corrupt_file("holds something that is no number");
  const auto size = static_cast<int64_t>(node.size());
  if (depth == array.shape.size()) {
    if (!array.values.empty() || depth == kMaxDimensions) {
      return corrupt_file("has rows of unequal depth");
    }
    array.shape.push_back(size);
  }
  if (array.shape[depth] != size) {
    return corrupt_file("has a row of " + std::to_string(size) + " entries beside one of " +
                        std::to_string(array.shape[depth]));
  }
  for (const json& item : node) {
    const Status done = append_nested(item, depth + 1, array);
    if (!done.ok()) return done;
  }
  return ok_status();
}

}  // namespace

bool round_to_integer(double number, int64_t& rounded) {
  if (!(std::abs(number) <= kMaxExact)) return false;
  rounded = std::llround(number);
  return true;
}

std::string shape_to_text(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t d = 0; d < shape.size(); ++d) text += (d ? ", " : "") + std::to_string(shape[d]);
  return text + "]";
}

Result<NumberArray> numbers_of(const PtFile& file, const PtTensor& tensor) {
  const PtStorage& storage = file.storage(tensor);
  return numbers_of(storage.bytes, storage.dtype, tensor);
}

Result<NumberArray> numbers_of(std::span<const std::byte> bytes,
                               PtDtype dtype,
                               const PtTensor& view) {
  switch (dtype) {
    case PtDtype::kBool:
    case PtDtype::kUint8:
      return convert<uint8_t>(view, bytes.data());
    case PtDtype::kUint16:
      return convert<uint16_t>(view, bytes.data());
    case PtDtype::kUint32:
      return convert<uint32_t>(view, bytes.data());
    case PtDtype::kUint64:
      return convert<uint64_t>(view, bytes.data());
    case PtDtype::kInt8:
      return convert<int8_t>(view, bytes.data());
    case PtDtype::kInt16:
      return convert<int16_t>(view, bytes.data());
    case PtDtype::kInt32:
      return convert<int32_t>(view, bytes.data());
    case PtDtype::kInt64:
      return convert<int64_t>(view, bytes.data());
    case PtDtype::kF32:
      return convert<float>(view, bytes.data());
    case PtDtype::kF64:
      return convert<double>(view, bytes.data());
    case PtDtype::kF16:
    case PtDtype::kBf16:
      break;
  }
  return unsupported("is of type " + std::string(dtype_name(dtype)) +
                     "; counts and ids are integers, float32 or float64");
}

Result<NumberArray> numbers_of(const json& nested_lists) {
  NumberArray array;
  const Status done = append_nested(nested_lists, 0, array);
  if (!done.ok()) return done.error();
  int64_t product = 1;
  for (const int64_t size : array.shape) product *= size;
  if (product != static_cast<int64_t>(array.values.size())) {
    return corrupt_file("has rows of unequal depth");
  }
  return array;
}

}  // namespace plimsoll
