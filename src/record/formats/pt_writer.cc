#include "record/formats/pt_writer.h"

#include <bit>
#include <limits>

namespace plimsoll {
namespace {

constexpr std::string_view kFolder = "archive/";

ZipEntry text_entry(std::string_view name, std::string_view text) {
  const auto bytes = std::as_bytes(std::span(text));
  return {std::string(kFolder) + std::string(name), {bytes.begin(), bytes.end()}};
}

}  // namespace

void PtWriter::emit_number(uint64_t value, int num_bytes) {
  for (int i = 0; i < num_bytes; ++i) pickle_ += static_cast<char>(value >> (8 * i));
}

void PtWriter::string(std::string_view text) {
  emit("X");
  emit_number(text.size(), 4);
  emit(text);
}

void PtWriter::integer(int64_t value) {
  if (value >= 0 && value < 256) {
    emit("K");
    emit_number(value, 1);
  } else if (value >= std::numeric_limits<int32_t>::min() &&
             value <= std::numeric_limits<int32_t>::max()) {
    emit("J");
    emit_number(value, 4);
  } else {
    emit("\x8a\x08");
    emit_number(value, 8);
  }
}

void PtWriter::real(double value) {
  emit("G");
  const auto bits = std::bit_cast<uint64_t>(value);
  for (int i = 7; i >= 0; --i) emit_number(bits >> (8 * i), 1);  // big-endian
}

void PtWriter::integers(std::span<const int32_t> values) {
  begin_list();
  for (const int32_t value : values) integer(value);
  end_list();
}

void PtWriter::tuple(std::span<const int64_t> values) {
  emit("(");
  for (const int64_t value : values) integer(value);
  emit("t");
}

void PtWriter::tensor(std::span<const int32_t> values, std::span<const int64_t> shape) {
  tensor(std::as_bytes(values), "IntStorage", std::ssize(values), shape);
}

void PtWriter::tensor(std::span<const int64_t> values, std::span<const int64_t> shape) {
  tensor(std::as_bytes(values), "LongStorage", std::ssize(values), shape);
}

// _rebuild_tensor_v2(storage, offset, shape, strides, requires_grad, OrderedDict())
void PtWriter::tensor(std::span<const std::byte> bytes,
                      std::string_view storage_type,
                      int64_t num_elements,
                      std::span<const int64_t> shape) {
  const std::string key = std::to_string(storages_.size());
  storages_.push_back({std::string(kFolder) + "data/" + key, {bytes.begin(), bytes.end()}});
  std::vector<int64_t> strides(shape.size(), 1);
  for (size_t d = shape.size(); d-- > 1;) strides[d - 1] = strides[d] * shape[d];

  emit("ctorch._utils\n_rebuild_tensor_v2\n((");
  string("storage");
  emit("ctorch\n");
  emit(storage_type);
  emit("\n");
  string(key);
  string("cpu");
  integer(num_elements);
  emit("tQ");
  integer(0);
  tuple(shape);
  tuple(strides);
  emit("\x89");
  emit("ccollections\nOrderedDict\n)RtR");
}

Result<std::vector<std::byte>> PtWriter::finish() {
  emit(".");
  std::vector<ZipEntry> entries = {text_entry("data.pkl", pickle_),
                                   text_entry("byteorder", "little")};
  for (ZipEntry& storage : storages_) entries.push_back(std::move(storage));
  entries.push_back(text_entry("version", "3\n"));
  return make_zip(entries);
}

}  // namespace plimsoll
