// Plain structs as bytes and back, between processes of one build on machines of one byte order.
//
// A struct says once what its fields are, for both directions, in a function found beside it:
//   template <typename Stream> void transfer(Stream& stream, SegmentPlan& plan) {
//     stream(plan.sequence_id, plan.tokens, ...);
//   }
// Numbers and enumerations, strings, and vectors of anything that can be transferred are known.
#pragma once

#include <cstddef>
#include <cstring>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

namespace plimsoll {

template <typename T>
inline constexpr bool is_plain_number =
    std::is_arithmetic_v<T> || std::is_enum_v<T> || std::is_same_v<T, std::byte>;

class ByteWriter {
 public:
  template <typename... Ts>
  void operator()(const Ts&... values) {
    (put(values), ...);
  }
  std::vector<std::byte> take() && { return std::move(bytes_); }

 private:
  template <typename T>
  void put(const T& value) {
    if constexpr (is_plain_number<T>) {
      append(&value, sizeof value);
    } else {
      transfer(*this, const_cast<T&>(value));  // reads only: the same function serves ByteReader
    }
  }
  void put(const std::string& text) {
    put(text.size());
    append(text.data(), text.size());
  }
  template <typename T>
  void put(const std::vector<T>& values) {
    put(values.size());
    if constexpr (is_plain_number<T>) {
      append(values.data(), values.size() * sizeof(T));
    } else {
      for (const T& value : values) put(value);
    }
  }
  void append(const void* data, size_t size) {
    const auto* bytes = static_cast<const std::byte*>(data);
    bytes_.insert(bytes_.end(), bytes, bytes + size);
  }

  std::vector<std::byte> bytes_;
};

// Past the end of its bytes, or at a length that they cannot hold, it reads zeros and is not ok().
class ByteReader {
 public:
  explicit ByteReader(std::span<const std::byte> bytes) : bytes_(bytes) {}

  template <typename... Ts>
  void operator()(Ts&... values) {
    (get(values), ...);
  }
  bool ok() const { return ok_; }
  // Whether all of the bytes were read, and no more.
  bool finished() const { return ok_ && bytes_.empty(); }

 private:
  template <typename T>
  void get(T& value) {
    if constexpr (is_plain_number<T>) {
      value = {};
      take(&value, sizeof value);
    } else {
      transfer(*this, value);
    }
  }
  void get(std::string& text) {
    text.resize(length(1));
    take(text.data(), text.size());
  }
  template <typename T>
  void get(std::vector<T>& values) {
    // Every element takes a byte at least, so a wrong length cannot ask for memory without end.
    values.resize(length(is_plain_number<T> ? sizeof(T) : 1));
    if constexpr (is_plain_number<T>) {
      take(values.data(), values.size() * sizeof(T));
    } else {
      for (T& value : values) get(value);
    }
  }
  size_t length(size_t min_element_bytes) {
    size_t count = 0;
    get(count);
    if (count > bytes_.size() / min_element_bytes) ok_ = false;
    return ok_ ? count : 0;
  }
  void take(void* data, size_t size) {
    if (size > bytes_.size()) ok_ = false;
    if (!ok_ || size == 0) return;
    std::memcpy(data, bytes_.data(), size);
    bytes_ = bytes_.subspan(size);
  }

  std::span<const std::byte> bytes_;
  bool ok_ = true;
};

template <typename T>
std::vector<std::byte> to_bytes(const T& value) {
  ByteWriter writer;
  writer(value);
  return std::move(writer).take();
}

// False where the bytes are not exactly one T.
template <typename T>
bool from_bytes(std::span<const std::byte> bytes, T& value) {
  ByteReader reader(bytes);
  reader(value);
  return reader.finished();
}

}  // namespace plimsoll
