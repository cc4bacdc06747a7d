// Errors as values. The library never prints, aborts or throws across its face: a function that can
// fail returns Result<T> (or Status, where there is nothing to return).
#pragma once

#include <string>
#include <utility>
#include <variant>

namespace plimsoll {

enum class ErrorCode {
  kInvalidArgument,  // the caller asked for something that cannot be: the message says what can
  kCorruptFile,      // a file's bytes break its format
  kUnsupported,      // well formed, but not something this version handles
  kIo,               // the operating system refused
  kUnavailable,      // a peer or a resource is gone or full; trying again may help
};

// What went wrong: one sentence that says what was found, what was expected and what to do.
struct Error {
  ErrorCode code = ErrorCode::kInvalidArgument;
  std::string message;
};

inline Error invalid_argument(std::string message) {
  return {ErrorCode::kInvalidArgument, std::move(message)};
}
inline Error corrupt_file(std::string message) {
  return {ErrorCode::kCorruptFile, std::move(message)};
}
inline Error unsupported(std::string message) {
  return {ErrorCode::kUnsupported, std::move(message)};
}
inline Error io_error(std::string message) {
  return {ErrorCode::kIo, std::move(message)};
}
inline Error unavailable(std::string message) {
  return {ErrorCode::kUnavailable, std::move(message)};
}

// Either a T or an Error. value() and error() may only be called on the side that holds; ok()
// tells.
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}      // NOLINT: implicit
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}  // NOLINT: implicit

  bool ok() const { return state_.index() == 0; }
  explicit operator bool() const { return ok(); }

  T& value() & { return *std::get_if<0>(&state_); }
  const T& value() const& { return *std::get_if<0>(&state_); }
  T&& value() && { return std::move(*std::get_if<0>(&state_)); }
  T* operator->() { return std::get_if<0>(&state_); }
  const T* operator->() const { return std::get_if<0>(&state_); }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(*this).value(); }

  const Error& error() const { return *std::get_if<1>(&state_); }

 private:
  std::variant<T, Error> state_;
};

struct Done {};
using Status = Result<Done>;
inline Status ok_status() {
  return Done{};
}

}  // namespace plimsoll
