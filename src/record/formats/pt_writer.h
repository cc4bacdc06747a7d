// Writes .pt files that torch.load(weights_only=True) reads: values are given in the order they are
// to stand, dicts and lists opened and closed like brackets.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "plimsoll/result.h"
#include "record/formats/zip.h"

namespace plimsoll {

class PtWriter {
 public:
  PtWriter() { emit("\x80\x02"); }  // protocol 2, torch.save's

  void begin_dict() { emit("}("); }
  void key(std::string_view name) { string(name); }
  void end_dict() { emit("u"); }
  void begin_list() { emit("]("); }
  void end_list() { emit("e"); }

  void none() { emit("N"); }
  void string(std::string_view text);
  void integer(int64_t value);
  void real(double value);
  void integers(std::span<const int32_t> values);  // a list, not a tensor
  // A contiguous CPU tensor of the product of `shape` values.
  void tensor(std::span<const int32_t> values, std::span<const int64_t> shape);
  void tensor(std::span<const int64_t> values, std::span<const int64_t> shape);

  // The whole file. The writer is used up.
  Result<std::vector<std::byte>> finish();

 private:
  void emit(std::string_view bytes) { pickle_ += bytes; }
  void emit_number(uint64_t value, int num_bytes);
  void tensor(std::span<const std::byte> bytes,
              std::string_view storage_type,
              int64_t num_elements,
              std::span<const int64_t> shape);
  void tuple(std::span<const int64_t> values);

  std::string pickle_;
  std::vector<ZipEntry> storages_;
};

}  // namespace plimsoll
