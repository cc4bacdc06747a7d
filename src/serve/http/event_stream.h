// Server-sent events (WHATWG HTML, "Server-sent events"), as OpenAI's API streams answers.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "plimsoll/result.h"

namespace plimsoll {

// Takes the bytes of a stream in pieces of any size, and hands on the data of every whole event.
class EventStream {
 public:
  using Listener = std::function<void(std::string_view data)>;
  explicit EventStream(Listener listener) : listener_(std::move(listener)) {}

  // Fails on a line or an event above kMaxEventBytes.
  Status push(std::string_view bytes);

  static constexpr size_t kMaxEventBytes = 16 * 1024 * 1024;

 private:
  void end_line();

  Listener listener_;
  std::string line_;
  std::string data_;  // of the event so far, a newline after each of its lines
  bool after_return_ = false;
};

}  // namespace plimsoll
