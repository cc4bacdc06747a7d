#include "serve/openai/answer_text.h"

#include <algorithm>

namespace plimsoll {

std::string AnswerText::push(int32_t token) {
  if (stopped_) return "";
  if (in_reasoning() && token == reasoning_end_) {
    reasoning_end_ = -1;
    return finish();
  }
  held_ += decoder_.push(token);
  return release(/*is_end=*/false);
}

std::string AnswerText::finish() {
  if (stopped_) return "";
  held_ += decoder_.finish();
  return release(/*is_end=*/true);
}

std::string AnswerText::release(bool is_end) {
  size_t num_safe = held_.size();
  for (const std::string& stop : *stops_) {
    const size_t found = held_.find(stop);
    if (found != std::string::npos) {
      stopped_ = true;
      num_safe = std::min(num_safe, found);
    }
  }
  if (!stopped_ && !is_end) {
    for (const std::string& stop : *stops_) {
      for (size_t length = std::min(stop.size() - 1, held_.size()); length > 0; --length) {
        if (!held_.ends_with(std::string_view(stop).substr(0, length))) continue;
        num_safe = std::min(num_safe, held_.size() - length);
        break;
      }
    }
  }
  std::string text = held_.substr(0, num_safe);
  held_.erase(0, num_safe);
  return text;
}

}  // namespace plimsoll
