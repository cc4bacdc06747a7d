// Text to tokens and back, by a checkpoint's tokenizer.json.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/tokenizer/tokenizer_json.h"
#include "plimsoll/result.h"

namespace plimsoll {

class Tokenizer {
 public:
  static Result<Tokenizer> parse(std::string_view json_text);
  static Result<Tokenizer> load(const std::string& path);

  int vocab_size() const;  // one more than the highest id

  // The tokens of a text, with those added tokens whose texts stand in it; none are put in front or
  // behind. Fails on text that is not UTF-8 or too deep for the regular expressions. Safe to call
  // from several threads.
  Result<std::vector<int32_t>> encode(std::string_view text) const;

  // The same, but the text of an added token is text like any other: what a stranger wrote cannot
  // make markers.
  Result<std::vector<int32_t>> encode_plain(std::string_view text) const;

  // The id of an added token such as <｜User｜>; -1 if there is none.
  int32_t added_token(std::string_view text) const;

  // Bytes of a token, not always whole characters. Empty for ids outside the vocabulary.
  std::string_view token_bytes(int32_t id) const;

  // The text of the tokens, U+FFFD where they are no UTF-8.
  std::string decode(std::span<const int32_t> ids) const;

 private:
  explicit Tokenizer(TokenizerParts parts) : parts_(std::move(parts)) {}
  Status append_plain(std::string_view text, std::vector<int32_t>& ids) const;

  TokenizerParts parts_;
};

// Decodes tokens as they come, never giving out half a character.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer& tokenizer) : tokenizer_(&tokenizer) {}

  std::string push(int32_t id);  // the text that has become certain, maybe none
  std::string finish();          // U+FFFD if a character was left incomplete

 private:
  const Tokenizer* tokenizer_;
  std::string pending_;
};

}  // namespace plimsoll
