// What a decoded pickle holds: plain values, lists, dicts and tensors.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace plimsoll {

enum class PtDtype {
  kBool,
  kUint8,
  kUint16,
  kUint32,
  kUint64,
  kInt8,
  kInt16,
  kInt32,
  kInt64,
  kF16,
  kBf16,
  kF32,
  kF64
};

std::string_view dtype_name(PtDtype dtype);  // "int32"
int dtype_bytes(PtDtype dtype);

// The bytes that tensors point into, by the key of their place in the file.
struct PtStorage {
  PtDtype dtype = PtDtype::kF32;
  std::string key;
  int64_t num_elements = 0;
  std::vector<std::byte> bytes;  // of a legacy file; else they stay in the archive (PtFile::read)
};

// A view of a storage. Every element lies within it.
struct PtTensor {
  int storage_idx = 0;
  int64_t offset = 0;            // in elements
  std::vector<int64_t> shape;    // product of at most the storage's elements, or kMaxExpanded
  std::vector<int64_t> strides;  // in elements
};

// torch.arange(64).expand(6, 64) has more elements than bytes; this many are accepted.
inline constexpr int64_t kMaxExpandedElements = 1 << 20;

using PickleId = uint32_t;  // index of a node

struct PickleString {
  uint32_t begin;  // in Pickle::bytes
  uint32_t size;
};
struct PickleList {  // or tuple
  uint32_t idx;      // in Pickle::lists
};
struct PickleDict {  // or OrderedDict
  uint32_t idx;      // in Pickle::dicts
};
struct PickleTensor {
  uint32_t idx;  // in Pickle::tensors
};
struct PickleStorage {
  uint32_t idx;  // in Pickle::storages
};
struct PickleGlobal {
  uint32_t idx;  // in the list of what is allowed
};
using PickleNode = std::variant<std::monostate,
                                bool,
                                int64_t,
                                double,
                                PickleString,
                                PickleList,
                                PickleDict,
                                PickleTensor,
                                PickleStorage,
                                PickleGlobal>;

// A decoded pickle. Lists and dicts may be shared, and may even contain themselves: walk it by what
// you expect to find, never to the end.
struct Pickle {
  std::span<const std::byte> bytes;  // what was decoded, STOP included; strings point into it
  std::vector<PickleNode> nodes;
  std::vector<std::vector<PickleId>> lists;
  std::vector<std::vector<std::pair<PickleId, PickleId>>> dicts;  // in the order they were set
  std::vector<PtTensor> tensors;
  std::vector<PtStorage> storages;
  PickleId root = 0;
};

// Names from a file, made fit to print: at most 80 characters, none of them a control character.
std::string printable(std::string_view text);

// A value within a Pickle: cheap to copy, valid as long as the Pickle.
class PtValue {
 public:
  PtValue(const Pickle& pickle, PickleId id) : pickle_(&pickle), id_(id) {}

  bool is_none() const { return std::holds_alternative<std::monostate>(node()); }
  std::optional<int64_t> as_int() const;
  std::optional<double> as_float() const;  // of an int too
  std::optional<std::string_view> as_string() const;
  const PtTensor* as_tensor() const;

  bool is_list() const { return std::holds_alternative<PickleList>(node()); }
  size_t list_size() const;  // 0 where it is none
  PtValue item(size_t idx) const;

  bool is_dict() const { return std::holds_alternative<PickleDict>(node()); }
  std::optional<PtValue> find(std::string_view key) const;  // nothing where it is no dict
  std::optional<int64_t> find_int(std::string_view key) const;
  std::optional<double> find_float(std::string_view key) const;
  std::string find_string(std::string_view key) const;  // empty where there is none
  std::string keys() const;                             // "rank, logical_count", for messages

 private:
  const PickleNode& node() const { return pickle_->nodes[id_]; }
  const Pickle* pickle_;
  PickleId id_;
};

}  // namespace plimsoll
