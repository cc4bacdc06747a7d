#include "model/tokenizer/chat.h"

#include <utility>

namespace plimsoll {
namespace {

// Collects text up to the next marker, so that it becomes tokens as a whole; keeps the first error.
class Prompt {
 public:
  explicit Prompt(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}

  void text(std::string_view text) { text_ += text; }

  void marker(std::string_view marker) {
    flush();
    const int32_t id = tokenizer_.added_token(marker);
    if (id < 0 && status_.ok()) {
      status_ = unsupported("the tokenizer has no token " + std::string(marker) +
                            ", which chat needs; send plain prompts instead");
    }
    ids_.push_back(id);
  }

  Result<std::vector<int32_t>> finish() {
    flush();
    if (!status_.ok()) return status_.error();
    return std::move(ids_);
  }

 private:
  void flush() {
    const Result<std::vector<int32_t>> ids = tokenizer_.encode_plain(text_);
    if (ids.ok()) {
      ids_.insert(ids_.end(), ids->begin(), ids->end());
    } else if (status_.ok()) {
      status_ = ids.error();
    }
    text_.clear();
  }

  const Tokenizer& tokenizer_;
  std::string text_;
  std::vector<int32_t> ids_;
  Status status_ = ok_status();
};

}  // namespace

Result<std::vector<int32_t>> encode_chat(const Tokenizer& tokenizer,
                                         std::span<const ChatMessage> messages,
                                         const ChatOptions& options) {
  if (messages.empty() || messages.back().role != ChatRole::kUser) {
    return invalid_argument("the conversation must end with a message of the user");
  }
  const bool keeps_reasoning = options.thinking && !options.drop_thinking;
  Prompt prompt(tokenizer);
  prompt.marker("<｜begin▁of▁sentence｜>");
  for (size_t i = 0; i < messages.size(); ++i) {
    const ChatMessage& message = messages[i];
    const bool is_last = i + 1 == messages.size();
    switch (message.role) {
      case ChatRole::kSystem:
        prompt.text(message.content);
        break;
      case ChatRole::kUser:
        if (i > 0 && messages[i - 1].role == ChatRole::kUser) {
          prompt.text("\n\n");
        } else {
          prompt.marker("<｜User｜>");
        }
        prompt.text(message.content);
        if (is_last || messages[i + 1].role == ChatRole::kAssistant) {
          prompt.marker("<｜Assistant｜>");
          const bool reasons = is_last ? options.thinking : keeps_reasoning;
          prompt.marker(reasons ? "<think>" : "</think>");
        }
        break;
      case ChatRole::kAssistant:
        if (keeps_reasoning) {
          prompt.text(message.reasoning);
          prompt.marker("</think>");
        }
        prompt.text(message.content);
        prompt.marker("<｜end▁of▁sentence｜>");
        break;
    }
  }
  return prompt.finish();
}

}  // namespace plimsoll
