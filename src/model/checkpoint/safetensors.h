// The safetensors file format (https://github.com/huggingface/safetensors): eight bytes of header
// length, a JSON header naming each tensor's dtype, shape and byte range, then the bytes.
//
// Nothing a header says is used before it has been held against the size of the file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/checkpoint/mapped_file.h"
#include "plimsoll/result.h"

namespace plimsoll {

enum class Dtype { kF64, kF32, kF16, kBf16, kI64, kI32, kI16, kI8, kU8, kBool, kF8E4m3, kF8E8m0 };

// "F32", "F8_E4M3", ...: the names of the format.
std::string_view dtype_name(Dtype dtype);
int dtype_bytes(Dtype dtype);

struct TensorView {
  Dtype dtype = Dtype::kF32;
  std::vector<int64_t> shape;
  std::span<const std::byte> bytes;  // little-endian, row-major
};

// "F32 [6, 64]"
std::string to_string(const TensorView& tensor);
std::string shape_to_string(std::span<const int64_t> shape);

using TensorMap = std::map<std::string, TensorView, std::less<>>;

// The tensors of a file held in memory; the views point into `file`.
Result<TensorMap> parse_safetensors(std::span<const std::byte> file);

// The tensors of one file, or of a folder's model.safetensors or the shards that its
// model.safetensors.index.json lists.
class Safetensors {
 public:
  static Result<Safetensors> open(const std::string& path);

  const TensorMap& tensors() const { return tensors_; }
  const TensorView* find(std::string_view name) const;

 private:
  Status add_file(const std::string& path);
  Status add_shards(const std::string& folder, const std::string& index_path);

  std::vector<MappedFile> files_;
  TensorMap tensors_;
};

}  // namespace plimsoll
