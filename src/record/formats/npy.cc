#include "record/formats/npy.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>

namespace plimsoll {
namespace {

constexpr std::string_view kMagic("\x93NUMPY", 6);

struct TypeCode {
  std::string_view code;
  PtDtype dtype;
};

constexpr std::array kTypeCodes = {
    TypeCode{"|b1", PtDtype::kBool},   TypeCode{"|u1", PtDtype::kUint8},
    TypeCode{"|i1", PtDtype::kInt8},   TypeCode{"<u2", PtDtype::kUint16},
    TypeCode{"<u4", PtDtype::kUint32}, TypeCode{"<u8", PtDtype::kUint64},
    TypeCode{"<i2", PtDtype::kInt16},  TypeCode{"<i4", PtDtype::kInt32},
    TypeCode{"<i8", PtDtype::kInt64},  TypeCode{"<f4", PtDtype::kF32},
    TypeCode{"<f8", PtDtype::kF64},    TypeCode{"<f2", PtDtype::kF16},
};

// The text of a field of the header, a Python dict: up to `end`, which is left out.
std::optional<std::string_view> field(std::string_view header, std::string_view name, char end) {
  const size_t key = header.find("'" + std::string(name) + "':");
  if (key == header.npos) return std::nullopt;
  std::string_view rest = header.substr(key + name.size() + 3);
  rest.remove_prefix(std::min(rest.find_first_not_of(' '), rest.size()));
  const size_t size = rest.find(end, 1);
  if (size == rest.npos) return std::nullopt;
  return rest.substr(0, size);
}

// "(64, 6, 64" or "(5," to its numbers; nothing where it is no tuple of sizes.
std::optional<std::vector<int64_t>> parse_shape(std::string_view text) {
  constexpr size_t kMaxDimensions = 8;
  if (!text.starts_with('(')) return std::nullopt;
  text.remove_prefix(1);
  std::vector<int64_t> shape;
  while (true) {
    text.remove_prefix(std::min(text.find_first_not_of(", "), text.size()));
    if (text.empty()) return shape;
    int64_t size = -1;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), size);
    if (error != std::errc() || size < 0 || shape.size() == kMaxDimensions) return std::nullopt;
    text.remove_prefix(end - text.data());
    shape.push_back(size);
  }
}

// Strides of an array without gaps; the number of its elements, or -1 where `available` are fewer.
int64_t lay_out(PtTensor& view, bool columns_first, int64_t available) {
  int64_t num_elements = 1;
  view.strides.assign(view.shape.size(), 0);
  for (size_t i = 0; i < view.shape.size(); ++i) {
    const size_t d = columns_first ? i : view.shape.size() - 1 - i;
    const int64_t size = view.shape[d];
    if (size > available || (size > 0 && num_elements > available / size)) return -1;
    view.strides[d] = num_elements;
    num_elements *= size;
  }
  return num_elements > available ? -1 : num_elements;  // a number without dimensions is one too
}

template <typename T>
std::vector<std::byte> make(std::string_view type_code,
                            std::span<const T> values,
                            std::span<const int64_t> shape) {
  std::string header =
      "{'descr': '" + std::string(type_code) + "', 'fortran_order': False, 'shape': (";
  for (const int64_t size : shape) header += std::to_string(size) + ", ";
  header += "), }";
  // The data begins at a multiple of 64 bytes: 10 bytes stand before the header, a newline ends it.
  constexpr size_t kAlignment = 64, kPrefix = 10;
  header.resize((kPrefix + header.size() + 1 + kAlignment - 1) / kAlignment * kAlignment - kPrefix,
                ' ');
  header.back() = '\n';
  std::string start(kMagic);
  start +=
      {'\1', '\0', static_cast<char>(header.size() & 255), static_cast<char>(header.size() >> 8)};
  start += header;
  const auto text = std::as_bytes(std::span(start));
  const auto data = std::as_bytes(values);
  std::vector<std::byte> file(text.begin(), text.end());
  file.insert(file.end(), data.begin(), data.end());
  return file;
}

}  // namespace

Result<NumberArray> parse_npy(std::span<const std::byte> file) {
  const std::string_view text(reinterpret_cast<const char*>(file.data()), file.size());
  if (!text.starts_with(kMagic) || file.size() < 12) return corrupt_file("is no .npy file");
  const bool is_version_1 = text[6] == 1;
  const size_t begin = is_version_1 ? 10 : 12;
  uint32_t header_size = 0;
  std::memcpy(&header_size, file.data() + 8, is_version_1 ? 2 : 4);
  if (header_size > file.size() - begin) return corrupt_file("ends within its header");
  const std::string_view header = text.substr(begin, header_size);
  const auto data = file.subspan(begin + header_size);

  const auto descr = field(header, "descr", ',');
  const auto order = field(header, "fortran_order", ',');
  const auto shape_text = field(header, "shape", ')');
  if (!descr || !order || !shape_text) {
    return corrupt_file("lacks descr, fortran_order or shape in its header");
  }
  const auto known = std::ranges::find_if(kTypeCodes, [&](const TypeCode& type) {
    return *descr == "'" + std::string(type.code) + "'";
  });
  if (known == kTypeCodes.end()) {
    return unsupported("holds " + printable(*descr) +
                       "; only little-endian integers, float16, float32 and float64 are read");
  }
  auto shape = parse_shape(*shape_text);
  if (!shape) return corrupt_file("has shape " + printable(*shape_text) + ")");
  PtTensor view{.shape = std::move(*shape)};
  const int64_t available = std::ssize(data) / dtype_bytes(known->dtype);
  if (lay_out(view, *order == "True", available) < 0) {
    return corrupt_file("has shape " + shape_to_text(view.shape) + ", but only " +
                        std::to_string(data.size()) + " bytes of data");
  }
  return numbers_of(data, known->dtype, view);
}

std::vector<std::byte> make_npy(std::span<const int32_t> values, std::span<const int64_t> shape) {
  return make("<i4", values, shape);
}

std::vector<std::byte> make_npy(std::span<const int64_t> values, std::span<const int64_t> shape) {
  return make("<i8", values, shape);
}

}  // namespace plimsoll
