// Conversations as DeepSeek-V4 was trained to read them. The checkpoint has no template; the format
// is that of the model's own encoding_dsv4.py, here without tools:
//
//   <｜begin▁of▁sentence｜> system
//   <｜User｜> question <｜Assistant｜> <think> reasoning </think> answer <｜end▁of▁sentence｜>
//   <｜User｜> question <｜Assistant｜> <think>
//
// without line breaks or spaces around. An answer without reasoning has </think> in place of all
// that comes before it.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "model/tokenizer/tokenizer.h"
#include "plimsoll/result.h"

namespace plimsoll {

enum class ChatRole { kSystem, kUser, kAssistant };

struct ChatMessage {
  ChatRole role = ChatRole::kUser;
  std::string content;
  std::string reasoning;  // of the assistant, before the content
};

struct ChatOptions {
  bool thinking = false;      // the answer begins with reasoning
  bool drop_thinking = true;  // leave out the reasoning of earlier answers
};

// The tokens after which the model answers the last message, which must be the user's. Messages of
// the user that follow one another become one. Contents make text only: markers come from roles.
Result<std::vector<int32_t>> encode_chat(const Tokenizer& tokenizer,
                                         std::span<const ChatMessage> messages,
                                         const ChatOptions& options);

}  // namespace plimsoll
