#include "record/formats/number_array.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
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

int64_t num_elements(const PtTensor& tensor) {
  int64_t product = 1;
  for (const int64_t size : tensor.shape) product *= size;
  return product;
}

// Elements from the first of the tensor to its last, gaps included; 0 where it has none.
int64_t extent_of(const PtTensor& tensor) {
  if (num_elements(tensor) == 0) return 0;
  int64_t last = 0;
  for (size_t d = 0; d < tensor.shape.size(); ++d)
    last += (tensor.shape[d] - 1) * tensor.strides[d];
  return last + 1;
}

Status read_extent(const PtFile& file, const PtTensor& tensor, std::vector<std::byte>& bytes) {
  const PtStorage& storage = file.storage(tensor);
  const auto width = static_cast<size_t>(dtype_bytes(storage.dtype));
  bytes.resize(extent_of(tensor) * width);
  if (bytes.empty()) return ok_status();
  return file.read(storage, tensor.offset * width, bytes);
}

// Half-precision numbers as float32.
struct Half {
  uint16_t bits;
  // From here on not every whole number can be told from its neighbours.
  static constexpr float kLeastRounded = 2048;
  float value() const {
    const int exponent = bits >> 10 & 31;
    const auto fraction = static_cast<float>(bits & 1023);
    if (exponent == 31) return std::numeric_limits<float>::infinity();
    const float size =
        exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25);
    return bits >> 15 ? -size : size;
  }
};
struct Bfloat {
  uint16_t bits;
  static constexpr float kLeastRounded = 256;
  float value() const { return std::bit_cast<float>(uint32_t{bits} << 16); }
};

template <typename T>
Result<NumberArray> convert_half(const PtTensor& tensor,
                                 const std::byte* data,
                                 std::string_view type) {
  NumberArray array{tensor.shape, {}};
  const bool good = for_each_element(tensor, [&](int64_t position) {
    T element;
    std::memcpy(&element, data + position * static_cast<int64_t>(sizeof(T)), sizeof(T));
    const float value = element.value();
    array.values.push_back(std::abs(value) < T::kLeastRounded ? std::lround(value) : 0);
    return std::abs(value) < T::kLeastRounded && static_cast<float>(array.values.back()) == value;
  });
  if (good) return array;
  return unsupported("is of type " + std::string(type) +
                     ", which rounds: not all of its numbers are whole and below " +
                     std::to_string(static_cast<int>(T::kLeastRounded)) +
                     "; save counts as int32 or int64");
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

Status for_each_slice(const PtFile& file, const PtTensor& tensor, const EachSlice& each) {
  PtTensor slice{.storage_idx = tensor.storage_idx,
                 .offset = tensor.offset,
                 .shape = {tensor.shape.begin() + 1, tensor.shape.end()},
                 .strides = {tensor.strides.begin() + 1, tensor.strides.end()}};
  // Where slices lie one after the other each is read by itself; else, as in a transposed tensor,
  // all that they lie in is kept.
  const bool apart = tensor.strides[0] >= extent_of(slice);
  std::vector<std::byte> buffer;
  if (!apart) {
    if (Status read = read_extent(file, tensor, buffer); !read.ok()) return read;
  }
  for (int64_t i = 0; i < tensor.shape[0]; ++i) {
    slice.offset = apart ? tensor.offset + i * tensor.strides[0] : i * tensor.strides[0];
    if (apart) {
      if (Status read = read_extent(file, slice, buffer); !read.ok()) return read;
      slice.offset = 0;
    }
    Result<NumberArray> numbers = numbers_of(buffer, file.storage(tensor).dtype, slice);
    if (!numbers.ok()) return numbers.error();
    if (Status done = each(*numbers); !done.ok()) return done;
  }
  return ok_status();
}

Result<NumberArray> numbers_of(const PtFile& file, const PtTensor& tensor) {
  const PtStorage& storage = file.storage(tensor);
  if (tensor.shape.empty()) {
    std::vector<std::byte> buffer;
    if (Status read = read_extent(file, tensor, buffer); !read.ok()) return read.error();
    PtTensor scalar = tensor;
    scalar.offset = 0;
    return numbers_of(buffer, storage.dtype, scalar);
  }
  NumberArray array{tensor.shape, {}};
  array.values.reserve(num_elements(tensor));
  const Status read = for_each_slice(file, tensor, [&](const NumberArray& slice) {
    array.values.insert(array.values.end(), slice.values.begin(), slice.values.end());
    array.rounded |= slice.rounded;
    return ok_status();
  });
  if (!read.ok()) return read.error();
  return array;
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
      return convert_half<Half>(view, bytes.data(), dtype_name(dtype));
    case PtDtype::kBf16:
      return convert_half<Bfloat>(view, bytes.data(), dtype_name(dtype));
  }
  return unsupported("is of type " + std::string(dtype_name(dtype)));
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
