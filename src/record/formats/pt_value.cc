#include "record/formats/pt_value.h"

#include <algorithm>
#include <array>

namespace plimsoll {
namespace {

struct DtypeInfo {
  PtDtype dtype;
  std::string_view name;
  int bytes;
};

constexpr std::array kDtypes = {
    DtypeInfo{PtDtype::kBool, "bool", 1},     DtypeInfo{PtDtype::kUint8, "uint8", 1},
    DtypeInfo{PtDtype::kUint16, "uint16", 2}, DtypeInfo{PtDtype::kUint32, "uint32", 4},
    DtypeInfo{PtDtype::kUint64, "uint64", 8}, DtypeInfo{PtDtype::kInt8, "int8", 1},
    DtypeInfo{PtDtype::kInt16, "int16", 2},   DtypeInfo{PtDtype::kInt32, "int32", 4},
    DtypeInfo{PtDtype::kInt64, "int64", 8},   DtypeInfo{PtDtype::kF16, "float16", 2},
    DtypeInfo{PtDtype::kBf16, "bfloat16", 2}, DtypeInfo{PtDtype::kF32, "float32", 4},
    DtypeInfo{PtDtype::kF64, "float64", 8},
};

}  // namespace

std::string_view dtype_name(PtDtype dtype) {
  return std::ranges::find(kDtypes, dtype, &DtypeInfo::dtype)->name;
}
int dtype_bytes(PtDtype dtype) {
  return std::ranges::find(kDtypes, dtype, &DtypeInfo::dtype)->bytes;
}

std::string printable(std::string_view text) {
  constexpr size_t kMaxShown = 80;
  std::string shown(text.substr(0, kMaxShown));
  for (char& c : shown) {
    if (c < 0x20 || c > 0x7e) c = '?';
  }
  if (text.size() > kMaxShown) shown += "...";
  return shown;
}

std::optional<int64_t> PtValue::as_int() const {
  const auto* number = std::get_if<int64_t>(&node());
  return number ? std::optional(*number) : std::nullopt;
}

std::optional<double> PtValue::as_float() const {
  const auto* number = std::get_if<double>(&node());
  if (number) return *number;
  const auto integer = as_int();
  return integer ? std::optional(static_cast<double>(*integer)) : std::nullopt;
}

std::optional<std::string_view> PtValue::as_string() const {
  const auto* string = std::get_if<PickleString>(&node());
  if (!string) return std::nullopt;
  return std::string_view(reinterpret_cast<const char*>(pickle_->bytes.data()) + string->begin,
                          string->size);
}

const PtTensor* PtValue::as_tensor() const {
  const auto* tensor = std::get_if<PickleTensor>(&node());
  return tensor ? &pickle_->tensors[tensor->idx] : nullptr;
}

size_t PtValue::list_size() const {
  const auto* list = std::get_if<PickleList>(&node());
  return list ? pickle_->lists[list->idx].size() : 0;
}

PtValue PtValue::item(size_t idx) const {
  return PtValue(*pickle_, pickle_->lists[std::get<PickleList>(node()).idx][idx]);
}

// Of a key set twice the last value counts, as in Python.
std::optional<PtValue> PtValue::find(std::string_view key) const {
  const auto* dict = std::get_if<PickleDict>(&node());
  if (!dict) return std::nullopt;
  const auto& items = pickle_->dicts[dict->idx];
  for (size_t i = items.size(); i-- > 0;) {
    if (PtValue(*pickle_, items[i].first).as_string() == key) {
      return PtValue(*pickle_, items[i].second);
    }
  }
  return std::nullopt;
}

std::optional<int64_t> PtValue::find_int(std::string_view key) const {
  const auto value = find(key);
  return value ? value->as_int() : std::nullopt;
}

std::optional<double> PtValue::find_float(std::string_view key) const {
  const auto value = find(key);
  return value ? value->as_float() : std::nullopt;
}

std::string PtValue::find_string(std::string_view key) const {
  const auto value = find(key);
  return std::string(value ? value->as_string().value_or("") : "");
}

std::string PtValue::keys() const {
  constexpr size_t kMaxKeys = 16;
  const auto* dict = std::get_if<PickleDict>(&node());
  std::string text;
  for (size_t i = 0; dict && i < pickle_->dicts[dict->idx].size(); ++i) {
    if (i == kMaxKeys) return text + ", ...";
    const PtValue key(*pickle_, pickle_->dicts[dict->idx][i].first);
    text += (i ? ", " : "");
    text += key.as_string() ? printable(*key.as_string()) : std::to_string(*key.as_int());
  }
  return text;
}

}  // namespace plimsoll
