#include "serve/http/event_stream.h"

#include <algorithm>

namespace plimsoll {

Status EventStream::push(std::string_view bytes) {
  while (!bytes.empty()) {
    // A line ends with \n, \r or both; the \n may come with the next piece.
    if (after_return_ && bytes.front() == '\n') bytes.remove_prefix(1);
    after_return_ = false;
    const auto is_end = [](char c) { return c == '\n' || c == '\r'; };
    const auto end = static_cast<size_t>(std::ranges::find_if(bytes, is_end) - bytes.begin());
    line_ += bytes.substr(0, end);
    if (line_.size() + data_.size() > kMaxEventBytes) {
      return corrupt_file("an event of the stream is larger than 16 MiB");
    }
    if (end == bytes.size()) break;
    after_return_ = bytes[end] == '\r';
    bytes.remove_prefix(end + 1);
    end_line();
  }
  return ok_status();
}

void EventStream::end_line() {
  std::string_view line = line_;
  if (line.empty() && !data_.empty()) {
    listener_(std::string_view(data_).substr(0, data_.size() - 1));
    data_.clear();
  } else if (line.starts_with("data:")) {
    line.remove_prefix(5);
    if (line.starts_with(' ')) line.remove_prefix(1);
    (data_ += line) += '\n';
  }
  line_.clear();
}

}  // namespace plimsoll
