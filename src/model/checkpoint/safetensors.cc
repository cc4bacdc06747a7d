#include "model/checkpoint/safetensors.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <filesystem>
#include <set>

#include "record/formats/json_text.h"

namespace plimsoll {
namespace {

using nlohmann::json;

struct DtypeInfo {
  Dtype dtype;
  std::string_view name;
  int bytes;
};

constexpr std::array kDtypes = {
    DtypeInfo{Dtype::kF64, "F64", 8},        DtypeInfo{Dtype::kF32, "F32", 4},
    DtypeInfo{Dtype::kF16, "F16", 2},        DtypeInfo{Dtype::kBf16, "BF16", 2},
    DtypeInfo{Dtype::kI64, "I64", 8},        DtypeInfo{Dtype::kI32, "I32", 4},
    DtypeInfo{Dtype::kI16, "I16", 2},        DtypeInfo{Dtype::kI8, "I8", 1},
    DtypeInfo{Dtype::kU8, "U8", 1},          DtypeInfo{Dtype::kBool, "BOOL", 1},
    DtypeInfo{Dtype::kF8E4m3, "F8_E4M3", 1}, DtypeInfo{Dtype::kF8E8m0, "F8_E8M0", 1},
};

constexpr size_t kLengthBytes = 8;
constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // as in the reference implementation
constexpr size_t kMaxDimensions = 8;

const DtypeInfo& info(Dtype dtype) {
  return *std::ranges::find(kDtypes, dtype, &DtypeInfo::dtype);
}

// A non-negative integer of at most `limit`, or -1.
int64_t bounded(const json& value, uint64_t limit) {
  if (!value.is_number_integer()) return -1;
  if (!value.is_number_unsigned() && value.get<int64_t>() < 0) return -1;
  return value.get<uint64_t>() <= limit ? value.get<int64_t>() : -1;
}

Result<TensorView> parse_tensor(const json& entry, std::span<const std::byte> data) {
  TensorView tensor;
  const json& dtype = member(entry, "dtype");
  const auto known = std::ranges::find_if(kDtypes, [&](const DtypeInfo& candidate) {
    return dtype.is_string() && dtype.get_ref<const std::string&>() == candidate.name;
  });
  if (known == kDtypes.end()) return unsupported("has the unknown dtype " + excerpt(dtype));
  tensor.dtype = known->dtype;

  const json& shape = member(entry, "shape");
  if (!shape.is_array() || shape.size() > kMaxDimensions) {
    return corrupt_file("has no shape of at most " + std::to_string(kMaxDimensions) +
                        " dimensions");
  }
  uint64_t num_bytes = known->bytes;
  for (const json& dimension : shape) {
    const int64_t size = bounded(dimension, data.size());
    if (size < 0 || (size > 0 && num_bytes > data.size() / size)) {
      return corrupt_file("has shape " + excerpt(shape) + ", more than the file holds");
    }
    num_bytes *= size;
    tensor.shape.push_back(size);
  }

  const json& offsets = member(entry, "data_offsets");
  const bool is_pair = offsets.is_array() && offsets.size() == 2;
  const int64_t begin = is_pair ? bounded(offsets[0], data.size()) : -1;
  const int64_t end = is_pair ? bounded(offsets[1], data.size()) : -1;
  if (begin < 0 || end < begin) {
    return corrupt_file("has data_offsets " + excerpt(offsets) + ", but the file holds " +
                        std::to_string(data.size()) + " bytes of data");
  }
  if (static_cast<uint64_t>(end - begin) != num_bytes) {
    return corrupt_file("has " + std::to_string(end - begin) + " bytes, but its shape " +
                        excerpt(shape) + " needs " + std::to_string(num_bytes));
  }
  tensor.bytes = data.subspan(begin, end - begin);
  return tensor;
}

// Two tensors that share bytes are a sign of a forged header.
Status check_no_overlap(const TensorMap& tensors) {
  std::vector<std::pair<const std::byte*, const TensorMap::value_type*>> by_place;
  for (const auto& entry : tensors) {
    if (!entry.second.bytes.empty()) by_place.push_back({entry.second.bytes.data(), &entry});
  }
  std::ranges::sort(by_place);
  for (size_t i = 1; i < by_place.size(); ++i) {
    const auto& [name, previous] = *by_place[i - 1].second;
    if (previous.bytes.data() + previous.bytes.size() > by_place[i].first) {
      return corrupt_file("its tensors " + name + " and " + by_place[i].second->first + " overlap");
    }
  }
  return ok_status();
}

}  // namespace

std::string_view dtype_name(Dtype dtype) {
  return info(dtype).name;
}
int dtype_bytes(Dtype dtype) {
  return info(dtype).bytes;
}

std::string shape_to_string(std::span<const int64_t> shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

std::string to_string(const TensorView& tensor) {
  return std::string(dtype_name(tensor.dtype)) + " " + shape_to_string(tensor.shape);
}

Result<TensorMap> parse_safetensors(std::span<const std::byte> file) {
  uint64_t header_bytes = 0;
  if (file.size() < kLengthBytes) {
    return corrupt_file("it has " + std::to_string(file.size()) +
                        " bytes, too few for a safetensors header");
  }
  std::memcpy(&header_bytes, file.data(), kLengthBytes);
  if (header_bytes > file.size() - kLengthBytes) {
    return corrupt_file("its header claims " + std::to_string(header_bytes) + " bytes, but only " +
                        std::to_string(file.size() - kLengthBytes) +
                        " follow; the file is truncated or not safetensors");
  }
  if (header_bytes > kMaxHeaderBytes) {
    return corrupt_file("its header claims " + std::to_string(header_bytes) +
                        " bytes; the format allows " + std::to_string(kMaxHeaderBytes));
  }
  const auto* text = reinterpret_cast<const char*>(file.data()) + kLengthBytes;
  const Result<json> header = parse_json({text, header_bytes});
  if (!header.ok()) return Error{header.error().code, "its header " + header.error().message};
  if (!header->is_object()) return corrupt_file("its header is not a JSON object");
  const auto data = file.subspan(kLengthBytes + header_bytes);

  TensorMap tensors;
  for (const auto& [name, entry] : header->items()) {
    if (name == "__metadata__") continue;
    Result<TensorView> tensor = parse_tensor(entry, data);
    if (!tensor.ok()) {
      return Error{tensor.error().code, "its tensor " + name + " " + tensor.error().message};
    }
    tensors.emplace(name, std::move(*tensor));
  }
  if (Status status = check_no_overlap(tensors); !status.ok()) return status.error();
  return tensors;
}

Result<Safetensors> Safetensors::open(const std::string& path) {
  namespace fs = std::filesystem;
  std::error_code ignored;
  Safetensors all;
  Status status = ok_status();
  if (!fs::is_directory(path, ignored)) {
    status = all.add_file(path);
  } else if (const std::string index = path + "/model.safetensors.index.json";
             fs::exists(index, ignored)) {
    status = all.add_shards(path, index);
  } else {
    status = all.add_file(path + "/model.safetensors");
  }
  if (!status.ok()) return status.error();
  return all;
}

Status Safetensors::add_file(const std::string& path) {
  Result<MappedFile> file = MappedFile::open(path);
  if (!file.ok()) return file.error();
  Result<TensorMap> tensors = parse_safetensors(file->bytes());
  if (!tensors.ok()) return Error{tensors.error().code, path + ": " + tensors.error().message};
  files_.push_back(std::move(*file));
  for (auto& [name, tensor] : *tensors) {
    if (!tensors_.emplace(name, std::move(tensor)).second) {
      return corrupt_file(path + ": its tensor " + name + " stands in an earlier shard too");
    }
  }
  return ok_status();
}

Status Safetensors::add_shards(const std::string& folder, const std::string& index_path) {
  const Result<MappedFile> file = MappedFile::open(index_path);
  if (!file.ok()) return file.error();
  const Result<json> index = parse_json(file->text());
  if (!index.ok()) return Error{index.error().code, index_path + " " + index.error().message};
  const json& map = member(*index, "weight_map");
  if (!map.is_object()) {
    return corrupt_file(index_path + " has no weight_map of tensor to file");
  }
  std::set<std::string> shards;
  for (const auto& [name, shard] : map.items()) {
    const std::string file_name = shard.is_string() ? shard.get<std::string>() : "";
    if (file_name.empty() || file_name.find('/') != std::string::npos) {
      return corrupt_file(index_path + ": tensor " + name +
                          " has no file beside the index: " + excerpt(shard));
    }
    shards.insert(file_name);
  }
  for (const std::string& shard : shards) {
    if (Status status = add_file(folder + "/" + shard); !status.ok()) return status;
  }
  for (const auto& [name, shard] : map.items()) {
    if (find(name) == nullptr) {
      return corrupt_file(index_path + " lists tensor " + name + ", which no shard holds");
    }
  }
  return ok_status();
}

const TensorView* Safetensors::find(std::string_view name) const {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? nullptr : &found->second;
}

}  // namespace plimsoll
